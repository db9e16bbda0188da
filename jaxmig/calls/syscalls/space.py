"""A process's address space on the host: its areas, and what its entries map.

Everything here is a numpy array over pages or entries, so that a process of millions of
pages is scanned without a Python loop.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.state import arguments, conditions as cond, frame, pte
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Geometry, Machine

MOST = 2**52 - 1  # pages of an address space
Pages = Int64[np.ndarray, " pages"]
Heads = Int32[np.ndarray, " folios"]


@dataclasses.dataclass(frozen=True)
class Area:
    """A VMA: consecutive pages with consecutive entries."""

    start: int  # virtual page number
    pages: int
    first_pte: int
    first_pmd: int = -1  # entry of the first PMD leaf, -1 if PTEs map the area
    migratable: bool = True
    anonymous: bool = True  # vma_is_anonymous()
    hugetlb: bool = False
    again: bool = False  # maps what another area of the process maps, too
    writable: bool = True  # VM_WRITE
    accessible: bool = True  # vma_is_accessible(): not PROT_NONE
    executable: bool = False  # VM_EXEC
    shared: bool = False  # VM_SHARED
    file: bool = False  # vm_file: of a file or shmem, whatever its pages are by now


class Space:
    """The areas of one process in ascending order, as columns."""

    def __init__(self, areas: Sequence[Area]) -> None:
        """Raises ValueError for areas that overlap, or whose numbers are none."""

        def numbers(name: str, least: int, some: Sequence[Area]) -> np.ndarray:
            made = [getattr(a, name) for a in some]
            return np.asarray(
                arguments.numbers(f"area: {name}", made, least, MOST), np.int64
            )

        order = np.argsort(numbers("start", 0, areas), kind="stable")
        self.areas = tuple(areas[i] for i in order)
        self.start = numbers("start", 0, self.areas)
        self.pages = numbers("pages", 0, self.areas)
        self.first_pte = numbers("first_pte", 0, self.areas)
        self.first_pmd = numbers("first_pmd", -1, self.areas)
        over = self.start[1:] < (self.start + self.pages)[:-1]
        if over.any():
            page = self.start[int(over.argmax()) + 1]
            raise ValueError(f"areas: page {page:#x} lies in two of them")
        self.migratable = np.asarray([a.migratable for a in self.areas], bool)
        self.anonymous = np.asarray([a.anonymous for a in self.areas], bool)
        self.hugetlb = np.asarray([a.hugetlb for a in self.areas], bool)
        self.maps_twice = any(a.again for a in self.areas)

    def check(self, m: Machine) -> None:
        """Raises ValueError for areas whose entries the machine has not."""
        ptes, last = m.geometry.ptes, m.pte.shape[0]
        wrong = self.first_pte + self.pages > ptes
        leaves = self.first_pmd - (-self.pages // PMD_PAGES)
        huge = self.first_pmd >= 0
        wrong |= huge & ((self.first_pmd < ptes) | (leaves > last))
        if wrong.any():
            a = self.areas[int(wrong.argmax())]
            raise ValueError(
                f"area of {a.pages} pages from entry {a.first_pte}, leaf {a.first_pmd}: "
                f"the machine has entries 0 to {ptes - 1}, leaves {ptes} to {last - 1}"
            )

    def area_of(self, vpn: np.ndarray) -> Pages:
        """Index of the area that holds each page, -1 if none does."""
        if not self.areas:
            return np.full(vpn.shape, -1, np.int64)
        i = np.searchsorted(self.start, vpn, side="right") - 1
        at = np.maximum(i, 0)
        return np.where((i >= 0) & (vpn < self.start[at] + self.pages[at]), at, -1)

    def covers(self, first: int, last: int) -> bool:
        """Whether areas lie gapless over the pages `first` ... `last` - 1."""
        at = first
        for a in self.areas:
            if a.start <= at < a.start + a.pages:
                at = a.start + a.pages
        return at >= last


@dataclasses.dataclass(frozen=True)
class View:
    """The state as numpy arrays; on a CPU they are the state's own memory."""

    frame: Int32[np.ndarray, "frames 4"]
    pte: Int32[np.ndarray, "entries 2"]
    marks: Int32[np.ndarray, " frames"] | None  # of the conditions
    geometry: Geometry
    conditions: Int32[np.ndarray, "frames 4"] | None = None
    following: Any = None  # Machine.rmap_next, which few ask for

    @staticmethod
    def of(m: Machine) -> "View":
        """The present state of `m`."""
        rows = None if m.conditions is None else np.asarray(m.conditions)
        marks = None if rows is None else rows[:, cond.WORDS - 1]
        frames, entries = np.asarray(m.frame), np.asarray(m.pte)
        return View(frames, entries, marks, m.geometry, rows, m.rmap_next)

    def mapped(self, entry: Pages) -> Bool[np.ndarray, " pages"]:
        """Whether each entry maps a folio."""
        bits = self.pte[entry, pte.BITS]
        return (bits & (pte.PRESENT | pte.ZERO_PAGE)) == pte.PRESENT

    def head(self, pfn: np.ndarray) -> Heads:
        """Head frame of the folio that each frame belongs to."""
        g = self.geometry
        if g.orders == (0,):
            return pfn
        order = frame.order(self.frame[pfn, frame.FLAGS])
        offset = pfn % g.frames_per_node
        for k, o in enumerate(g.orders):
            inside = (offset - g.pool_start(k)) & ((1 << o) - 1)
            pfn = np.where(order == o, pfn - inside, pfn) if o else pfn
        return pfn

    def node(self, pfn: np.ndarray) -> np.ndarray:
        """The node of each frame."""
        return pfn // self.geometry.frames_per_node

    def flags(self, head: Heads) -> Int32[np.ndarray, " folios"]:
        """Flag words of folios."""
        return self.frame[head, frame.FLAGS]

    def sharers(self, head: Heads) -> Int32[np.ndarray, " folios"]:
        """folio_estimated_sharers(): mappings of the first base page."""
        return self.frame[head, frame.MAPCOUNT]

    def shared(self, head: Heads, exactly: bool) -> Bool[np.ndarray, " folios"]:
        """Whether several processes map each folio, as far as a release can tell.

        Args:
          exactly: for large folios, whether two address spaces map them, as
            folio_maybe_mapped_shared() does.  Older releases, and small folios and
            hugetlb in all, count as shared if their first page has two mappings.
        """
        found = self.sharers(head) > 1
        flags = self.flags(head)
        large = frame.order(flags) > 0
        large &= (flags & frame.KIND) != frame.HUGETLB
        asks = found & large & exactly
        if asks.any():
            found[asks] = self._of_two(head[asks])
        return found

    def _of_two(self, head: Heads) -> Bool[np.ndarray, " folios"]:
        """Folios of which two address spaces map the first page."""
        following = np.asarray(self.following)
        entry = self.frame[head, frame.RMAP]
        first = self.pte[entry, pte.BITS] >> pte.MM_SHIFT
        two = np.zeros(head.shape, bool)
        while (here := entry != NOWHERE).any():
            at = np.where(here, entry, 0)
            mm = self.pte[at, pte.BITS] >> pte.MM_SHIFT
            two |= here & (mm != first)
            entry = np.where(here, following[at], NOWHERE)
        return two

    def mappings(self, head: Heads) -> Int32[np.ndarray, " folios"]:
        """folio_mapcount(): entries that map any page of each folio."""
        count = self.frame[head, frame.MAPCOUNT]
        order = frame.order(self.flags(head))
        for o in self.geometry.orders[1:]:
            mine = order == o
            pages = head[mine][:, None] + np.arange(1 << o)
            count[mine] = self.frame[pages, frame.MAPCOUNT].sum(axis=1)
        return count

    def on_lru(self, head: Heads) -> Bool[np.ndarray, " folios"]:
        """Folios that folio_isolate_lru() or isolate_hugetlb() would take."""
        return (self.flags(head) & frame.LRU) != 0

    def isolable(self, head: Heads) -> Bool[np.ndarray, " folios"]:
        """Those of `on_lru`, and pages of drivers that can migrate them."""
        free = self.on_lru(head)
        driver = (self.flags(head) & frame.KIND) == frame.MOVABLE_OPS
        if driver.any():
            taken = 0 if self.marks is None else self.marks[head] & cond.ISOLATED
            free = free | (driver & (taken == 0))
        return free


