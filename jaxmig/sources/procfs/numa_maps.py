"""The node of each page, from numa_maps, memory blocks, or a query by move_pages(2).

numa_maps has a line for each area: address, policy, then key=value words; N0=12 counts
pages of `kernelpagesize_kB` on node 0.  It has numbers of pages only; the two other
sources have the node of each page.

Source: show_numa_map() in fs/proc/task_mmu.c.
"""

import ctypes
import dataclasses
import platform
import re
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs.columns import I16, I64, Bools
from jaxmig.sources.procfs.errors import ProcError

MOVE_PAGES = {"x86_64": 279, "aarch64": 239, "riscv64": 239}
ADDRESS = re.compile("[0-9a-f]{1,16}")
COUNT = re.compile("[0-9]{1,15}")
COUNTED = re.compile("N[0-9]{1,4}|anon|kernelpagesize_kB")
LARGEST_PAGE = 16 << 30  # bytes
ASK = 1 << 16  # pages in one call of move_pages


@dataclasses.dataclass(frozen=True)
class NumaArea:
    """One line of numa_maps; counts are of pages of `page_size` bytes."""

    start: int  # bytes
    policy: str
    nodes: dict[int, int]  # node -> pages
    anon: int
    page_size: int  # bytes

    @property
    def pages(self) -> int:
        return sum(self.nodes.values())


def parse_numa_maps(text: str, source: str = "numa_maps") -> dict[int, NumaArea]:
    """Areas by start address in bytes. Raises ProcError for a line that is none."""
    areas = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split(" ")
        values = dict(w.split("=", 1) for w in words[2:] if "=" in w)
        counts = {k: v for k, v in values.items() if COUNTED.fullmatch(k)}
        if not line:
            continue
        if len(words) < 2 or not all(map(COUNT.fullmatch, counts.values())):
            counts, words = {}, [""]
        size = int(counts.get("kernelpagesize_kB", 4)) * 1024
        known = 4096 <= size <= LARGEST_PAGE and not size & (size - 1)
        again = ADDRESS.fullmatch(words[0]) and int(words[0], 16) in areas
        if not ADDRESS.fullmatch(words[0]) or not known or again:
            raise ProcError(f"{source}:{number}: not a line of numa_maps: {line!r}")
        nodes = {int(k[1:]): int(n) for k, n in counts.items() if k[0] == "N"}
        start, anon = int(words[0], 16), int(counts.get("anon", 0))
        areas[start] = NumaArea(start, words[1], nodes, anon, size)
    return areas


def online_nodes(sys_root: Path) -> list[int]:
    """Nodes listed in sysfs, [0] if it lists none."""
    found = (sys_root / "devices/system/node").glob("node[0-9]*")
    return sorted(int(path.name[4:]) for path in found) or [0]


def nodes_of_frames(pfns: I64, page: int, sys_root: Path) -> I16 | None:
    """Node of each frame from the memory blocks of sysfs, -1 outside all of them.

    None where sysfs does not list blocks (CONFIG_MEMORY_HOTPLUG off).
    """
    top = sys_root / "devices/system"
    try:
        size = int((top / "memory/block_size_bytes").read_text(), 16) // page
    except (OSError, ValueError):
        return None
    pairs = [
        (int(block.name[6:]), int(block.parent.name[4:]))
        for block in (top / "node").glob("node[0-9]*/memory[0-9]*")
    ]
    if not pairs or size == 0:
        return None
    blocks, owners = np.array(pairs, np.int64).T
    table = np.full(int(blocks.max()) + 2, -1, np.int16)
    table[blocks] = owners
    return table[np.clip(pfns // size, 0, len(table) - 1)]


def ask_nodes(pid: int, vpns: I64, page: int) -> I16 | None:
    """Node of each page by move_pages(2) without target nodes; -1 if it has none.

    The query migrates nothing. None if the call is unknown or not permitted.
    """
    number = MOVE_PAGES.get(platform.machine())
    if number is None:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    nodes = np.full(len(vpns), -1, np.int16)
    for at in range(0, len(vpns), ASK):
        addresses = (vpns[at : at + ASK] * page).astype(np.uint64)
        status = np.full(len(addresses), -1, np.int32)
        arguments = [number, pid, len(addresses), addresses.ctypes.data, 0]
        arguments += [status.ctypes.data, 0]
        if libc.syscall(*(ctypes.c_long(value) for value in arguments)) != 0:
            return None
        nodes[at : at + ASK] = np.maximum(status, -1)
    return nodes


def spread_nodes(
    area: I64, starts: list[int], lines: dict[int, NumaArea], base_page: int
) -> tuple[I16, Bools]:
    """Nodes from numa_maps' counts alone, and which of them are a guess.

    The pages of an area get its nodes in address order; with one node that is exact.

    Args:
      area: int[n] index into `starts`, ascending.
      starts: address of each area, bytes.
      lines: of numa_maps, by start address.
      base_page: bytes.
    Returns:
      int16[n], the node of each page, -1 if unknown; bool[n], whether it is a guess.
    """
    node = np.zeros(len(area), np.int16)
    guess = np.zeros(len(area), np.bool_)
    bounds = np.searchsorted(area, np.arange(len(starts) + 1))
    for start, low, high in zip(starts, bounds[:-1], bounds[1:], strict=True):
        line = lines.get(start)
        if line is None or not line.nodes or low == high:
            continue
        scale = max(line.page_size // base_page, 1)
        named = np.array(list(line.nodes), np.int16)
        # Counts beyond the pages of the area are ignored.
        counts = np.minimum(list(line.nodes.values()), high - low) * scale
        node[low:high] = named[np.argmax(counts)]  # zero pages are in no count
        ends = np.cumsum(counts)
        page = np.arange(min(high - low, int(ends[-1])))
        node[low : low + len(page)] = named[np.searchsorted(ends, page, side="right")]
        guess[low:high] = len(named) > 1
    return node, guess
