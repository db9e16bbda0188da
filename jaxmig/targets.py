"""What to migrate: a live process, a snapshot file or a workload, as a Machine.

    4711                      a process, its page table read from /proc
    app.npz                   a snapshot that `jaxmig snapshot` took
    memhog:1g  memhog:1g,thp  memory written once, in 4 KiB or 2 MiB pages
    pmbench:setsize=128m,jobs=4

A Target knows how many nodes it needs and where it runs before anything is built.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from jaxmig import resident, snapshot
from jaxmig.build import Builder, Region
from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PAGE_BYTES, PMD_PAGES, Machine
from jaxmig.scenario.words import size_of, size_text
from jaxmig.snapshot import Snapshot, SnapshotError
from jaxmig.syscalls import Area, Space

MEMHOG_CPU: Final = 5  # the published run bound it with `numactl -C 5`
PMBENCH_SETSIZE: Final = 128 << 20  # its default, as are the others below
PMBENCH_KEYS: Final = ("setsize", "mapsize", "pattern", "jobs", "ratio", "shape")
PMBENCH_PATTERNS: Final = ("linear", "uniform", "normal", "normal_ih", "pareto", "zipf")
MAX_BYTES: Final = 8 << 40  # frame numbers are 31 bits wide


class TargetError(ValueError):
    """A target that cannot be used; one line that says what to write instead."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """The hardware that a target is put on."""

    nodes: int = 2
    cpus: int = 4
    running: tuple[int, ...] = ()
    lazy: tuple[int, ...] = ()
    tlb: tuple[int, int] = (128, 12)
    huge_tlb: tuple[int, int] = (128, 12)
    free: tuple[int | None, ...] = ()  # base pages by node, None: as much as needed
    content: bool = True
    seed: int = 0
    node: int = 0  # where a workload's memory lies

    @property
    def limited(self) -> bool:
        """Whether some node may run out of memory."""
        return any(pages is not None for pages in self.free)


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that can be put on a machine, and what is known of it."""

    name: str
    description: str
    pages: int  # base pages of all processes that are built
    running: tuple[int, ...]  # CPUs, as the target itself numbers them
    build: Callable[[Setting], tuple[Machine, Space]]
    nodes: int = 1  # how many its pages need
    by_node: dict[int, int] = dataclasses.field(default_factory=dict)  # base pages
    unmovable: tuple[tuple[str, int], ...] = ()  # (why, pages)
    missing: tuple[str, ...] = ()  # what could not be read
    assumed: tuple[str, ...] = ()  # what was assumed about its pages


def resolve(text: str, pid: int | None = None) -> Target:
    """The target that `text` names.

    Args:
      pid: which process of a snapshot that holds several.
    Raises:
      TargetError: no such kind of target, or bad arguments.
      ProcError, SnapshotError: the process or file cannot be read.
    """
    name, colon, arguments = text.partition(":")
    if colon and name in WORKLOADS and not os.path.exists(text):
        return WORKLOADS[name](text, arguments.split(","))
    if text.isascii() and text.isdigit():
        return of_snapshot(text, snapshot.take(int(text)))
    if text.endswith(".npz") and not os.path.exists(text):
        advice = f"take one with `jaxmig snapshot PID -o {text}`"
        raise SnapshotError(f"{text}: no such file; {advice}")
    if os.path.exists(text):
        return of_snapshot(text, snapshot.load(text), pid)
    raise TargetError(
        f"{text}: neither a PID nor a file nor a workload; give one like 4711, "
        "app.npz, memhog:1g or memhog:1g,thp"
    )


def memhog(text: str, arguments: Sequence[str]) -> Target:
    """`memhog:SIZE[,thp]`: private anonymous memory, written once from end to end."""
    size = _bytes(text, arguments[0])
    huge = list(arguments[1:]) == ["thp"]
    if len(arguments) > 1 and not huge:
        raise TargetError(f"{text}: {arguments[1]!r} is unknown; only thp may follow")
    what = f"{size_text(size)} written by memhog"
    return _touched(text, size, huge, (MEMHOG_CPU,), what)


def pmbench(text: str, arguments: Sequence[str]) -> Target:
    """`pmbench:setsize=SIZE,jobs=N,...`: its working set after the warm-up.

    Thread k of N runs on CPU k, counted from 1.
    """
    values = dict(_pairs(text, arguments, PMBENCH_KEYS))
    size = _bytes(text, values["setsize"]) if "setsize" in values else PMBENCH_SETSIZE
    pattern = values.get("pattern", "uniform")
    if pattern not in PMBENCH_PATTERNS:
        known = ", ".join(PMBENCH_PATTERNS)
        raise TargetError(f"{text}: pattern {pattern!r} is unknown; use one of {known}")
    jobs = values.get("jobs", "1")
    if not (jobs.isascii() and jobs.isdigit() and 1 <= int(jobs) <= 8192):
        raise TargetError(f"{text}: jobs={jobs}: give 1 to 8192 threads")
    what = f"working set of {size_text(size)}, warmed up by pmbench with {jobs} threads"
    return _touched(text, size, False, tuple(range(1, int(jobs) + 1)), what)


