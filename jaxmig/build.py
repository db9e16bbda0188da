"""Building a machine: nodes, CPUs, processes, and the regions they map.

b = Builder(nodes=2, cpus=4)
app = b.process("app", running=[1, 2, 3])
heap = b.mmap(app, pages=1000, node=0)
state = b.build()
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from jaxmig import arguments, conditions as cond, frame, pte
from jaxmig.alike import FEW_PAGES, SMALL, alike
from jaxmig.assemble import EXACT, Entries, Folios, Hardware, assemble
from jaxmig.machine import PMD_PAGES, Machine

FIRST_ADDRESS: Final = 0x10000000
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
SHARED_KINDS: Final = ("shmem", "file")  # what a process may map twice
PIN_REFS: Final = 1024  # GUP_PIN_COUNTING_BIAS
# States of an entry rather than of what it maps.
ENTRY_STATES: Final = ("untouched", "zero_page", "prot_none")
# And of a page itself, whatever folio it is of.
PAGE_STATES: Final = {"zero": frame.ZERO, "poisoned": frame.POISONED}
MARK_STATES: Final = {
    "young": cond.YOUNG,
    "freed": cond.FREED,
    "released": cond.RELEASED,
    "isolated": cond.ISOLATED,
}
STATES: Final = (
    *(*ENTRY_STATES, *PAGE_STATES, *cond.STATES, *MARK_STATES),
    *("partially_mapped", "no_mapping", "dirty"),
)
# What the model can hold at once; all of it together must fit its int32 numbers.
MOST_NODES: Final = 1024  # MAX_NUMNODES
MOST_CPUS: Final = 1 << 16
MOST_SETS: Final = 1 << 20
MOST_WAYS: Final = 1 << 10
MOST_PAGES: Final = 1 << 30
MOST_REFS: Final = (1 << (31 - cond.EXTRA_SHIFT)) - 1


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
    mapped_twice: bool = False  # each process maps it again, right behind
    shared: bool = True
    first_folio: int = 0
    # Per process: number of the first PTE and, under PMD mappings, of the first leaf.
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
class _Condition:
    region: Region
    folios: np.ndarray
    state: str
    left: int
    endless: bool


class Builder:
    """Collects processes, regions and conditions; `build()` lays them out.

    Sizes are in base pages of 4 KiB.  `free` limits the free memory of a node; a node
    without a limit has room for all pages of the machine.
    """

    def __init__(
        self,
        nodes: int = 2,
        cpus: int = 4,
        *,
        free: Sequence[int | None] = (),
        tlb: tuple[int, int] = (128, 12),
        huge_tlb: tuple[int, int] = (128, 12),
    ) -> None:
        """An empty machine.

        Args:
          free: base pages a node, None: as many as there is room for.
          tlb, huge_tlb: sets and ways of a CPU's TLB, of 4 KiB and of 2 MiB entries.
        Raises:
          ValueError: for a number that is none, or out of range.
        """
        self.nodes = arguments.whole("nodes", nodes, 1, MOST_NODES)
        self.cpus = arguments.whole("cpus", cpus, 1, MOST_CPUS)
        self.free = _free(free, self.nodes)
        self.tlb, self.huge_tlb = _ways("tlb", tlb), _ways("huge_tlb", huge_tlb)
        self.processes: list[Process] = []
        self.regions: list[Region] = []
        self._conditions: list[_Condition] = []
        self._marks: dict[int, list[tuple[str, np.ndarray]]] = {}
        self._page_marks: list[tuple[Region, np.ndarray, int]] = []
        self._refs: dict[int, np.ndarray] = {}  # extra ones, by folio of a region
        self._next = FIRST_ADDRESS
        self.splits = False  # room for the pieces of every large folio

    def process(
        self, name: str, running: Iterable[int] = (), lazy: Iterable[int] = ()
    ) -> Process:
        """A process; `running` and `lazy` CPUs are in its mm_cpumask.

        Raises:
          ValueError: for a CPU that the machine has not, or that is named twice.
        """
        where, last = f"process {name}: CPU", self.cpus - 1
        p = Process(
            name,
            len(self.processes),
            tuple(arguments.whole(where, c, 0, last) for c in running),
            tuple(arguments.whole(where, c, 0, last) for c in lazy),
        )
        twice = sorted(p.running + p.lazy)
        if len(set(twice)) < len(twice):
            raise ValueError(f"process {name}: a CPU is named twice: {twice}")
        if p.number >= pte.MAX_MM:
            raise ValueError(f"process {name}: at most {pte.MAX_MM} processes")
        self.processes.append(p)
        return p

    def mmap(
        self,
        processes: Process | Sequence[Process],
        pages: int,
        node: int = 0,
        *,
        order: int = 0,
        kind: str = "anon",
        name: str = "",
        writable: bool = True,
        mlocked: bool = False,
        migratable: bool = True,
        private: bool = False,
        prot_none: bool = False,
        mapped_twice: bool = False,
        shared: bool = True,
    ) -> Region:
        """Map `pages` base pages on `node` into one process, or into several at once.

        Args:
          mapped_twice: each of them maps the pages a second time, right behind.
          shared: of a file: MAP_SHARED, so that stores go to the file's pages.

        Raises:
          ValueError: for an unknown kind or node, a size that folios do not fill, a
            second mapping of what only a file's pages can have, and for processes that
            are none, another builder's, or named twice.
        """
        owners = (processes,) if isinstance(processes, Process) else tuple(processes)
        self._check_owners(owners)
        arguments.one_of("kind", kind, KINDS)
        node = arguments.whole("node", node, 0, self.nodes - 1)
        order = arguments.whole("order", order, 0, frame.PMD_ORDER)
        pages = arguments.whole("pages", pages, 1, MOST_PAGES)
        if pages % (1 << order):
            raise ValueError(f"{pages} pages: not a multiple of 2^{order}")
        if mapped_twice and kind not in SHARED_KINDS:
            raise ValueError(
                f"mapped_twice: {kind} pages are not; shmem and file may be"
            )
        size = 4096 << order
        start = -(-self._next // size) * size
        self._next = start + pages * 4096 * (1 + mapped_twice)
        region = Region(
            name or f"region{len(self.regions)}",
            owners,
            pages,
            order,
            "cow" if kind == "anon" and len(owners) > 1 else kind,
            node,
            start,
            writable,
            mlocked,
            migratable,
            private,
            prot_none,
            mapped_twice,
            shared,
        )
        self.regions.append(region)
        return region

    def _check_owners(self, owners: tuple[Process, ...]) -> None:
        for p in owners:
            if not any(p is mine for mine in self.processes):
                raise ValueError(f"process {p!r:.40}: none of this machine")
        if not owners or len({p.number for p in owners}) < len(owners):
            raise ValueError("processes: give at least one, and each once")

    def condition(
        self,
        region: Region,
        state: str,
        pages: Iterable[int] | None = None,
        until: str | int = "forever",
    ) -> None:
        """Put `state` in the way of some base pages of a region (None: of all).

        `until`: "forever", "waited" (until somebody sleeps on it), or n: gone when the
        kernel looks for the n-th time, n at most 255.

        Raises:
          ValueError: for another builder's region, an unknown state or end, and pages
            that the region has not.
        """
        if not any(region is mine for mine in self.regions):
            raise ValueError(f"region {region!r:.40}: none of this machine")
        arguments.one_of("state", state, STATES)
        if isinstance(until, str):
            arguments.one_of("until", until, ("forever", "waited"))
        else:
            until = arguments.whole("until", until, 1, cond.UNTIL_WAITED)
        index = _indices(range(region.pages) if pages is None else pages)
        outside = (index < 0) | (index >= region.pages)
        if outside.any():
            page = index[int(outside.argmax())]
            raise ValueError(f"page {page} of {region.name}: must be 0 to "
                             f"{region.pages - 1}")  # fmt: skip
        if state in ENTRY_STATES:
            whole = _whole_folios(index, region.order)
            self._marks.setdefault(id(region), []).append((state, whole))
            return
        if state in PAGE_STATES:
            self._page_marks.append((region, index, PAGE_STATES[state]))
            return
        left = cond.UNTIL_WAITED if isinstance(until, str) else until - 1
        endless = until == "forever"
        # Every page of a larger folio named is one more reference, but one state.
        folios = index >> region.order
        if state == "extra_ref":
            self._count_refs(region, folios)
        self._conditions.append(_Condition(region, folios, state, left, endless))

    def _count_refs(self, region: Region, folios: np.ndarray) -> None:
        none = np.zeros(region.folios, np.int64)
        held = self._refs.setdefault(id(region), none)
        np.add.at(held, folios, 1)
        if held.max(initial=0) > MOST_REFS:
            raise ValueError(f"extra_ref: {held.max()} references to a folio of "
                             f"{region.name}: at most {MOST_REFS}")  # fmt: skip

    def build(
        self,
        *,
        content: bool = True,
        seed: int | None = None,
        headroom: bool = False,
        share_programs: bool = False,
    ) -> Machine:
        """The machine.

        Args:
          content: whether frames hold their 4 KiB.
          seed: frames are in random order on their nodes if there is one.
          headroom: whether a node can be source and destination of one call.
          share_programs: a small machine without contents gets nodes, CPUs, address
            spaces and frames that nobody uses, so that others share its compiled
            programs (see alike.py).
        """
        f = _folios(self.regions)
        ptes, pmds, table = _entries(self.regions, self.processes, self._marks)
        left, marks = _states(self.regions, self._conditions, f)
        for r, index, bit in self._page_marks:
            page = index & ((1 << r.order) - 1)
            f.marks.append((r.first_folio + (index >> r.order), page, bit))
        hw = Hardware(
            self.nodes,
            *_masks(self),
            tlb=self.tlb,
            huge_tlb=self.huge_tlb,
            free=self.free,
        )
        pages = sum(r.pages for r in self.regions)
        share = share_programs and not content and pages <= FEW_PAGES
        return assemble(
            alike(hw) if share else hw,
            f,
            ptes,
            pmds,
            table,
            left=left,
            marks=marks,
            splits=self.splits,
            headroom=headroom or share,
            seed=seed,
            content=content,
            classes=SMALL if share else EXACT,
        )


def _free(free: Sequence[int | None], nodes: int) -> list[int | None]:
    """Limits of nodes, as many as there are at most."""
    arguments.whole("free: its length", len(free), 0, nodes)
    return [
        None if n is None else arguments.whole(f"free[{i}]", n, 0)
        for i, n in enumerate(free)
    ]


def _ways(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2:
        raise ValueError(f"{name} {size!r:.40}: give (sets, ways)")
    return (
        arguments.whole(f"{name}: sets", size[0], 1, MOST_SETS),
        arguments.whole(f"{name}: ways", size[1], 1, MOST_WAYS),
    )


def _masks(b: Builder) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((max(len(b.processes), 1), b.cpus), bool)
    lazy = np.zeros(b.cpus, bool)
    for p in b.processes:
        mask[p.number, list(p.running + p.lazy)] = True
        lazy[list(p.lazy)] = True
    return mask, lazy


def _folios(regions: list[Region]) -> Folios:
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


def _bits(r: Region, p: Process) -> int:
    """The bits of a page that was written once, if its area lets it be written.

    A file's pages have been written back since.  What fork() left behind is dirty still,
    but may not be written; nor may anything under PROT_NONE.
    """
    bits = (p.number << pte.MM_SHIFT) | pte.PRESENT | pte.YOUNG
    bits |= pte.VM_WRITE if r.writable else 0
    bits |= pte.VM_LOCKED if r.mlocked else 0
    bits |= (pte.VM_PROT_NONE | pte.PROT_NONE) if r.prot_none else 0
    if r.exclusive:
        bits |= pte.EXCLUSIVE
    direct = r.exclusive or r.kind in ("shmem", "file", "hugetlb", "movable_ops")
    direct &= r.shared
    if r.writable and direct and not r.prot_none:
        bits |= pte.WRITE
    if r.writable and r.kind != "file":
        bits |= pte.DIRTY | pte.SOFT_DIRTY
    return bits


def _indices(pages: Iterable[int]) -> np.ndarray:
    if isinstance(pages, range):
        return np.arange(pages.start, pages.stop, pages.step)
    index = np.asarray(list(pages))
    if index.size and (index.dtype.kind not in "iu" or index.ndim != 1):
        raise ValueError(f"pages {index[0]!r:.40}: give whole numbers, or None for all")
    return index.astype(np.int64)


def _whole_folios(index: np.ndarray, order: int) -> np.ndarray:
    """The pages of all folios that a list of pages touches."""
    first = np.unique(index >> order) << order
    return (first[:, None] + np.arange(1 << order)).reshape(-1)


def _entries(
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
                # The rmap walk goes by the region's list.
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
    p: Process, regions: list[Region]
) -> Iterator[tuple[Region, dict[int, int], dict[int, int]]]:
    """What a process maps, in address order: regions, and where their entries are kept."""
    for r in regions:
        if p in r.processes:
            yield r, r.first_pte, r.first_pmd
            if r.mapped_twice:
                yield r, r.again_pte, r.again_pmd


def _mark(
    folio: np.ndarray, bits: np.ndarray, marks: list[tuple[str, np.ndarray]]
) -> None:
    """Pages never touched map nothing; a read-only touch maps the zero page."""
    # What was never touched is absent, whatever else is said of it.
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


def _states(
    regions: list[Region], conditions: list[_Condition], f: Folios
) -> tuple[np.ndarray | None, np.ndarray | None]:
    if not conditions and not any(r.kind == "movable_ops" for r in regions):
        return None, None
    left = np.zeros((f.order.shape[0], len(cond.STATES)), np.int32)
    marks = np.zeros(f.order.shape[0], np.int32)
    for c in conditions:
        _apply(c, f, left, marks)
    return left, marks


def _apply(c: _Condition, f: Folios, left: np.ndarray, marks: np.ndarray) -> None:
    folios = c.region.first_folio + c.folios
    unique, times = np.unique(folios, return_counts=True)
    if c.state in MARK_STATES:
        marks[unique] |= MARK_STATES[c.state] if c.left else 0
    elif c.state == "dirty":
        # PG_dirty; memory of other kinds is as dirty as its kind.
        dirty = c.left and c.region.kind == "file"
        f.flags[unique] |= frame.DIRTY if dirty else 0
    elif c.state == "partially_mapped":
        f.flags[unique] |= frame.SPLIT_QUEUED if c.left else 0
    else:
        name = "private" if c.state == "no_mapping" else c.state
        state = cond.STATES.index(name)
        left[unique, state] = np.maximum(left[unique, state], c.left)
        if c.endless:
            marks[unique] |= cond.forever(state)
        if state == cond.EXTRA_REF and c.left:
            f.extra_refs[unique] += times.astype(np.int32)
            marks[unique] += times.astype(np.int32) << cond.EXTRA_SHIFT
        if state == cond.PINNED and c.left:
            refs = 1 if c.region.order else PIN_REFS
            # Pinned twice is pinned: all is over at once, whatever said so.
            fresh = unique[(marks[unique] & cond.PIN_HELD) == 0]
            f.extra_refs[fresh] += refs
            marks[fresh] |= cond.PIN_HELD
        if state == cond.BUFFERS_LOCKED:
            f.flags[unique] |= frame.PRIVATE
    if c.state == "isolated" and c.left:
        f.flags[unique] &= ~frame.LRU
        left[unique, cond.TAKEN] = np.maximum(left[unique, cond.TAKEN], c.left)
