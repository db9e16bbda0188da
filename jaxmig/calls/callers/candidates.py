"""The folios among which a caller chooses, and what it tests before it isolates one.

Such a test is no attempt: it does not count towards `until = "attempt:n"` of a scenario's
conditions, except that of `isolated` (`Session.refuse`).

Source: isolate_migratepages_block() in mm/compaction.c, folio_isolate_lru() in
mm/vmscan.c, Linux 6.1 to 7.1.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.calls.syscalls.scan import NO_HEADS, mapped, on_nodes
from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Heads, Space, View
from jaxmig.state import conditions as cond, frame

Mask = Bool[np.ndarray, " folios"]
Numbers = Int64[np.ndarray, " folios"]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Folios of a process on the nodes that are worked on, in address order.

    In a scenario the order of addresses is that of frames.
    """

    view: View
    head: Heads
    vpn: Numbers  # virtual page number of the first page
    area: Numbers  # number of the area in its Space

    @staticmethod
    def of(
        view: View, space: Space, nodes: frozenset[int], everything: bool = False
    ) -> "Candidates":
        """The folios of a process, each once.

        Args:
          view, space: the machine's memory, and the process's areas in it.
          nodes: on which the folios lie.
          everything: also those of areas that vma_migratable() refuses.
        Returns:
          The folios, in address order.
        """
        heads, pages, areas = [NO_HEADS], [NO_HEADS], [NO_HEADS]
        for i, a in enumerate(space.areas):
            if not (everything or a.migratable):
                continue
            found = mapped(view, a, 0, a.pages)
            found = found.take(on_nodes(found, nodes))
            first = found.once()
            heads.append(found.head[first])
            pages.append(a.start + found.page[first])
            areas.append(np.full(int(first.sum()), i))
        vpn, area = (np.concatenate(x).astype(np.int64) for x in (pages, areas))
        found = Candidates(view, np.concatenate(heads).astype(np.int32), vpn, area)
        # Two areas of a process may map the same folio.
        first = np.unique(found.head, return_index=True)[1]
        return found if len(first) == len(found) else found.take(np.sort(first))

    @staticmethod
    def at(view: View, head: Heads) -> "Candidates":
        """Folios given by their heads, without the addresses that map them."""
        nowhere = np.zeros(len(head), np.int64)
        return Candidates(view, head, nowhere, nowhere)

    def __len__(self) -> int:
        return self.head.shape[0]

    def movable(self, space: Space) -> Mask:
        """vma_migratable(): pages of other areas are on no LRU, and are skipped."""
        return np.asarray([a.migratable for a in space.areas], bool)[self.area]

    def take(self, rows: np.ndarray) -> "Candidates":
        """Some of them, in the order of `rows`."""
        return Candidates(self.view, self.head[rows], self.vpn[rows], self.area[rows])

    def by_node(self) -> "Candidates":
        """Node by node, each in address order: zones and LRU lists have one node."""
        return self.take(np.argsort(self.node, kind="stable"))

    @functools.cached_property
    def node(self) -> Numbers:
        """The node of each folio."""
        return self.view.node(self.head).astype(np.int64)

    @functools.cached_property
    def flags(self) -> Int32[np.ndarray, " folios"]:
        """Flag words."""
        return self.view.flags(self.head)

    @property
    def kind(self) -> Int32[np.ndarray, " folios"]:
        """frame.ANON ... frame.HUGETLB."""
        return frame.kind(self.flags)

    @property
    def order(self) -> Int32[np.ndarray, " folios"]:
        """log2 of the base pages."""
        return frame.order(self.flags)

    @property
    def size(self) -> Numbers:
        """Base pages."""
        return np.int64(1) << self.order.astype(np.int64)

    def has(self, bit: int) -> Mask:
        """A bit of frame.py."""
        return (self.flags & bit) != 0

    @property
    def dirty(self) -> Mask:
        """PG_dirty of a file's pages, or of memory that is as dirty as its kind."""
        return self.has(frame.DIRTY) | self.unwritten

    @property
    def unwritten(self) -> Mask:
        """Dirty pages of a file system without migrate_folio."""
        return self.marked(cond.UNWRITTEN)

    @functools.cached_property
    def maps(self) -> Int32[np.ndarray, " folios"]:
        """Entries that map each folio (folio_mapcount())."""
        return self.view.mappings(self.head)

    @property
    def refs(self) -> Int32[np.ndarray, " folios"]:
        """References, without the one that isolation takes."""
        return self.view.frame[self.head, frame.REFCOUNT]

    @property
    def extra(self) -> Int32[np.ndarray, " folios"]:
        """References that neither mappings nor caches account for."""
        return self.refs - self.maps - np.asarray(frame.cache_refs(self.flags))

    @functools.cached_property
    def _words(self) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        rows = self.view.conditions
        none = np.zeros((len(self), cond.WORDS), np.int32)
        return cond.unpack(none if rows is None else rows[self.head])

    def blocked(self, state: int) -> Mask:
        """Whether a state of conditions.py holds now."""
        return self._words[0][state] > 0

    def marked(self, mark: int) -> Mask:
        """Whether a mark of conditions.py is set."""
        return (self._words[1] & mark) != 0

    @property
    def has_mapping(self) -> Mask:
        """folio_mapping(): a file, shmem or the swap cache, and not truncated."""
        cached = (frame.SHMEM, frame.FILE, frame.SWAPCACHE)
        return np.isin(self.kind, cached) & ~self.blocked(cond.NO_MAPPING)

    @property
    def private_refs(self) -> Mask:
        """No mapping and more references than mappings: they cannot be frozen."""
        lone = ~self.has_mapping & (self.refs > self.maps)
        lone |= self.blocked(cond.NO_MAPPING)
        return lone & np.isin(
            self.kind, (frame.HUGETLB, frame.MOVABLE_OPS), invert=True
        )

    @property
    def driver_busy(self) -> Mask:
        """A driver's page that is locked: isolate_movable_page() only tries the lock."""
        return (self.kind == frame.MOVABLE_OPS) & self.blocked(cond.LOCKED)

    @property
    def calm(self) -> Mask:
        """Base pages whose migration cannot fail but for want of memory."""
        odd = (
            self.has(frame.CONDITIONED | frame.HURT)
            | (self.extra != 0)
            | (self.refs == 0)
        )
        return ~odd & (self.order == 0)


def on_lru(session: Session, candidates: Candidates) -> Mask:
    """Folios that folio_isolate_lru() takes: no hugetlb, no driver's pages."""
    there = np.isin(candidates.kind, (frame.HUGETLB, frame.MOVABLE_OPS), invert=True)
    free = candidates.has(frame.LRU)
    session.refuse([candidates.head[there & ~free]])
    return there & free


def isolable(session: Session, candidates: Candidates) -> Mask:
    """Folios of `on_lru`, and those of isolate_hugetlb() and isolate_movable_page()."""
    free = candidates.view.isolable(candidates.head)
    refuse(session, candidates.take(~free))
    return free


def refuse(session: Session, candidates: Candidates) -> None:
    """Count a failed isolation of each of these, from the LRU or by its driver."""
    for by_driver in (False, True):
        session.refuse([candidates.head], by_driver)
