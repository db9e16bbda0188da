"""Snapshots changed to other page sizes, or to another node.

Only private anonymous memory that the process alone maps changes its page size, in whole,
aligned blocks whose pages are all resident: those that khugepaged would collapse, or that
a fault could have mapped.  They get new frame numbers above all others.

Source: hpage_collapse_scan_pmd() and collapse_huge_page() in mm/khugepaged.c (aligned
ranges, the node with most pages), Linux 6.3; it tolerates holes, which are not taken here.
"""

import dataclasses
from typing import Final

import numpy as np

from jaxmig.sources.snapshot import PageFlag as F, Snapshot
from jaxmig.state.frame import PMD_ORDER

NEVER: Final = (
    F.FILE | F.HUGETLB | F.ZERO | F.PFNMAP | F.KSM | F.SWAPCACHE | F.VDSO | F.OFF_LRU
    | F.POISONED
)  # fmt: skip
NAMES: Final = 3  # areas that are named


def share(snapshot: Snapshot, process: int) -> int:
    """Percent of a process's pages that are in THPs, rounded."""
    mine = snapshot.select(process)
    huge = (snapshot.order[mine] >= PMD_ORDER) & ~snapshot.has(F.HUGETLB)[mine]
    return round(100 * float(huge.mean())) if huge.size else 0


def thps(snapshot: Snapshot, process: int, percent: int) -> tuple[Snapshot, str]:
    """The snapshot with about `percent` of the process's pages in THPs, and a line.

    Blocks are made THPs from the lowest address on, or split from the highest on.  The
    line has what was done and the share that was reached.
    """
    mine, size = snapshot.select(process), 1 << PMD_ORDER
    first = _blocks(snapshot, process, PMD_ORDER)
    rows = first[:, None] + np.arange(size)
    huge = (snapshot.order[first] == PMD_ORDER) & snapshot.has(F.HUGE_PMD)[rows].all(
        axis=1
    )
    rest = (snapshot.order[mine] >= PMD_ORDER) & ~snapshot.has(F.HUGETLB)[mine]
    fixed = (int(rest.sum()) - int(huge.sum()) * size) / size
    pages = mine.stop - mine.start
    want = round(pages * percent / 100 / size - fixed)
    more = int(np.clip(want, 0, len(first))) - int(huge.sum())
    if more > 0:
        chosen = first[~huge][:more]
        made = _grouped(snapshot, chosen, PMD_ORDER, F.HUGE_PMD)
    else:
        chosen = first[huge][int(huge.sum()) + more :]
        made = _split(snapshot, chosen)
    done = "split" if more < 0 else "made"
    have = share(made, process)
    line = "no THP made or split"
    if len(chosen):
        line = f"{len(chosen):,} THPs {done} in {_names(snapshot, chosen)}"
    line += f": {have} % of the pages are in THPs"
    if have != percent:
        line += f", as near to {percent} % as can be"
    return made, line


def folios(snapshot: Snapshot, process: int, order: int) -> tuple[Snapshot, str]:
    """The snapshot with folios of 2^order base pages outside THPs, and a line."""
    first = _blocks(snapshot, process, order)
    first = first[~snapshot.has(F.HUGE_PMD)[first]]
    line = f"{len(first):,} folios of {4 << order} KiB in {_names(snapshot, first)}"
    return _grouped(snapshot, first, order, F(0)), line


def placed(snapshot: Snapshot, node: int) -> Snapshot:
    """The snapshot with all pages on one node."""
    return dataclasses.replace(snapshot, node=np.full_like(snapshot.node, node))


def _blocks(snapshot: Snapshot, process: int, order: int) -> np.ndarray:
    """First rows of the blocks that can be one folio, ascending."""
    size, mine = 1 << order, snapshot.select(process)
    fits = snapshot.has(F.EXCLUSIVE) & ~snapshot.has(NEVER)
    first = mine.start + np.flatnonzero(snapshot.vpn[mine] % size == 0)
    first = first[first + size <= mine.stop]
    last = first + size - 1
    # Rows of an area ascend by page number: `size` rows with this span have no gap.
    whole = (snapshot.vpn[last] == snapshot.vpn[first] + size - 1) & (
        snapshot.area[last] == snapshot.area[first]
    )
    fitting = np.r_[0, np.cumsum(fits)]
    found: np.ndarray = first[whole & (fitting[last + 1] - fitting[first] == size)]
    return found


def _grouped(snapshot: Snapshot, first: np.ndarray, order: int, flag: F) -> Snapshot:
    """Make each block one folio, with new frames."""
    if not len(first):
        return snapshot
    size = 1 << order
    rows = first[:, None] + np.arange(size)
    begin = (int(snapshot.pfn.max()) >> PMD_ORDER) + 1 << PMD_ORDER
    pfn, node = snapshot.pfn.copy(), snapshot.node.copy()
    orders, flags = snapshot.order.copy(), snapshot.flags.copy()
    pfn[rows] = begin + np.arange(rows.size).reshape(rows.shape)
    # khugepaged takes the node with most pages.
    node[rows] = _most(snapshot.node[rows])[:, None]
    orders[rows] = order
    flags[rows] |= np.uint32((flag | F.MADE_UP_PFN).value)
    return dataclasses.replace(snapshot, pfn=pfn, node=node, order=orders, flags=flags)


def _split(snapshot: Snapshot, first: np.ndarray) -> Snapshot:
    rows = (first[:, None] + np.arange(1 << PMD_ORDER)).ravel()
    order, flags = snapshot.order.copy(), snapshot.flags.copy()
    order[rows] = 0
    flags[rows] &= ~np.uint32(F.HUGE_PMD.value)
    return dataclasses.replace(snapshot, order=order, flags=flags)


def _most(nodes: np.ndarray) -> np.ndarray:
    """The node that is most often in each row; of equals the lowest."""
    counts = np.stack([(nodes == n).sum(axis=1) for n in range(int(nodes.max()) + 1)])
    return counts.argmax(axis=0).astype(nodes.dtype)


def _names(snapshot: Snapshot, first: np.ndarray) -> str:
    """The names of the areas of some blocks, those with most blocks first."""
    areas, times = np.unique(snapshot.area[first], return_counts=True)
    named: dict[str, int] = {}
    for area, n in zip(areas.tolist(), times.tolist(), strict=True):
        name = snapshot.areas.path[area] or "anonymous memory"
        named[name] = named.get(name, 0) + n
    order = sorted(named, key=lambda name: -named[name])
    more = f" and {len(order) - NAMES} more" if len(order) > NAMES else ""
    return (", ".join(order[:NAMES]) or "no area") + more
