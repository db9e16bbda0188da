"""The words of scenario files, and the notation of sizes and node lists."""

import re

BASE_PAGE = 4096
FIRST_ADDRESS = 0x10000000
MAX_NODES = 1024  # MAX_NUMNODES of x86-64 and arm64 as distributions build them
MAX_CPUS = 8192  # NR_CPUS of the same kernels
MAX_MEMORY = 8 << 40  # frame numbers are 31 bits wide

KINDS = ["anon", "cow", "shmem", "file", "ksm", "swapcache", "movable_ops", "hugetlb"]
STATES = [
    "extra_ref",
    "pinned",
    "locked",
    "writeback",
    "freed",
    "private",
    "buffers_locked",
    "temp_stack",
    "isolated",
    "partially_mapped",
    "prot_none",
    "driver_eagain",
    "driver_error",
    "released",
    "zero_page",
    "untouched",
    "huge_dst_unavailable",
    "zero",
    "poisoned",
    "dirty",
    "young",
]
LASTING = ("zero", "poisoned")  # states that do not end
MAPPED_TWICE = ("shmem", "file")  # kinds that one process can map twice
FRAMELESS = ("untouched", "zero_page")  # states of a page without its own frame
SYSCALLS = ["migrate_pages", "move_pages", "mbind", "kernel"]
MODES = ["async", "sync_light", "sync"]

# Kernel callers of migrate_pages(), with the mode that each uses.  Compaction uses all
# three: kcompactd sync_light, an allocation's first try async, and
# /proc/sys/vm/compact_memory sync.
CALLER_MODES = {
    "compaction": "sync_light",
    "numa_balancing": "async",
    "demotion": "async",
    "memory_offline": "sync",
    "cma": "sync",
    "longterm_pin": "sync",
    "soft_offline": "sync",
    "damon": "async",
}
# The same callers by the reason that Linux's trace points print.
CALLER_REASONS = {
    "numa_misplaced": "numa_balancing",
    "memory_hotplug": "memory_offline",
    "hotplug": "memory_offline",
    "contig_range": "cma",
    "memory_failure": "soft_offline",
}

FLAGS = {"strict": 1, "move": 2, "move_all": 4}  # MPOL_MF_*
POLICIES = [
    "default",
    "preferred",
    "bind",
    "interleave",
    "local",
    "preferred_many",
    "weighted_interleave",
]

ENGINE = re.compile(r"cpu|(?:threads|dma):[1-9][0-9]{0,8}")  # that copies

_SIZE = re.compile(r"([0-9]{1,19})([kmgt]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_RANGE = r"(?:[0-9]{1,9}(?:-[0-9]{1,9})?)"
_NODES = re.compile(rf"(?:[!+]?(?:all|{_RANGE}(?:,{_RANGE})*))?")


def size_of(text: str) -> int | None:
    """Bytes of a size such as `4000k` or `1g`; None if `text` is no size."""
    found = _SIZE.fullmatch(text)
    return int(found[1]) * _UNITS[found[2].lower()] if found else None


def size_text(size: int) -> str:
    """`size` with the largest suffix that divides it."""
    for unit in ("g", "m", "k"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def is_node_string(text: str) -> bool:
    """Whether libnuma could read `text` as a set of nodes (an empty one included)."""
    return _NODES.fullmatch(text) is not None
