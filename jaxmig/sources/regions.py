"""Processes, their regions and the regions' conditions, as rows on the host.

Folios, entries and conditions are numpy arrays with a row each, as `assemble.py` takes
them; no Python loop goes over pages.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.host.naming import TargetError
from jaxmig.sources.assemble import Entries, Folios
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.machine import PMD_PAGES

KINDS: Final = {
    "anon": frame.ANON,
    "cow": frame.ANON,
    "shmem": frame.SHMEM,
    "file": frame.FILE,
    "ksm": frame.KSM,
    "swapcache": frame.SWAPCACHE,
    "movable_ops": frame.MOVABLE_OPS,
    "hugetlb": frame.HUGETLB,
}
PARTS: Final = 1_000_000  # of a whole: a ten-thousandth of a percent each
PIN_REFS: Final = 1024  # GUP_PIN_COUNTING_BIAS
MARK_STATES: Final = {
    "young": cond.YOUNG,
    "freed": cond.FREED,
    "released": cond.RELEASED,
    "isolated": cond.ISOLATED,
}


@dataclasses.dataclass
class Process:
    """An address space and the CPUs that hold it."""

    name: str
    number: int
    running: tuple[int, ...]
    lazy: tuple[int, ...]


@dataclasses.dataclass
class Region:
    """Consecutive pages that one or more processes map at the same address."""

    name: str
    processes: tuple[Process, ...]
    pages: int  # base pages
    order: int
    kind: str
    node: int
    start: int  # address
    writable: bool
    mlocked: bool
    migratable: bool
    private: bool
    prot_none: bool
    mapped_twice: bool = False  # each process maps it again, right after the first
    shared: bool = True
    migrate_folio: bool = True  # of a file system: whether it has that operation
    first_folio: int = 0
    # By process: number of the first PTE and, under PMD mappings, of the first leaf.
    first_pte: dict[int, int] = dataclasses.field(default_factory=dict)
    first_pmd: dict[int, int] = dataclasses.field(default_factory=dict)
    # The same of the second mapping.
    again_pte: dict[int, int] = dataclasses.field(default_factory=dict)
    again_pmd: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def folios(self) -> int:
        """How many folios it has."""
        return self.pages >> self.order

    @property
    def by_pmd(self) -> bool:
        """Whether PMD leaves map it."""
        return self.order == frame.PMD_ORDER

    @property
    def exclusive(self) -> bool:
        """Anonymous or hugetlb memory of a single process."""
        return self.kind in ("anon", "hugetlb") and len(self.processes) == 1


@dataclasses.dataclass
class Condition:
    """A state of some folios of a region."""

    region: Region
    folios: np.ndarray
    state: str
    left: int
    endless: bool


def folios_of(regions: list[Region]) -> Folios:
    columns: list[list[np.ndarray]] = [[], [], []]
    first = 0
    for r in regions:
        r.first_folio, first = first, first + r.folios
        flags = KINDS[r.kind]
        flags |= 0 if r.kind == "movable_ops" else frame.LRU
        flags |= frame.MLOCKED if r.mlocked else 0
        flags |= frame.PRIVATE if r.private else 0
        flags |= frame.EXCLUSIVE_MAP if r.exclusive else 0
        flags |= frame.DIRTY if frame.is_anon_host(flags) else 0
        for column, value in zip(columns, (r.order, r.node, flags), strict=True):
            column.append(np.full(r.folios, value, np.int32))
    order, node, flags_ = (
        np.concatenate(c) if c else np.zeros(0, np.int32) for c in columns
    )
    return Folios(order, node, flags_, np.zeros(order.shape[0], np.int32))


def _bits(region: Region, process: Process) -> int:
    """The bits of the entry of a page that was written once, if its area is writable.

    A file's pages have been written back since.  Pages shared by fork() are still dirty,
    but not writable; nor are entries under PROT_NONE.
    """
    bits = (process.number << pte.MM_SHIFT) | pte.PRESENT | pte.YOUNG
    bits |= pte.VM_WRITE if region.writable else 0
    bits |= pte.VM_LOCKED if region.mlocked else 0
    bits |= (pte.VM_PROT_NONE | pte.PROT_NONE) if region.prot_none else 0
    if region.exclusive:
        bits |= pte.EXCLUSIVE
    direct = region.exclusive or region.kind in (
        "shmem",
        "file",
        "hugetlb",
        "movable_ops",
    )
    direct &= region.shared
    if region.writable and direct and not region.prot_none:
        bits |= pte.WRITE
    if region.writable and region.kind != "file":
        bits |= pte.DIRTY | pte.SOFT_DIRTY
    return bits


def entries_of(
    regions: list[Region],
    processes: list[Process],
    marks: dict[int, list[tuple[str, np.ndarray]]],
) -> tuple[Entries, Entries, np.ndarray]:
    small: list[list[np.ndarray]] = [[], [], []]
    large: list[list[np.ndarray]] = [[], [], []]
    table: list[np.ndarray] = []
    turns: list[np.ndarray] = []
    n_pte = n_pmd = 0
    for p in processes:
        for r, ptes_at, pmds_at in _mappings(p, regions):
            ptes_at[p.number], n_pte = n_pte, n_pte + r.pages
            page = np.arange(r.pages)
            folio = r.first_folio + (page >> r.order)
            sub = (page & ((1 << r.order) - 1)).astype(np.int32)
            bits = np.full(r.pages, _bits(r, p), np.int32)
            _mark(folio, bits, marks.get(id(r), []))
            if r.by_pmd:
                pmds_at[p.number], n_pmd = n_pmd, n_pmd + r.folios
                first = page[::PMD_PAGES]
                zero = (bits & pte.ZERO_PAGE) != 0
                leaf = np.where(zero, bits & pte.STAYS, bits)
                _append(large, folio[first], sub[first], leaf[first])
                table.append((ptes_at[p.number] + first).astype(np.int32))
                # The rmap walk follows the order of the region's processes.
                turns.append(np.full(r.folios, r.processes.index(p), np.int32))
                folio = np.full(r.pages, -1)
                bits = np.where(zero, bits, bits & pte.STAYS)
            _append(small, folio, sub, bits)
    pmd_table = np.concatenate(table) if table else np.zeros(0, np.int32)
    leaves = _join(large)
    if turns:
        leaves.turn = np.concatenate(turns)
    return _join(small), leaves, pmd_table


def _mappings(
    process: Process, regions: list[Region]
) -> Iterator[tuple[Region, dict[int, int], dict[int, int]]]:
    """The mappings of a process in address order: regions, and dicts for their entries."""
    for r in regions:
        if process in r.processes:
            yield r, r.first_pte, r.first_pmd
            if r.mapped_twice:
                yield r, r.again_pte, r.again_pmd


def _mark(
    folio: np.ndarray, bits: np.ndarray, marks: list[tuple[str, np.ndarray]]
) -> None:
    """Apply states of entries: absent, zero page, PROT_NONE."""
    # A page never touched is absent, also if it has other states.
    for state, index in sorted(marks, key=lambda m: m[0] == "untouched"):
        if state == "prot_none":
            bits[index] |= np.where(folio[index] >= 0, pte.PROT_NONE, 0)
            continue
        folio[index] = -1
        bits[index] &= pte.STAYS
        if state == "zero_page":
            bits[index] |= pte.ZERO_PAGE | pte.PRESENT


def _append(columns: list[list[np.ndarray]], *values: np.ndarray) -> None:
    for column, value in zip(columns, values, strict=True):
        column.append(value)


def _join(columns: list[list[np.ndarray]]) -> Entries:
    folio, page, bits = (
        np.concatenate(c) if c else np.zeros(0, np.int64) for c in columns
    )
    return Entries(folio.astype(np.int64), page.astype(np.int32), bits.astype(np.int32))


def spread(items: np.ndarray, percent: float) -> np.ndarray:
    """A share of the elements of `items`, evenly spread and rounded down.

    Raises:
      TargetError: a share above 0 of less than one element.
    """
    i, parts = np.arange(len(items), dtype=np.int64), round(percent * PARTS / 100)
    chosen: np.ndarray = items[(i + 1) * parts // PARTS > i * parts // PARTS]
    if percent and len(items) and not len(chosen):
        least = math.ceil(PARTS / len(items)) * 100 / PARTS
        raise TargetError(
            f"{percent:g} % is less than one of {len(items):,} folios; "
            f"give {least:g} or more"
        )
    return chosen


def states_of(
    regions: list[Region], conditions: list[Condition], folios: Folios
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if not conditions and not any(r.kind == "movable_ops" for r in regions):
        return None, None
    left = np.zeros((folios.order.shape[0], len(cond.STATES)), np.int32)
    marks = np.zeros(folios.order.shape[0], np.int32)
    for c in conditions:
        _apply(c, folios, left, marks)
    return left, marks


def _apply(
    condition: Condition, memory: Folios, left: np.ndarray, marks: np.ndarray
) -> None:
    folios = condition.region.first_folio + condition.folios
    unique, times = np.unique(folios, return_counts=True)
    if condition.state in MARK_STATES:
        marks[unique] |= MARK_STATES[condition.state] if condition.left else 0
    elif condition.state == "dirty":
        # PG_dirty; memory of other kinds is as dirty as its kind.
        if condition.left and condition.region.kind == "file":
            lacking = not condition.region.migrate_folio
            memory.flags[unique] |= 0 if lacking else frame.DIRTY
            marks[unique] |= cond.UNWRITTEN if lacking else 0
    elif condition.state == "partially_mapped":
        memory.flags[unique] |= frame.SPLIT_QUEUED if condition.left else 0
    else:
        name = "private" if condition.state == "no_mapping" else condition.state
        state = cond.STATES.index(name)
        left[unique, state] = np.maximum(left[unique, state], condition.left)
        if condition.endless:
            marks[unique] |= cond.forever(state)
        if state == cond.EXTRA_REF and condition.left:
            memory.extra_refs[unique] += times.astype(np.int32)
            marks[unique] += times.astype(np.int32) << cond.EXTRA_SHIFT
        if state == cond.PINNED and condition.left:
            refs = 1 if condition.region.order else PIN_REFS
            # Two pins of a folio are one: they end together.
            fresh = unique[(marks[unique] & cond.PIN_HELD) == 0]
            memory.extra_refs[fresh] += refs
            marks[fresh] |= cond.PIN_HELD
        if state == cond.BUFFERS_LOCKED:
            memory.flags[unique] |= frame.PRIVATE
    if condition.state == "isolated" and condition.left:
        memory.flags[unique] &= ~frame.LRU
        left[unique, cond.TAKEN] = np.maximum(left[unique, cond.TAKEN], condition.left)
