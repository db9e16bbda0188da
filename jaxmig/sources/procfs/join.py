"""From address spaces to the columns of a snapshot: frames, page bits and nodes.

address spaces -> stack -> PFNs -> kpageflags -> bits by smaps -> layout -> nodes
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs import infer, kpage, layout, numa_maps, pagemap
from jaxmig.sources.procfs.address_space import AddressSpace
from jaxmig.sources.procfs.columns import (
    I8,
    I16,
    I32,
    I64,
    U8,
    U32,
    U64,
    AreaKind,
    PageFlag as F,
)
from jaxmig.sources.procfs.errors import SYS_ADMIN, ProcError
from jaxmig.sources.procfs.maps import Areas, area_table
from jaxmig.sources.procfs.process import Processes, RawProcess, process_table


@dataclasses.dataclass
class Columns:
    """Rows of all processes; filled stage by stage."""

    process: I32
    area: I32
    vpn: I64
    word: U64
    category: U8
    flags: U32
    pfn: I64
    order: I8
    mapcount: I32
    kpageflags: U64
    node: I16
    areas: Areas
    processes: Processes
    missing: list[str]


@dataclasses.dataclass(frozen=True)
class Sources:
    """The roots to read from, which may be saved files instead of a live machine."""

    root: Path
    sys_root: Path
    base_page: int  # bytes
    hide_pfns: bool  # behave as without CAP_SYS_ADMIN

    @property
    def live(self) -> bool:
        return self.root == Path("/proc")


def join(
    spaces: Sequence[AddressSpace], raw: list[RawProcess], sources: Sources
) -> Columns:
    """Columns from the address spaces of several processes."""
    columns = _stack(spaces, raw, sources.base_page)
    scanned = all(space.scanned for space in spaces)
    hidden = _take_pfns(columns, spaces, sources)
    told = False if hidden else _look_up_frames(columns, sources)
    _mark_pages(columns, scanned, told, hidden, sources.base_page)
    if hidden:
        columns.pfn = layout.lay_out(
            columns.vpn, columns.area, columns.flags, columns.areas, sources.base_page
        )
        columns.flags |= np.uint32(F.MADE_UP_PFN.value)
    _look_up_nodes(columns, spaces, sources, hidden)
    _compare_rss(columns)
    return columns


def _stack(
    spaces: Sequence[AddressSpace], raw: list[RawProcess], base_page: int
) -> Columns:
    rows, missing, first = [], dict.fromkeys(s for a in spaces for s in a.missing), 0
    area, process = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    flags = [np.zeros(0, np.uint32)]
    for row, space in enumerate(spaces):
        for one, kind in zip(space.areas, space.kinds, strict=True):
            line = space.numa.get(one.start)
            rows.append((row, one, kind, line.policy if line else ""))
        area.append(space.area + np.int32(first))
        process.append(np.full(len(space.vpn), row, np.int32))
        made_up = 0 if space.addresses_known else F.MADE_UP_ADDRESS.value
        flags.append(np.full(len(space.vpn), made_up, np.uint32))
        first += len(space.areas)
    areas = area_table(rows, base_page)
    vpn = np.concatenate([np.zeros(0, np.int64), *(s.vpn for s in spaces)])
    word = np.concatenate([np.zeros(0, np.uint64), *(s.word for s in spaces)])
    category = np.concatenate([np.zeros(0, np.uint8), *(s.category for s in spaces)])
    n, where = len(vpn), np.concatenate(area)
    bits = np.concatenate(flags) | infer.word_flags(word, category)
    bits |= infer.area_flags(areas)[where]
    hugetlb = infer.has(bits, F.HUGETLB)  # a PMD maps it, but it is no THP
    bits &= ~infer.mark(hugetlb, F.HUGE_PMD)
    zeros = np.zeros(n, np.int64)
    return Columns(
        np.concatenate(process), where, vpn, word, category, bits, zeros,
        zeros.astype(np.int8), np.full(n, -1, np.int32), np.zeros(n, np.uint64),
        zeros.astype(np.int16), areas, process_table(raw), list(missing),
    )  # fmt: skip


def _take_pfns(
    columns: Columns, spaces: Sequence[AddressSpace], sources: Sources
) -> bool:
    """Fill `pfn`; returns whether the kernel hides frame numbers (all read 0)."""
    if sources.hide_pfns or not all(s.addresses_known for s in spaces):
        hidden = True
    else:
        columns.pfn = (columns.word & pagemap.PFN_MASK).astype(np.int64)
        hidden = len(columns.pfn) > 0 and not columns.pfn.any()
    if hidden:
        columns.missing.append(
            f"PFNs: hidden ({SYS_ADMIN}); frames laid out here, pages of one file at "
            "one offset share a frame, anonymous pages shared by fork are not seen"
        )
    return hidden


def _look_up_frames(columns: Columns, sources: Sources) -> bool:
    """Fill kpageflags, orders and map counts; returns whether flags were readable."""
    unique, inverse = np.unique(columns.pfn, return_inverse=True)
    try:
        words, order = kpage.read_flags(sources.root / "kpageflags", unique)
    except ProcError as error:
        columns.missing.append(f"kpageflags: {error}; why a page may not move is less "
                               "known, and so are folios below 2 MiB")  # fmt: skip
        return False
    columns.kpageflags, columns.order = words[inverse], order[inverse]
    columns.flags |= kpage.page_flags(words)[inverse]
    shmem = np.unique(columns.area[kpage.is_shmem(columns.kpageflags)])
    file = columns.areas.kind[shmem] == AreaKind.FILE
    columns.areas.kind[shmem[file]] = AreaKind.SHMEM  # tmpfs of another mount
    try:
        counts = kpage.read_counts(sources.root / "kpagecount", unique)
        columns.mapcount = np.minimum(counts, 2**31 - 1).astype(np.int32)[inverse]
    except ProcError as error:
        columns.missing.append(f"kpagecount: {error}; map counts are not known")
    return True


def _mark_pages(
    columns: Columns, scanned: bool, flags_known: bool, hidden: bool, base_page: int
) -> None:
    """Infer zero, huge, dirty and accessed bits, and the orders of huge pages.

    `flags_known`: kpageflags was readable.  `hidden`: frame numbers were not.
    """
    pmd = base_page // 8  # entries of one page table
    pfn = None if hidden else columns.pfn
    if not scanned:
        taken = infer.huge_pages(
            columns.vpn, pfn, columns.area, columns.order, columns.areas, pmd
        )
        columns.flags |= taken & ~infer.mark(
            infer.has(columns.flags, F.HUGETLB), F.HUGE_PMD
        )
    if not flags_known:
        columns.flags |= infer.zero_pages(
            columns.flags, columns.area, columns.areas, scanned
        )
    found, chosen = infer.dirty_and_young(
        columns.flags, columns.kpageflags, columns.area, columns.areas
    )
    columns.flags |= found
    if chosen:
        columns.missing.append(
            f"dirty and accessed bits: smaps counts them per area; which pages of its "
            f"area have them was chosen by jaxmig for {chosen:,} of them"
        )
    of_area = np.log2(np.maximum(columns.areas.page_size // base_page, 1)).astype(
        np.int8
    )
    huge = np.where(
        infer.has(columns.flags, F.HUGE_PMD), np.int8(np.log2(pmd)), np.int8(0)
    )
    columns.order = np.maximum(
        np.maximum(columns.order, huge), of_area[columns.area]
    ).astype(np.int8)


def _look_up_nodes(
    columns: Columns, spaces: Sequence[AddressSpace], sources: Sources, hidden: bool
) -> None:
    """Fill `node`: by frame, else from move_pages(2), else from numa_maps' counts."""
    if sources.live and len(numa_maps.online_nodes(sources.sys_root)) == 1:
        columns.node[:] = numa_maps.online_nodes(sources.sys_root)[0]
        return
    exact = (
        None
        if hidden or not sources.live
        else numa_maps.nodes_of_frames(columns.pfn, sources.base_page, sources.sys_root)
    )
    guessed = 0
    for row, space in enumerate(spaces):
        mine = slice(*np.searchsorted(columns.process, [row, row + 1]))
        starts = [area.start for area in space.areas]
        node, guess = numa_maps.spread_nodes(
            space.area.astype(np.int64), starts, space.numa, sources.base_page
        )
        known = exact[mine] if exact is not None else None
        if known is None and sources.live and guess.any() and space.addresses_known:
            pid = int(columns.processes.pid[row])
            known = numa_maps.ask_nodes(pid, space.vpn, sources.base_page)
        if known is not None:
            node, guess = np.where(known >= 0, known, node), guess & (known < 0)
        columns.node[mine] = node
        guessed += int(np.count_nonzero(guess))
    if guessed:
        columns.missing.append(
            f"nodes: numa_maps counts pages per node and area; the nodes of {guessed} "
            "pages were laid in address order"
        )


def _compare_rss(columns: Columns) -> None:
    counted = columns.process[infer.counted_in_rss(columns.flags)]
    pages = np.bincount(counted, minlength=len(columns.processes))
    for row in np.flatnonzero(
        (columns.processes.rss >= 0) & (pages != columns.processes.rss)
    ):
        pid, comm = int(columns.processes.pid[row]), columns.processes.comm[row]
        columns.missing.append(
            f"PID {pid} ({comm}) changed while it was read: {pages[row]} pages here, "
            f"{columns.processes.rss[row]} in smaps_rollup; hold it still with kill -STOP"
        )
