"""Building a machine: nodes, CPUs, processes, and the regions they map.

b = Builder(nodes=2, cpus=4)
app = b.process("app", running=[1, 2, 3])
heap = b.mmap(app, pages=1000, node=0)
state = b.build()
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.sources.alike import (
    FEW_PAGES,
    FEW_WITH_CONTENTS,
    SMALL,
    WITH_CONTENTS,
    alike,
)
from jaxmig.sources.assemble import EXACT, Hardware, assemble
from jaxmig.sources.regions import (
    KINDS,
    MARK_STATES,
    Condition,
    Process,
    Region,
    entries_of,
    folios_of,
    states_of,
)
from jaxmig.state import arguments, conditions as cond, frame, pte
from jaxmig.state.machine import Machine

FIRST_ADDRESS: Final = 0x10000000
SHARED_KINDS: Final = ("shmem", "file")  # kinds that a process may map twice
# States of an entry rather than of the folio that it maps.
ENTRY_STATES: Final = ("untouched", "zero_page", "prot_none")
# States of a single page of any folio.
PAGE_STATES: Final = {"zero": frame.ZERO, "poisoned": frame.POISONED}
STATES: Final = (
    *(*ENTRY_STATES, *PAGE_STATES, *cond.STATES, *MARK_STATES),
    *("partially_mapped", "no_mapping", "dirty"),
)
# Limits of a machine; its numbers are int32.
MOST_NODES: Final = 1024  # MAX_NUMNODES
MOST_CPUS: Final = 1 << 16
MOST_SETS: Final = 1 << 20
MOST_WAYS: Final = 1 << 10
MOST_PAGES: Final = 1 << 30
MOST_REFS: Final = (1 << (31 - cond.EXTRA_SHIFT)) - 1


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
          free: base pages free on each node, None: as many as there is room for.
          tlb, huge_tlb: sets and ways of a CPU's TLB, of 4 KiB and of 2 MiB entries.
        Raises:
          ValueError: for a value that is no whole number, or out of range.
        """
        self.nodes = arguments.whole("nodes", nodes, 1, MOST_NODES)
        self.cpus = arguments.whole("cpus", cpus, 1, MOST_CPUS)
        self.free = _free(free, self.nodes)
        self.tlb, self.huge_tlb = _ways("tlb", tlb), _ways("huge_tlb", huge_tlb)
        self.processes: list[Process] = []
        self.regions: list[Region] = []
        self._conditions: list[Condition] = []
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
          ValueError: for a CPU that the machine lacks, or that is named twice.
        """
        arguments.text("name", name)
        last = self.cpus - 1
        cpus = (
            tuple(arguments.numbers(what, some, 0, last, each=f"process {name}: CPU"))
            for what, some in (("running", running), ("lazy", lazy))
        )
        p = Process(name, len(self.processes), *cpus)
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
        migrate_folio: bool = True,
    ) -> Region:
        """Map `pages` base pages on `node` into one process, or into several at once.

        Args:
          pages: base pages, a multiple of 2^order.
          order: log2 of the base pages of each folio, at most that of a PMD.
          kind: anon, cow, shmem, file, ksm, swapcache, movable_ops or hugetlb.
          name: of the region, for errors.
          writable, mlocked, prot_none: of the area: VM_WRITE, mlock(2), PROT_NONE.
          migratable: whether the area may migrate (vma_migratable()).
          private: pages have buffers or other private data.
          mapped_twice: each process maps the pages a second time, right after the first.
          shared: of a file: MAP_SHARED, so that stores go to the file's pages.
          migrate_folio: of a file: its file system has that operation.  Without it, base
            pages without buffers are modelled (fallback_migrate_folio()).

        Raises:
          ValueError: for an unknown kind or node, a size that folios do not fill, what
            only a file's pages can have, and for processes that are none, another
            builder's, or named twice.
        """
        owners = self._owners(processes)
        arguments.text("name", name)
        arguments.one_of("kind", kind, KINDS)
        node = arguments.whole("node", node, 0, self.nodes - 1)
        order = arguments.whole("order", order, 0, frame.PMD_ORDER)
        pages = arguments.whole("pages", pages, 1, MOST_PAGES)
        if pages % (1 << order):
            raise ValueError(f"{pages} pages: not a multiple of 2^{order}")
        there = sum(r.pages for r in self.regions)
        if there + pages > MOST_PAGES:
            raise ValueError(
                f"pages {pages}: {there} are mapped already; at most {MOST_PAGES} in all"
            )
        if mapped_twice and kind not in SHARED_KINDS:
            raise ValueError(
                f"mapped_twice: {kind} pages are not; shmem and file may be"
            )
        if not migrate_folio and (kind != "file" or order or private):
            raise ValueError(
                "migrate_folio: only a file's base pages without buffers may lack it"
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
            migrate_folio,
        )
        self.regions.append(region)
        return region

    def _owners(self, processes: Any) -> tuple[Process, ...]:
        several = isinstance(processes, Iterable) and not isinstance(processes, Process)
        owners = tuple(processes) if several else (processes,)
        for p in owners:
            if not any(p is mine for mine in self.processes):
                raise ValueError(f"process {p!r:.40}: none of this machine")
        if not owners or len({p.number for p in owners}) < len(owners):
            raise ValueError("processes: give at least one, and each once")
        return owners

    def condition(
        self,
        region: Region,
        state: str,
        pages: Iterable[int] | None = None,
        until: str | int = "forever",
    ) -> None:
        """Give some base pages of a region a state that affects their migration.

        Args:
          state: a name in STATES.
          pages: numbers within the region, counted from 0; None for all.
          until: "forever"; "waited", until a call sleeps on it; or n from 1 to 255: the
            state is gone when the kernel tests it for the n-th time.
        Raises:
          ValueError: for another builder's region, an unknown state or end, and pages
            that the region lacks.
        """
        if not any(region is mine for mine in self.regions):
            raise ValueError(f"region {region!r:.40}: none of this machine")
        arguments.one_of("state", state, STATES)
        if state == "buffers_locked" and not region.migrate_folio:
            raise ValueError("buffers_locked: not modelled without migrate_folio")
        if isinstance(until, str):
            arguments.one_of("until", until, ("forever", "waited"))
        else:
            until = arguments.whole("until", until, 1, cond.UNTIL_WAITED)
        index = _indices(region, range(region.pages) if pages is None else pages)
        if state in ENTRY_STATES:
            whole = _whole_folios(index, region.order)
            self._marks.setdefault(id(region), []).append((state, whole))
            return
        if state in PAGE_STATES:
            self._page_marks.append((region, index, PAGE_STATES[state]))
            return
        left = cond.UNTIL_WAITED if isinstance(until, str) else until - 1
        endless = until == "forever"
        # Each page named adds a reference to its folio, but all share one state.
        folios = index >> region.order
        if state == "extra_ref":
            self._count_refs(region, folios)
        self._conditions.append(Condition(region, folios, state, left, endless))

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
        """Lay out the machine.

        Args:
          content: whether frames hold their 4 KiB.
          seed: frames are in random order on their nodes if there is one, 0 or more.
          headroom: whether a node can be source and destination of one call.
          share_programs: a small machine gets nodes, CPUs, address spaces and frames
            that nobody uses, so that others share its compiled programs (see alike.py).
        Raises:
          ValueError: for a seed that is none, and for more frames than int32 can number.
        """
        if seed is not None:
            seed = arguments.whole("seed", seed, 0, arguments.WORD)
        f = folios_of(self.regions)
        ptes, pmds, table = entries_of(self.regions, self.processes, self._marks)
        left, marks = states_of(self.regions, self._conditions, f)
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
        few, small = (
            (FEW_WITH_CONTENTS, WITH_CONTENTS) if content else (FEW_PAGES, SMALL)
        )
        share = share_programs and pages <= few
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
            classes=small if share else EXACT,
        )


def _free(free: Sequence[int | None], nodes: int) -> list[int | None]:
    """Limits of nodes, as many as there are at most."""
    if isinstance(free, str | bytes) or not isinstance(free, Sequence | np.ndarray):
        raise ValueError(f"free {free!r:.40}: give a list, a number or None each node")
    arguments.whole("free: its length", len(free), 0, nodes)
    return [
        None if n is None else arguments.whole(f"free[{i}]", n, 0)
        for i, n in enumerate(free)
    ]


def _ways(name: str, size: Sequence[int]) -> tuple[int, int]:
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"{name} {size!r:.40}: give (sets, ways)")
    return (
        arguments.whole(f"{name}: sets", size[0], 1, MOST_SETS),
        arguments.whole(f"{name}: ways", size[1], 1, MOST_WAYS),
    )


def _masks(builder: Builder) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((max(len(builder.processes), 1), builder.cpus), bool)
    lazy = np.zeros(builder.cpus, bool)
    for p in builder.processes:
        mask[p.number, list(p.running + p.lazy)] = True
        lazy[list(p.lazy)] = True
    return mask, lazy


def _indices(region: Region, pages: Any) -> np.ndarray:
    """Pages of a region. Raises ValueError for what is none of them."""
    if isinstance(pages, str) or not isinstance(pages, Iterable):
        raise ValueError(f"pages {pages!r:.40}: give whole numbers, or None for all")
    # The ends of a range tell, before a long one is written out.
    known = [*pages[:1], *pages[-1:]] if isinstance(pages, range) else list(pages)
    index = np.asarray(known)
    if index.size and (index.dtype.kind not in "iu" or index.ndim != 1):
        raise ValueError(f"pages {index[0]!r:.40}: give whole numbers, or None for all")
    outside = (index < 0) | (index >= region.pages)
    if outside.any():
        page = index[int(outside.argmax())]
        last = region.pages - 1
        raise ValueError(f"page {page} of {region.name}: must be 0 to {last}")
    if isinstance(pages, range):
        return np.arange(pages.start, pages.stop, pages.step)
    return index.astype(np.int64)


def _whole_folios(index: np.ndarray, order: int) -> np.ndarray:
    """All pages of the folios that the pages in `index` belong to."""
    first = np.unique(index >> order) << order
    return (first[:, None] + np.arange(1 << order)).reshape(-1)
