"""CMA: a range of memory that somebody needs as a whole.

Lists of COMPACT_CLUSTER_MAX pages; up to five calls for what is left of one, and then
the range is given up.  Before each call clean pages of files are dropped instead.

Source: __alloc_contig_migrate_range() in mm/page_alloc.c, isolate_migratepages_range() in
mm/compaction.c, Linux 6.1 to 7.1.  Not modelled: other places that cma_alloc() tries,
a second try with pieces for which memory ends.
"""

import errno
import itertools
import sys
from typing import Final

import numpy as np

from jaxmig import conditions as cond, frame
from jaxmig.callers.candidates import Candidates, Mask, refuse
from jaxmig.callers.compaction import COMPACT_CLUSTER_MAX
from jaxmig.callers.left import left_of, pieces_left
from jaxmig.callers.lists import Lists, cuts, downwards
from jaxmig.callers.offline import hugetlb_last
from jaxmig.callers.reclaim import clean, reclaim
from jaxmig.callers.releases import since
from jaxmig.callers.request import Outcome, Request
from jaxmig.syscalls.session import NotModelled
from jaxmig.syscalls.space import Heads

TRIES: Final = 5


def run(r: Request) -> Outcome:
    """All of the range, or up to the list of which something stays."""
    everything = Candidates.of(r.s.view(), r.space, r.old)
    wanted = everything.take(_wanted(r, everything))
    free = wanted.view.isolable(wanted.head)
    c = wanted.take(free)
    lists = Lists(r.s, r.node, r.mode, "contig_range")
    work = _Range(r, lists)
    error = work.run(c)
    # What lies behind a full list that ended it was not looked at.
    refuse(r.s, wanted.take(~free & (wanted.vpn < work.end)))
    if error == 0 and len(c) < len(everything):
        # test_pages_isolated(): what was skipped is still there.
        error = -errno.EBUSY
    ret = lists.short or work.left
    return Outcome(ret, error, lists.calls, work.reclaimed)


def _wanted(r: Request, c: Candidates) -> Mask:
    wanted = ~c.private_refs & ~c.driver_busy
    if since(r.s.kernel, "6.10"):
        locked = c.blocked(cond.LOCKED)
        wanted &= ~(c.has(frame.MLOCKED) & c.has_mapping & locked)
    return wanted


class _Range:
    """The work on one range.

    Attributes:
      reclaimed: base pages dropped.
      left: folios of the list that could not be emptied.
      end: the page at which the range was given up.
    """

    def __init__(self, r: Request, lists: Lists) -> None:
        self.r, self.lists = r, lists
        self.reclaimed = self.left = 0
        self.end = sys.maxsize

    def run(self, c: Candidates) -> int:
        """0, or what ended it."""
        # Lists with which nothing can go wrong are worked together, whenever.
        calm = c.calm & self.lists.roomy(c)
        kept: list[np.ndarray] = []
        error = 0
        for first, last in itertools.pairwise(cuts(c.size, COMPACT_CLUSTER_MAX)):
            part = np.arange(first, last)
            if calm[first:last].all():
                kept.append(part[::-1])
                continue
            error = self._empty(hugetlb_last(downwards(c.take(part))).head)
            if error:
                if c.size[first:last].sum() >= COMPACT_CLUSTER_MAX:
                    self.end = int(c.vpn[last - 1])
                break
        self._together(c, kept)
        return error

    def _together(self, c: Candidates, parts: list[np.ndarray]) -> None:
        """Lists that are sure to be emptied."""
        if not parts:
            return
        lists, s = self.lists, self.r.s
        c = Candidates.at(s.view(), c.head[np.concatenate(parts)])
        number = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        gone, pages = reclaim(s, c, number)
        self.reclaimed += pages
        lengths = np.bincount(number[~gone], minlength=len(parts))
        # A list that reclaim has emptied is handed over all the same.
        calls = lists.calls + len(parts)
        lists.each(c.take(~gone), [0, *np.cumsum(lengths[lengths > 0]).tolist()])
        lists.calls = calls

    def _empty(self, heads: Heads) -> int:
        """The calls for one list: 0 once it is empty, whatever the last of them said."""
        s, splits = self.r.s, self.r.s.counts["nr_split"]
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
        gone, pages = reclaim(self.r.s, part, np.zeros(len(part), np.int64))
        self.reclaimed += pages
        # What reclaim keeps it puts in front, the last one first.
        kept, rest = clean(part) & ~gone, ~clean(part)
        return np.concatenate([part.head[kept][::-1], part.head[rest]])

    def _lacks_memory_alone(self, c: Candidates) -> bool:
        """Whether nothing but memory can be in the way of a list."""
        odd = c.has(frame.CONDITIONED | frame.HURT | frame.SPLIT_QUEUED)
        odd |= c.extra != 0
        limit = self.r.s.batch
        batches = limit > 0 and c.size[:-1].sum() >= limit
        # What moves out of one batch would be room for the next.
        return not (odd.any() or (batches and self._frees_room(c)))

    def _frees_room(self, c: Candidates) -> bool:
        return bool((c.node == self.r.node).any())

    def _left(self, c: Candidates, before: dict[str, int], ordered: bool) -> Heads:
        """What a call has left of its list; `before`: the counts before it."""
        s = self.r.s
        split = s.counts["nr_split"] > before["nr_split"]
        if ordered and split:
            moved = s.counts["pgmigrate_success"] - before["pgmigrate_success"]
            return pieces_left(c, s.view(), moved, s.release.pieces_ascend)
        # Up to 6.6 the result says nothing of small folios that were split.
        if self.left == 0 and (s.release.counts_nr_split or not split):
            return c.head[:0]
        if split and self._frees_room(c):
            what = "splits of folios with something in their way"
            raise NotModelled(f"{what}, by CMA on the node that takes the pieces")
        return left_of(c.view, s.view(), c.head)

    def _check_room(self, c: Candidates) -> None:
        if int(c.size.sum()) > self.r.s.free(self.r.node):
            raise NotModelled(
                "a second try of CMA with pieces of large folios, of which there is room "
                "for some only; leave more memory free"
            )
