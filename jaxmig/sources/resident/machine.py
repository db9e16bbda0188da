"""Folios, entries, states and CPUs of a machine from the rows of a snapshot."""

from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from jaxmig.calls.syscalls import Area, Space
from jaxmig.sources.assemble import Entries, Folios, Hardware, assemble
from jaxmig.sources.procfs.columns import Perm
from jaxmig.sources.regions import PIN_REFS, spread
from jaxmig.sources.resident.layout import RowPlaces, foreign, lay_out
from jaxmig.sources.snapshot import AreaKind, PageFlag as F, Snapshot
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.machine import PMD_PAGES, Machine

if TYPE_CHECKING:
    from jaxmig.sources.targets.target import Setting

PROT_BITS: Final = 7  # read, write, execute
# Kinds of areas that vma_migratable() or the walk refuses as a whole.
CLOSED_KINDS: Final = (AreaKind.DAX, AreaKind.SECRET)


def build(
    snapshot: Snapshot, process: int, setting: "Setting", pinned: float = 0
) -> tuple[Machine, Space]:
    """The machine of all processes of a snapshot.

    Args:
      process: row of the process that is migrated.
      setting: the hardware.
      pinned: percent of the process's movable folios that are pinned.
    Returns:
      The machine, and the address space of `process` in it.
    """
    place = lay_out(snapshot)
    folios = _folios(snapshot, place)
    ptes, pmds, table = _entries(snapshot, place)
    left, marks = _states(snapshot, place)
    if pinned:
        left, marks = _pinned(snapshot, process, place, folios, pinned, left, marks)
    hardware = Hardware(
        setting.nodes,
        *_masks(snapshot, process, setting),
        tlb=setting.tlb,
        huge_tlb=setting.huge_tlb,
        free=setting.free,
    )
    m = assemble(
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
    return m, _space(snapshot, process, place, m.geometry.ptes)


def _space(snapshot: Snapshot, process: int, place: RowPlaces, ptes: int) -> Space:
    """The areas of a process, each cut where PMD leaves begin or end.

    Addresses without a page have no entry: an area here is the list of its pages.
    """
    mine = snapshot.select(process)
    leaf = np.cumsum(place.by_pmd & (place.page == 0)) - 1  # leaves in row order
    area, huge = snapshot.area[mine], place.by_pmd[mine]
    cut = np.flatnonzero((area[1:] != area[:-1]) | (huge[1:] != huge[:-1])) + 1
    edges = np.r_[0, cut, len(area)] + mine.start
    closed = snapshot.has(F.PFNMAP | F.VDSO) | np.isin(
        snapshot.areas.kind[snapshot.area], CLOSED_KINDS
    )
    anon, hugetlb = _kinds(snapshot)[0], snapshot.has(F.HUGETLB)
    perms, kind = (
        snapshot.areas.perms[snapshot.area],
        snapshot.areas.kind[snapshot.area],
    )
    areas = []
    for first, last in pairwise(edges.tolist()):
        made = Area(
            start=int(snapshot.vpn[first]),
            pages=last - first,
            first_pte=first,
            first_pmd=ptes + int(leaf[first]) if place.by_pmd[first] else -1,
            migratable=not closed[first],
            anonymous=bool(anon[first]),
            hugetlb=bool(hugetlb[first]),
            writable=bool(perms[first] & Perm.WRITE),
            accessible=bool(perms[first] & PROT_BITS),
            executable=bool(perms[first] & Perm.EXEC),
            shared=bool(perms[first] & Perm.SHARED),
            file=bool(kind[first] in (AreaKind.FILE, AreaKind.SHMEM)),
        )
        areas.append(made)
    return Space(areas)


def _folios(snapshot: Snapshot, place: RowPlaces) -> Folios:
    row, n = place.first_row, place.order.shape[0]
    shows = place.folio >= 0
    anon, kind = _kinds(snapshot)
    flags = kind[row]

    def some(rows: np.ndarray) -> np.ndarray:
        """Folios of which any page is among `rows`."""
        return np.bincount(place.folio[rows & shows], minlength=n) > 0

    flags = flags | np.where(some(~snapshot.movable), 0, frame.LRU)
    flags |= np.where(some(snapshot.has(F.DIRTY) | anon), frame.DIRTY, 0)
    flags |= np.where(some(snapshot.has(F.MLOCKED)), frame.MLOCKED, 0)
    flags |= np.where(some(snapshot.has(F.PRIVATE) & ~anon), frame.PRIVATE, 0)
    flags |= np.where(some(_exclusive(snapshot, anon)), frame.EXCLUSIVE_MAP, 0)
    none = np.zeros(n, np.int32)
    return Folios(place.order, snapshot.node[row].astype(np.int32), flags, none)


def _kinds(snapshot: Snapshot) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row is anonymous, and the kind of its folio (see frame.py)."""
    file = snapshot.has(F.FILE)
    area = snapshot.areas.kind[snapshot.area]
    cached = np.where(area == AreaKind.SHMEM, frame.SHMEM, frame.FILE)
    anon = np.where(snapshot.has(F.SWAPCACHE), frame.SWAPCACHE, frame.ANON)
    anon = np.where(snapshot.has(F.KSM), frame.KSM, anon)
    kind = np.where(file, cached, anon)
    kind = np.where(snapshot.has(F.HUGETLB), frame.HUGETLB, kind).astype(np.int32)
    return ~file & ~snapshot.has(F.HUGETLB), kind


def _exclusive(snapshot: Snapshot, anon: np.ndarray) -> np.ndarray:
    """Rows of anonymous or hugetlb memory that one process alone maps."""
    alone: np.ndarray = snapshot.has(F.EXCLUSIVE) & (anon | snapshot.has(F.HUGETLB))
    return alone & ~snapshot.has(F.KSM)


def _bits(snapshot: Snapshot) -> np.ndarray:
    """The bits of each row's entry, as if a PTE mapped it."""
    anon, _ = _kinds(snapshot)
    exclusive = _exclusive(snapshot, anon)
    writable, dirty = snapshot.has(F.WRITABLE), snapshot.has(F.DIRTY)
    locked = np.array(["lo" in f.split() for f in snapshot.areas.vm_flags], bool)[
        snapshot.area
    ]
    closed = (snapshot.areas.perms[snapshot.area] & PROT_BITS) == 0
    # A page of a private mapping of a file is read-only until it is copied.
    direct = exclusive | (snapshot.has(F.SHARED_AREA) & dirty)
    bits = snapshot.process.astype(np.int32) << pte.MM_SHIFT
    for rows, bit in (
        (writable, pte.VM_WRITE),
        (locked, pte.VM_LOCKED),
        (closed, pte.VM_PROT_NONE | pte.PROT_NONE),
        (snapshot.has(F.YOUNG), pte.YOUNG),
        (snapshot.has(F.SOFT_DIRTY), pte.SOFT_DIRTY),
        (snapshot.has(F.UFFD_WP), pte.UFFD_WP),
        (exclusive, pte.EXCLUSIVE),
        (dirty, pte.DIRTY),
        (writable & direct & ~snapshot.has(F.UFFD_WP), pte.WRITE),
        (snapshot.has(F.ZERO), pte.ZERO_PAGE),
        (~snapshot.has(F.PFNMAP), pte.PRESENT),
    ):
        bits = bits | np.where(rows, np.int32(bit), np.int32(0))
    return bits.astype(np.int32)


def _entries(
    snapshot: Snapshot, place: RowPlaces
) -> tuple[Entries, Entries, np.ndarray]:
    """The PTEs of all rows followed by those of other processes, and the PMD leaves."""
    rows, bits = np.arange(len(snapshot)), _bits(snapshot)
    leaf = rows[place.by_pmd & (place.page == 0)]
    under = place.by_pmd
    others, others_leaf = foreign(snapshot, place)
    mm = np.int32(len(snapshot.processes)) << pte.MM_SHIFT
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
    behind = len(snapshot) + others.size + PMD_PAGES * np.arange(others_leaf.size)
    return ptes, pmds, np.r_[leaf, behind].astype(np.int32)


def _states(
    snapshot: Snapshot, place: RowPlaces
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Locks and writeback in the snapshot; they end when a call waits for them."""
    n = place.order.shape[0]
    left = np.zeros((n, len(cond.STATES)), np.int32)
    for flag, state in ((F.LOCKED, cond.LOCKED), (F.WRITEBACK, cond.WRITEBACK)):
        folio = place.folio[snapshot.has(flag) & (place.folio >= 0)]
        left[folio, state] = cond.UNTIL_WAITED
    if not left.any():
        return None, None
    return left, np.zeros(n, np.int32)


def _pinned(
    snapshot: Snapshot,
    process: int,
    place: RowPlaces,
    folios: Folios,
    percent: float,
    left: np.ndarray | None,
    marks: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The states with pins (FOLL_PIN) on `percent` of the folios, evenly spread."""
    n = place.order.shape[0]
    left = np.zeros((n, len(cond.STATES)), np.int32) if left is None else left
    marks = np.zeros(n, np.int32) if marks is None else marks
    mine, movable = snapshot.select(process), snapshot.movable
    rows = np.arange(mine.start, mine.stop)
    own = place.folio[rows[movable[rows] & (place.folio[rows] >= 0)]]
    _, first = np.unique(own, return_index=True)
    held = spread(own[np.sort(first)], percent)
    left[held, cond.PINNED] = cond.UNTIL_WAITED
    marks[held] |= cond.PIN_HELD
    folios.extra_refs[held] += np.where(folios.order[held] > 0, 1, PIN_REFS)
    return left, marks


def _masks(
    snapshot: Snapshot, process: int, setting: "Setting"
) -> tuple[np.ndarray, np.ndarray]:
    """mm_cpumask of every process and of the foreign one, and the lazy CPUs."""
    mask = np.zeros((len(snapshot.processes) + 1, setting.cpus), bool)
    mask[process, list(setting.running + setting.lazy)] = True
    for other in range(len(snapshot.processes)):
        if other != process:
            mine = sorted({c % setting.cpus for c in snapshot.processes.running(other)})
            # A CPU runs one process at a time: the target comes first.
            mask[other, [c for c in mine if not mask[:, c].any()]] = True
    lazy = np.zeros(setting.cpus, bool)
    lazy[list(setting.lazy)] = True
    return mask, lazy
