"""From a snapshot of real processes to a Machine.

Every resident mapping becomes an entry, rows that share a frame become one folio with
several mappings.  What a page table does not tell is filled in as follows:

- A folio is kept whole if all of its pages are mapped here; pages of others (a file's
  large folio of which a library maps a part) become folios of their own.
- Mappings counted by Linux but not in the snapshot belong to other processes.  They
  become entries of one more process that runs on no CPU: reference counts are right
  and shared pages count as shared, but these mappings cost no IPI.
- References that no mapping explains (pins, I/O under way) cannot be seen: none.
"""

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig import conditions as cond, frame, pte
from jaxmig.assemble import Entries, Folios, Hardware, assemble
from jaxmig.machine import PMD_PAGES, Machine
from jaxmig.snapshot import AreaKind, PageFlag as F, Snapshot

if TYPE_CHECKING:
    from jaxmig.targets import Setting

FRAMELESS: Final = F.ZERO | F.PFNMAP
PROT_BITS: Final = 7  # read, write, execute

Rows = Int64[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which folio and which of its pages each row shows; -1: no frame of its own."""

    folio: Rows
    page: Int32[np.ndarray, " rows"]
    order: Int32[np.ndarray, " folios"]
    first_row: Int64[np.ndarray, " folios"]  # one that shows the folio
    by_pmd: Bool[np.ndarray, " rows"]


def only(s: Snapshot, process: int) -> Snapshot:
    """The rows of one process."""
    rows = s.select(process)
    columns = ("process", "area", "vpn", "pfn", "flags", "node", "order", "mapcount")
    cut = {name: getattr(s, name)[rows] for name in (*columns, "kpageflags")}
    return dataclasses.replace(s, **cut)


def notes(s: Snapshot) -> tuple[str, ...]:
    """What the machine leaves out or assumes, each as one line."""
    place = lay_out(s)
    said = []
    parts = (s.order > 0) & (place.folio >= 0)
    parts &= place.order[np.maximum(place.folio, 0)] == 0
    if parts.any():
        said.append(
            f"{int(parts.sum()):,} pages of large folios not wholly mapped here are "
            "taken as pages of their own"
        )
    foreign, _ = _foreign(s, place)
    if foreign.size:
        said.append(
            f"{foreign.size:,} mappings by processes outside the snapshot are taken to "
            "run on no CPU"
        )
    return tuple(said)


def lay_out(s: Snapshot) -> Layout:
    """Groups rows into folios."""
    has_frame = ~s.has(FRAMELESS)
    order = np.minimum(s.order.astype(np.int64), 63)
    pfn = s.pfn.astype(np.int64)
    # Made-up and real frames alike: a folio begins at a multiple of its size.
    order = np.where(order > frame.PMD_ORDER, _hugetlb_cut(s), order)
    head = pfn >> order << order
    whole = _whole(pfn, head, order, has_frame)
    order = np.where(whole, order, 0)
    head = np.where(whole, head, pfn)
    rows = np.flatnonzero(has_frame)
    _, first, index = np.unique(head[rows], return_index=True, return_inverse=True)
    folio = np.full(len(s), -1, np.int64)
    folio[rows] = index
    page = (pfn - head).astype(np.int32)
    first_row = rows[first]
    by_pmd = _by_pmd(s, folio, page, order)
    return Layout(folio, page, order[first_row].astype(np.int32), first_row, by_pmd)


def _hugetlb_cut(s: Snapshot) -> np.ndarray:
    """Order for folios beyond 2 MiB: hugetlb in pieces of 2 MiB, others in pages."""
    return np.where(s.has(F.HUGETLB), frame.PMD_ORDER, 0)


def _whole(
    pfn: np.ndarray, head: np.ndarray, order: np.ndarray, has_frame: np.ndarray
) -> np.ndarray:
    """Rows of large folios all of whose pages are shown by some row, bool[rows]."""
    large = np.flatnonzero(has_frame & (order > 0))
    whole = np.zeros(len(pfn), bool)
    _, at = np.unique(pfn[large], return_index=True)
    page = large[at]
    heads, first, pages = np.unique(head[page], return_index=True, return_counts=True)
    complete = heads[pages == 1 << order[page[first]]]
    whole[large] = np.isin(head[large], complete)
    return whole


def _by_pmd(
    s: Snapshot, folio: np.ndarray, page: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Rows in whole, aligned blocks that one PMD leaf maps, bool[rows]."""
    vpn = s.vpn.astype(np.int64)
    huge = s.has(F.HUGE_PMD | F.HUGETLB) & (order == frame.PMD_ORDER) & (folio >= 0)
    huge &= vpn % PMD_PAGES == page
    at = np.flatnonzero(huge)
    if not at.size:
        return huge
    # Rows of a block are neighbours: a block begins where process or number changes.
    key = np.stack([s.process[at].astype(np.int64), s.area[at], vpn[at] // PMD_PAGES])
    begins = np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]
    block = np.cumsum(begins) - 1
    huge[at] = np.bincount(block)[block] == PMD_PAGES
    return huge


def build(s: Snapshot, process: int, setting: "Setting") -> Machine:
    """The machine of all processes in `s`; `process` is the one to be migrated."""
    place = lay_out(s)
    folios = _folios(s, place)
    ptes, pmds, table = _entries(s, place)
    left, marks = _states(s, place)
    hardware = Hardware(
        setting.nodes,
        *_masks(s, process, setting),
        tlb=setting.tlb,
        huge_tlb=setting.huge_tlb,
        free=setting.free,
    )
    return assemble(
        hardware,
        folios,
        ptes,
        pmds,
        table,
        left=left,
        marks=marks,
        splits=setting.limited and bool((folios.order > 0).any()),
        seed=setting.seed,
        content=setting.content,
    )


def _folios(s: Snapshot, place: Layout) -> Folios:
    row, n = place.first_row, place.order.shape[0]
    shows = place.folio >= 0
    anon, kind = _kinds(s)
    flags = kind[row]

    def some(rows: np.ndarray) -> np.ndarray:
        """Folios of which any page is among `rows`."""
        return np.bincount(place.folio[rows & shows], minlength=n) > 0

    flags = flags | np.where(some(~s.movable), 0, frame.LRU)
    flags |= np.where(some(s.has(F.DIRTY) | anon), frame.DIRTY, 0)
    flags |= np.where(some(s.has(F.MLOCKED)), frame.MLOCKED, 0)
    flags |= np.where(some(s.has(F.PRIVATE) & ~anon), frame.PRIVATE, 0)
    flags |= np.where(some(_exclusive(s, anon)), frame.EXCLUSIVE_MAP, 0)
    none = np.zeros(n, np.int32)
    return Folios(place.order, s.node[row].astype(np.int32), flags, none)


def _kinds(s: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are anonymous, and what kind of folio each shows (frame.py)."""
    file = s.has(F.FILE)
    area = s.areas.kind[s.area]
    cached = np.where(area == AreaKind.SHMEM, frame.SHMEM, frame.FILE)
    anon = np.where(s.has(F.SWAPCACHE), frame.SWAPCACHE, frame.ANON)
    anon = np.where(s.has(F.KSM), frame.KSM, anon)
    kind = np.where(file, cached, anon)
    kind = np.where(s.has(F.HUGETLB), frame.HUGETLB, kind).astype(np.int32)
    return ~file & ~s.has(F.HUGETLB), kind


def _exclusive(s: Snapshot, anon: np.ndarray) -> np.ndarray:
    """Rows of anonymous or hugetlb memory that one process alone maps."""
    alone: np.ndarray = s.has(F.EXCLUSIVE) & (anon | s.has(F.HUGETLB))
    return alone & ~s.has(F.KSM)


def _bits(s: Snapshot) -> np.ndarray:
    """The bits of each row's entry, as if a PTE mapped it."""
    anon, _ = _kinds(s)
    exclusive = _exclusive(s, anon)
    writable, dirty = s.has(F.WRITABLE), s.has(F.DIRTY)
    locked = np.array(["lo" in f.split() for f in s.areas.vm_flags], bool)[s.area]
    closed = (s.areas.perms[s.area] & PROT_BITS) == 0
    # A page of a private file stays read-only until it is copied.
    direct = exclusive | (s.has(F.SHARED_AREA) & dirty)
    bits = s.process.astype(np.int32) << pte.MM_SHIFT
    for rows, bit in (
        (writable, pte.VM_WRITE),
        (locked, pte.VM_LOCKED),
        (closed, pte.VM_PROT_NONE | pte.PROT_NONE),
        (s.has(F.YOUNG), pte.YOUNG),
        (s.has(F.SOFT_DIRTY), pte.SOFT_DIRTY),
        (s.has(F.UFFD_WP), pte.UFFD_WP),
        (exclusive, pte.EXCLUSIVE),
        (dirty, pte.DIRTY),
        (writable & direct & ~s.has(F.UFFD_WP), pte.WRITE),
        (s.has(F.ZERO), pte.ZERO_PAGE),
        (~s.has(F.PFNMAP), pte.PRESENT),
    ):
        bits = bits | np.where(rows, np.int32(bit), np.int32(0))
    return bits.astype(np.int32)


def _foreign(s: Snapshot, place: Layout) -> tuple[Rows, Rows]:
    """Mappings by others: a row repeated for each PTE, and one for each PMD leaf."""
    known = np.flatnonzero((place.folio >= 0) & (s.mapcount >= 0))
    _, at, seen = np.unique(s.pfn[known], return_index=True, return_counts=True)
    row = known[at]
    more = np.maximum(s.mapcount[row].astype(np.int64) - seen, 0)
    small = ~place.by_pmd[row]
    ptes = np.repeat(row[small], more[small])
    # A leaf maps every page, so the head's surplus is the folio's.
    heads = ~small & (place.page[row] == 0)
    return ptes, np.repeat(row[heads], more[heads])


def _entries(s: Snapshot, place: Layout) -> tuple[Entries, Entries, np.ndarray]:
    """PTEs of all rows, those of others behind them, and the PMD leaves."""
    rows, bits = np.arange(len(s)), _bits(s)
    leaf = rows[place.by_pmd & (place.page == 0)]
    under = place.by_pmd
    others, others_leaf = _foreign(s, place)
    mm = np.int32(len(s.processes)) << pte.MM_SHIFT
    shared = pte.PRESENT | pte.YOUNG | pte.SOFT_DIRTY
    empty = np.full(others_leaf.size * PMD_PAGES, -1, np.int64)
    ptes = Entries(
        np.r_[np.where(under, -1, place.folio), place.folio[others], empty],
        np.r_[place.page, place.page[others], empty.astype(np.int32) * 0],
        np.r_[
            np.where(under, bits & pte.STAYS, bits),
            np.full(others.size, mm | shared, np.int32),
            np.full(empty.size, mm, np.int32),
        ].astype(np.int32),
    )
    leaves = np.r_[leaf, others_leaf]
    pmds = Entries(
        place.folio[leaves],
        np.zeros(leaves.size, np.int32),
        np.r_[bits[leaf], np.full(others_leaf.size, mm | shared)].astype(np.int32),
    )
    behind = len(s) + others.size + PMD_PAGES * np.arange(others_leaf.size)
    return ptes, pmds, np.r_[leaf, behind].astype(np.int32)


def _states(s: Snapshot, place: Layout) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Locks and writeback that were seen; they end when somebody waits for them."""
    n = place.order.shape[0]
    left = np.zeros((n, len(cond.STATES)), np.int32)
    for flag, state in ((F.LOCKED, cond.LOCKED), (F.WRITEBACK, cond.WRITEBACK)):
        folio = place.folio[s.has(flag) & (place.folio >= 0)]
        left[folio, state] = cond.UNTIL_WAITED
    if not left.any():
        return None, None
    return left, np.zeros(n, np.int32)


def _masks(
    s: Snapshot, process: int, setting: "Setting"
) -> tuple[np.ndarray, np.ndarray]:
    """mm_cpumask of every process and of the others, and the lazy CPUs."""
    mask = np.zeros((len(s.processes) + 1, setting.cpus), bool)
    mask[process, list(setting.running + setting.lazy)] = True
    for other in range(len(s.processes)):
        if other != process:
            mine = sorted({c % setting.cpus for c in s.processes.running(other)})
            # A CPU runs one process at a time: the target comes first.
            mask[other, [c for c in mine if not mask[:, c].any()]] = True
    lazy = np.zeros(setting.cpus, bool)
    lazy[list(setting.lazy)] = True
    return mask, lazy
