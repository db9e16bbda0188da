"""Walks of page tables for folios: those that a walk finds and those that it isolates.

Source: queue_pages_range(), queue_folios_pte_range(), queue_folios_pmd(),
queue_folios_hugetlb(), migrate_folio_add() in mm/mempolicy.c, Linux 6.3 and 6.18.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.calls.syscalls.space import Area, Heads, Pages, Space, View, entries_of
from jaxmig.linux.releases import Release
from jaxmig.state import arguments, frame, pte
from jaxmig.state.machine import PMD_PAGES

STRICT, MOVE, MOVE_ALL = 1, 2, 4  # MPOL_MF_*
NO_HEADS: Final = np.zeros(0, np.int32)


@dataclasses.dataclass(frozen=True)
class Found:
    """Mapped folios of one area, a row for each entry, in address order."""

    head: Heads
    page: Int64[np.ndarray, " rows"]  # of the entry, relative to the area
    node: Int32[np.ndarray, " rows"]
    by_pte: Bool[np.ndarray, " rows"]

    def take(self, rows: np.ndarray | slice) -> "Found":
        """Some of the rows."""
        columns = (getattr(self, f.name) for f in dataclasses.fields(self))
        return Found(*(c[rows] for c in columns))

    def once(self) -> np.ndarray:
        """bool[rows]: the first row of each folio; its rows follow one another."""
        first = np.ones(self.head.shape[0], bool)
        first[1:] = self.head[1:] != self.head[:-1]
        return first


def mapped(view: View, area: Area, first: int, last: int) -> Found:
    """The mapped folios of a range of an area; see `scan`.

    Args:
      first, last: page numbers relative to the area, the end exclusive.
    Returns:
      A row for each entry.
    """
    return scan(view, area, first, last)[0]


def scan(view: View, area: Area, first: int, last: int) -> tuple[Found, int]:
    """The mapped folios of a range of an area, and its migration entries.

    Args:
      first, last: page numbers relative to the area, the end exclusive.
    Returns:
      A row for each entry that maps a folio, and how many migration entries there are.
    """
    entry, page = entries_of(view, area, first, last)
    there = view.mapped(entry)
    waiting = 0
    if not there.all():
        waiting = _waiting(view, area, entry[~there], page[~there])
    if not there.all():
        entry, page = entry[there], page[there]
    pfn = view.pte[entry, pte.PFN]
    found = Found(view.head(pfn), page, view.node(pfn), entry < view.geometry.ptes)
    return found, waiting


def _waiting(view: View, area: Area, entry: Pages, page: Pages) -> int:
    """How many of these entries, or of the leaves above them, are migration entries."""
    found = (view.pte[entry, pte.BITS] & pte.MIGRATION) != 0
    if area.first_pmd < 0:
        return int(found.sum())
    leaf = np.unique(area.first_pmd + page // PMD_PAGES)
    above = (view.pte[leaf, pte.BITS] & pte.MIGRATION) != 0
    return int(found.sum() + above.sum())


def on_nodes(found: Found, nodes: frozenset[int]) -> np.ndarray:
    """bool[rows]: entries whose folio lies on one of `nodes`."""
    if len(nodes) == 1:
        return found.node == min(nodes)
    return np.isin(found.node, sorted(nodes))


def kernel_list(view: View, space: Space, nodes: frozenset[int]) -> Heads:
    """Folios of a process on some nodes in address order, as kernel callers isolate them.

    Isolated folios and areas that may not migrate are left out.
    """
    heads = candidates(view, space, arguments.node_set("nodes", nodes))
    free = view.isolable(heads)
    return heads if free.all() else heads[free]


def candidates(view: View, space: Space, nodes: frozenset[int]) -> Heads:
    """Folios that `kernel_list` tries to isolate."""
    lists = [NO_HEADS]
    for a in space.areas:
        if a.migratable:
            found = mapped(view, a, 0, a.pages)
            found = found.take(on_nodes(found, nodes))
            lists.append(found.head[found.once()])
    heads = np.concatenate(lists)
    if not space.maps_twice:
        return heads
    # A folio is isolated where it is found first.
    _, first = np.unique(heads, return_index=True)
    return heads[np.sort(first)]


@dataclasses.dataclass
class QueuePages:
    """struct queue_pages: the list so far and the folios that could not be isolated."""

    view: View
    release: Release
    flags: int  # MPOL_MF_*
    taken: list[Found] = dataclasses.field(default_factory=list)
    failed: int = 0
    refused: list[Heads] = dataclasses.field(default_factory=list)
    shared: int = 0  # base pages that stay, as others map them and MOVE_ALL is not set
    large: int = -1  # the large folio that was met last, qp->large

    @property
    def heads(self) -> Heads:
        """Folios isolated so far, in address order."""
        return np.concatenate([NO_HEADS, *(f.head for f in self.taken)])

    def add_area(
        self, area: Area, first: int, last: int, nodes: frozenset[int]
    ) -> None:
        """Isolate the folios of a range of an area that lie on some nodes.

        Args:
          first, last: page numbers relative to the area, the end exclusive.
          nodes: other nodes' folios stay on their lists.
        """
        found, waiting = scan(self.view, area, first, last)
        self.wait(waiting)
        self.add(found.take(on_nodes(found, nodes)), area.again)

    def wait(self, entries: int) -> None:
        """Migration entries are failures since 6.7, on whatever node their folios are."""
        self.failed += entries * self.release.counts_unisolated

    def isolates(self, heads: Heads, again: bool) -> Bool[np.ndarray, " rows"]:
        """Folios that can be isolated; `again`: some have been, by another area."""
        free = self.view.on_lru(heads)
        return free & ~np.isin(heads, self.heads) if again else free

    def add(self, found: Found, again: bool = False) -> None:
        """Isolate the folios of `found`, each once; shared ones only with MOVE_ALL.

        `again`: some may have been isolated where another area maps them.
        """
        folios = found.take(found.once())
        free, wanted = self.isolates(folios.head, again), self.wants(folios)
        if not wanted.all():
            left = found.by_pte[np.isin(found.head, folios.head[~wanted])]
            self.shared += int(np.where(left, 1, PMD_PAGES).sum())
        if again:
            # The large folio met last is skipped without a failure.  Any large folio
            # met since would have replaced it, so it can only be the first.
            passed = folios.head == self.large
            passed[1:] = False
            wanted = wanted & ~passed
        self.taken.append(folios.take(wanted & free))
        stuck = wanted & ~free
        if stuck.any():
            self.refused.append(folios.head[stuck])
            self.failed += self.unisolated(found, folios.head[stuck])
        large = folios.head[order_of(self.view, folios.head) > 0]
        if large.size:
            self.large = int(large[-1])

    def wants(self, found: Found) -> Bool[np.ndarray, " rows"]:
        """Rows that migrate_folio_add() would isolate if it could."""
        if self.flags & MOVE_ALL:
            return np.ones(found.head.shape[0], bool)
        return ~self.view.shared(found.head, self.release.knows_sharers)

    def unisolated(self, found: Found, stuck: Heads) -> int:
        """How many failures these folios are: one each, or one a PTE."""
        if not self.release.counts_unisolated_ptes:
            return stuck.shape[0]
        return int(np.isin(found.head, stuck).sum())


def order_of(view: View, heads: Heads) -> Int32[np.ndarray, " folios"]:
    """log2 of the base pages of folios."""
    return frame.order(view.flags(heads))
