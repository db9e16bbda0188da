"""CMA: a contiguous range of memory is emptied for an allocation.

Lists have COMPACT_CLUSTER_MAX pages.  What is left of a list is tried in up to five
calls; after that the range is given up.  Clean pages of files are dropped before each
call instead of being moved.

Source: __alloc_contig_migrate_range() in mm/page_alloc.c, isolate_migratepages_range() in
mm/compaction.c, Linux 6.1 to 7.1.  Not modelled: other places that cma_alloc() tries,
a second try with pieces for which memory ends.
"""

import errno
import itertools
import sys
from typing import Final

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, Mask, refuse
from jaxmig.calls.callers.compaction import COMPACT_CLUSTER_MAX
from jaxmig.calls.callers.left import left_of, pieces_left
from jaxmig.calls.callers.lists import Lists, cuts, downwards
from jaxmig.calls.callers.offline import hugetlb_last
from jaxmig.calls.callers.reclaim import clean, reclaim
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.session import NotModelled
from jaxmig.calls.syscalls.space import Heads
from jaxmig.state import conditions as cond, frame

TRIES: Final = 5


def run(request: Request) -> CallerOutcome:
    """Empty the range, up to the first list that cannot be emptied."""
    view, space = request.session.view(), request.space
    everything = Candidates.of(view, space, request.old, everything=True)
    wanted = everything.take(_wanted(request, everything))
    free = wanted.view.isolable(wanted.head)
    c = wanted.take(free)
    lists = Lists(request.session, request.node, request.mode, "contig_range")
    work = _Range(request, lists)
    error = work.run(c)
    # What lies behind the list at which the range was given up was never tested.
    refuse(request.session, wanted.take(~free & (wanted.vpn < work.end)))
    if error == 0 and len(c) < len(everything):
        # test_pages_isolated(): what was skipped is still there.
        error = -errno.EBUSY
    ret = lists.short or work.left
    return CallerOutcome(ret, error, lists.calls, work.reclaimed)


def _wanted(request: Request, candidates: Candidates) -> Mask:
    wanted = ~candidates.private_refs & ~candidates.driver_busy
    wanted &= candidates.movable(request.space)
    if since(request.session.kernel, "6.10"):
        locked = candidates.blocked(cond.LOCKED)
        wanted &= ~(candidates.has(frame.MLOCKED) & candidates.has_mapping & locked)
    return wanted


class _Range:
    """The work on one range.

    Attributes:
      reclaimed: base pages dropped.
      left: folios of the list that could not be emptied.
      end: the page at which the range was given up.
    """

    def __init__(self, request: Request, lists: Lists) -> None:
        self.r, self.lists = request, lists
        self.reclaimed = self.left = 0
        self.end = sys.maxsize

    def run(self, candidates: Candidates) -> int:
        """0, or the negative errno that ended it."""
        # Lists that cannot fail may share a call, since their order does not matter.
        calm = candidates.calm & self.lists.roomy(candidates)
        kept: list[np.ndarray] = []
        error = 0
        for first, last in itertools.pairwise(
            cuts(candidates.size, COMPACT_CLUSTER_MAX)
        ):
            part = np.arange(first, last)
            if calm[first:last].all():
                kept.append(part[::-1])
                continue
            error = self._empty(hugetlb_last(downwards(candidates.take(part))).head)
            if error:
                if candidates.size[first:last].sum() >= COMPACT_CLUSTER_MAX:
                    self.end = int(candidates.vpn[last - 1])
                break
        self._together(candidates, kept)
        return error

    def _together(self, candidates: Candidates, parts: list[np.ndarray]) -> None:
        """Lists that are sure to be emptied, in one call."""
        if not parts:
            return
        lists, s = self.lists, self.r.session
        candidates = Candidates.at(s.view(), candidates.head[np.concatenate(parts)])
        number = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        gone, pages = reclaim(s, candidates, number)
        self.reclaimed += pages
        lengths = np.bincount(number[~gone], minlength=len(parts))
        # A list that reclaim has emptied is handed over all the same.
        calls = lists.calls + len(parts)
        lists.each(
            candidates.take(~gone), [0, *np.cumsum(lengths[lengths > 0]).tolist()]
        )
        lists.calls = calls

    def _empty(self, heads: Heads) -> int:
        """The calls for one list: 0 once it is empty, whatever the last of them said."""
        s, splits = self.r.session, self.r.session.counts["nr_split"]
        ordered = True  # whether the list is in the kernel's order
        for _ in range(TRIES):
            part = Candidates.at(s.view(), heads)
            if s.counts["nr_split"] > splits and not ordered:
                self._check_room(part)
            heads = self._reclaimed(part)
            part = Candidates.at(s.view(), heads)
            ordered &= self._lacks_memory_alone(part)
            counts = s.counts.copy()
            self.left = self.lists.one(part.head, puts_back=True)
            if self.left < 0:
                return self.left
            heads = self._left(part, counts, ordered)
            if not len(heads):
                return 0
        return -errno.EBUSY

    def _reclaimed(self, part: Candidates) -> Heads:
        """What reclaim leaves of a list."""
        gone, pages = reclaim(self.r.session, part, np.zeros(len(part), np.int64))
        self.reclaimed += pages
        # What reclaim keeps it puts in front, the last one first.
        kept, rest = clean(part) & ~gone, ~clean(part)
        return np.concatenate([part.head[kept][::-1], part.head[rest]])

    def _lacks_memory_alone(self, candidates: Candidates) -> bool:
        """Whether nothing but memory can be in the way of a list."""
        odd = candidates.has(frame.CONDITIONED | frame.HURT | frame.SPLIT_QUEUED)
        odd |= candidates.extra != 0
        limit = self.r.session.batch
        batches = limit > 0 and candidates.size[:-1].sum() >= limit
        # What moves out of one batch would be room for the next.
        return not (odd.any() or (batches and self._frees_room(candidates)))

    def _frees_room(self, candidates: Candidates) -> bool:
        return bool((candidates.node == self.r.node).any())

    def _left(
        self, candidates: Candidates, before: dict[str, int], ordered: bool
    ) -> Heads:
        """What a call has left of its list; `before`: the counts before it."""
        s = self.r.session
        split = s.counts["nr_split"] > before["nr_split"]
        if ordered and split:
            moved = s.counts["pgmigrate_success"] - before["pgmigrate_success"]
            return pieces_left(candidates, s.view(), moved, s.release.pieces_ascend)
        # Up to 6.6 the result says nothing of small folios that were split.
        if self.left == 0 and (s.release.counts_nr_split or not split):
            return candidates.head[:0]
        if split and self._frees_room(candidates):
            what = "splits of folios with something in their way"
            raise NotModelled(f"{what}, by CMA on the node that takes the pieces")
        return left_of(candidates.view, s.view(), candidates.head)

    def _check_room(self, candidates: Candidates) -> None:
        if int(candidates.size.sum()) > self.r.session.free(self.r.node):
            raise NotModelled(
                "a second try of CMA with pieces of large folios, of which there is room "
                "for some only; leave more memory free"
            )