def of_snapshot(text: str, s: Snapshot, pid: int | None = None) -> Target:
    """A process of a snapshot; `pid` chooses where there are several."""
    which = _choose(text, s, pid)
    if s.page_size != PAGE_BYTES:
        raise SnapshotError(
            f"{text}: pages of {s.page_size} bytes; only page tables of 4 KiB pages "
            "can be modelled"
        )
    mine = s.select(which)
    number, comm = int(s.processes.pid[which]), s.processes.comm[which]
    pages = int(s.rss_pages[which])
    if not len(s.vpn[mine]):
        raise SnapshotError(f"{text}: PID {number} ({comm}) has no resident page")
    only = resident.only(s, which)
    return Target(
        name=text,
        description=f"PID {number} ({comm}), {pages:,} pages resident (Rss)",
        pages=len(s),
        running=tuple(s.processes.running(which)),
        build=lambda setting: resident.build(s, which, setting),
        nodes=int(s.node.max()) + 1,
        by_node=dict(enumerate(np.bincount(s.node).tolist())),
        unmovable=tuple(only.unmovable()),
        missing=s.missing,
        assumed=resident.notes(s),
    )


def _choose(text: str, s: Snapshot, pid: int | None) -> int:
    pids = s.processes.pid.tolist()
    if pid is not None and pid not in pids:
        raise SnapshotError(f"{text}: holds no PID {pid}; it has {_few(pids)}")
    if pid is None and len(pids) != 1:
        raise TargetError(
            f"{text}: holds {len(pids)} processes; choose one with --pid: {_few(pids)}"
        )
    return 0 if pid is None else pids.index(pid)


def _few(pids: Sequence[int]) -> str:
    more = f" and {len(pids) - 8} more" if len(pids) > 8 else ""
    return ", ".join(map(str, pids[:8])) + more


def _touched(
    text: str, size: int, huge: bool, running: tuple[int, ...], what: str
) -> Target:
    """A process that wrote `size` bytes of anonymous memory."""
    pages = -(-size // PAGE_BYTES)
    large = pages // PMD_PAGES * PMD_PAGES if huge else 0

    def build(setting: Setting) -> tuple[Machine, Space]:
        b = Builder(
            setting.nodes,
            setting.cpus,
            free=setting.free,
            tlb=setting.tlb,
            huge_tlb=setting.huge_tlb,
        )
        b.splits = setting.limited and large > 0
        process = b.process(text, setting.running, setting.lazy)
        regions = []
        if large:
            regions.append(b.mmap(process, large, setting.node, order=PMD_ORDER))
        if pages > large:
            regions.append(b.mmap(process, pages - large, setting.node))
        m = b.build(content=setting.content, seed=setting.seed)
        return m, Space([_area(r, m.geometry.ptes) for r in regions])

    kinds = ((large // PMD_PAGES, "2 MiB"), (pages - large, "4 KiB"))
    folios = " and ".join(f"{n:,} pages of {size}" for n, size in kinds if n)
    return Target(text, f"{what}: {folios}", pages, running, build)


def _area(r: Region, ptes: int) -> Area:
    """Where the only process has a region."""
    return Area(
        start=r.start // PAGE_BYTES,
        pages=r.pages,
        first_pte=r.first_pte[0],
        first_pmd=ptes + r.first_pmd[0] if r.by_pmd else -1,
    )


def _bytes(text: str, size: str) -> int:
    """A size that is more than nothing, in bytes."""
    n = size_of(size)
    if n is None:
        raise TargetError(f"{text}: {size!r} is no size; give one like 64m or 1g")
    if not 0 < n <= MAX_BYTES:
        raise TargetError(f"{text}: {size} of memory; give more than 0, at most 8192g")
    return n


def _pairs(
    text: str, arguments: Sequence[str], known: Sequence[str]
) -> list[tuple[str, str]]:
    pairs = [a.partition("=") for a in arguments if a]
    for key, _, value in pairs:
        if key not in known or not value:
            raise TargetError(
                f"{text}: {key!r} is unknown or has no value; write "
                f"{known[0]}=128m,... with {', '.join(known)}"
            )
    return [(key, value) for key, _, value in pairs]


WORKLOADS: Final[dict[str, Callable[[str, Sequence[str]], Target]]] = {
    "memhog": memhog,
    "pmbench": pmbench,
}