def entries_of(view: View, area: Area, first: int, last: int) -> tuple[Pages, Pages]:
    """The entries of a range of an area in address order, each PMD leaf once.

    Args:
      first, last: page numbers relative to the area, the end exclusive.
    Returns:
      Numbers of the entries, and the page number of each relative to the area, a PMD
      leaf's that of its first page in the range.
    """
    page = np.arange(first, last, dtype=np.int64)
    entry = area.first_pte + page
    if area.first_pmd < 0:
        return entry, page
    leaf = area.first_pmd + page // PMD_PAGES
    whole = (view.pte[leaf, pte.BITS] & pte.PRESENT) != 0
    # A range that begins inside a PMD leaf still meets the leaf.
    shown = ~whole | (page % PMD_PAGES == 0) | (page == first)
    return np.where(whole, leaf, entry)[shown], page[shown]


def pages_by_node(view: View, space: Space, nodes: int) -> list[int]:
    """Base pages of a process on each node."""
    count = np.zeros(nodes, np.int64)
    for a in space.areas:
        entry, _ = entries_of(view, a, 0, a.pages)
        entry = entry[view.mapped(entry)]
        node = view.node(view.pte[entry, pte.PFN])
        huge = np.where(entry >= view.geometry.ptes, PMD_PAGES, 1)
        weights = np.bincount(node, weights=huge, minlength=nodes)
        count += weights.astype(np.int64)
    return [int(n) for n in count]
