"""Compaction: moves the folios that keep larger blocks from being free, by pageblock.

A round scans a pageblock and migrates one list.  The list ends with the folio that
brings it to COMPACT_CLUSTER_MAX pages, unless the round before was in the same pageblock:
then the rest of that is one list.  Without a `mode` kcompactd compacts for a huge page;
`async` is the first try of an allocation, `sync` is /proc/sys/vm/compact_memory.

Source: compact_zone(), isolate_migratepages(), isolate_migratepages_block() in
mm/compaction.c, Linux 6.1 to 7.1.  Not modelled: watermarks, skip hints of earlier runs,
contention, too many isolated pages.
"""

import dataclasses
import errno
from typing import Final

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, Mask, refuse
from jaxmig.calls.callers.lists import Lists, downwards
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.session import NotModelled
from jaxmig.state import conditions as cond, frame
from jaxmig.state.machine import PMD_PAGES

COMPACT_CLUSTER_MAX: Final = 32
PAGEBLOCK: Final = PMD_PAGES
HUGE: Final = frame.PMD_ORDER
EVERYTHING: Final = -1  # no order: compact all there is
NOWHERE: Final = -1


@dataclasses.dataclass(frozen=True)
class Control:
    """struct compact_control."""

    kernel: str
    mode: str
    order: int
    direct: bool

    @staticmethod
    def of(request: Request) -> "Control":
        """The settings of the request; what it leaves out follows from the mode."""
        order = EVERYTHING if request.mode == "sync" else HUGE
        order = order if request.order is None else request.order
        direct = request.mode == "async" if request.direct is None else request.direct
        if direct and (order == EVERYTHING or request.mode == "sync"):
            what = "no order" if order == EVERYTHING else "mode sync"
            raise NotModelled(f"direct compaction with {what}; no allocation asks so")
        return Control(request.session.kernel, request.mode, order, direct)

    @property
    def skips_on_failure(self) -> bool:
        """Whether nothing else of a block is moved once one of its pages must stay."""
        return self.direct and self.mode == "async"

    @property
    def finishes_after_failure(self) -> bool:
        """Whether the pageblock of a page that failed is scanned to its end at once."""
        if self.mode == "sync":
            return False
        if since(self.kernel, "6.5"):
            return self.order != EVERYTHING  # compaction that uses skip hints
        return self.direct and since(self.kernel, "6.3")


def run(request: Request) -> CallerOutcome:
    """Compact the old nodes, zone by zone."""
    control = Control.of(request)
    lists = Lists(request.session, request.node, request.mode, "compaction")
    view, space = request.session.view(), request.space
    c = Candidates.of(view, space, request.old, everything=True).by_node()
    wanted = _wanted(request, control, c)
    for node in np.unique(c.node).tolist():
        here = c.take(c.node == node)
        mine = wanted[c.node == node]
        free = request.session.view().isolable(here.head)
        scan = _ZoneScan(control, lists, here, mine & free)
        ended = scan.run()
        refuse(request.session, here.take(scan.looked & mine & ~free))
        if ended:
            break
    return CallerOutcome(lists.ret, 0, lists.calls)


def _wanted(request: Request, control: Control, candidates: Candidates) -> Mask:
    """Folios that isolate_migratepages_block() tries to isolate."""
    large = candidates.order > 0
    if since(request.session.kernel, "6.9"):
        large &= (candidates.order >= HUGE) | (
            (control.order > 0) & (candidates.order >= control.order)
        )
    wanted = ~large & (candidates.kind != frame.HUGETLB) & ~candidates.private_refs
    locked = candidates.blocked(cond.LOCKED)
    # Only folios on the LRU are unevictable.
    unevictable = candidates.has(frame.MLOCKED) & (candidates.kind != frame.MOVABLE_OPS)
    if not request.compact_unevictable:
        wanted &= ~unevictable
    if since(request.session.kernel, "6.9"):
        wanted &= ~(unevictable & candidates.has_mapping & locked)
    if request.mode != "sync":
        # ISOLATE_ASYNC_MIGRATE: nothing that would have to be waited for.
        # The fault that wrote to shmem has marked it dirty.
        dirty = (candidates.dirty & (candidates.kind == frame.FILE)) | (
            candidates.kind == frame.SHMEM
        )
        driver = candidates.kind == frame.MOVABLE_OPS
        later = (
            candidates.blocked(cond.WRITEBACK) | candidates.unwritten | (dirty & locked)
        )
        wanted &= driver | ~later
    return wanted & ~candidates.driver_busy & candidates.movable(request.space)


def _block(page: int, order: int) -> int:
    """First page of the aligned block of 2^order pages that a page lies in."""
    return page & -(1 << order)


class _ZoneScan:
    """One scan of a zone."""

    def __init__(
        self, control: Control, lists: Lists, candidates: Candidates, taken: Mask
    ) -> None:
        self.control, self.lists = control, lists
        self.c, self.taken, self.looked = (
            candidates,
            taken,
            np.zeros(len(candidates), bool),
        )
        self.size, self.behind = candidates.size, candidates.vpn + candidates.size
        self.at = _block(int(candidates.vpn[0]), HUGE)  # migrate_pfn
        self.last = NOWHERE  # last_migrated_pfn
        # Lists of folios that cannot fail need not be made one by one.
        self.calm = candidates.calm & lists.roomy(candidates.take(taken))
        self.kept: list[np.ndarray] = []

    def run(self) -> int:
        """0, or -ENOMEM where memory ended."""
        late = since(self.control.kernel, "6.6")
        again = False  # the rest of a pageblock, after a failure
        while self.at < self.behind[-1]:
            again &= not self._skip_free()
            start = self.at
            finish = again or (self.last != NOWHERE and _same_block(self.last, start))
            again = False
            rows = self._round(finish)
            if len(rows):
                self.last = _block(self.at - 1, HUGE) if late else start
                ret = self._migrate(rows)
                if ret == -errno.ENOMEM:
                    return ret
                again = ret > 0 and self._failed(finish)
            if not again:
                self._forget()
        self._flush()
        return 0

    def _skip_free(self) -> bool:
        """Skip pageblocks that are free throughout; whether there were some."""
        first = int(np.searchsorted(self.c.vpn, self.at))
        block = _block(int(self.c.vpn[first]), HUGE) if first < len(self.c) else 0
        some = block > self.at
        self.at = max(self.at, block)
        return some

    def _round(self, finish: bool) -> np.ndarray:
        """Rows of the next list; moves the scanner's position after them."""
        end = _block(self.at, HUGE) + PAGEBLOCK
        if self.control.skips_on_failure:
            return self._blocks(finish, end)
        first, last = np.searchsorted(self.c.vpn, [self.at, end]).tolist()
        rows = first + np.flatnonzero(self.taken[first:last])
        rows = self._cut(rows, finish, end)
        self._look(first)
        return rows

    def _look(self, first: int) -> None:
        """Mark the rows from `first` up to the scanner's position as tested."""
        self.looked[first : np.searchsorted(self.c.vpn, self.at)] = True

    def _cut(self, rows: np.ndarray, finish: bool, end: int) -> np.ndarray:
        """The rows up to the folio that makes the list long enough."""
        pages = np.cumsum(self.size[rows])
        if finish or not len(rows) or pages[-1] < COMPACT_CLUSTER_MAX:
            self.at = end
            return rows
        n = int(np.searchsorted(pages, COMPACT_CLUSTER_MAX)) + 1
        self.at = min(int(self.behind[rows[n - 1]]), end)
        return rows[:n]

    def _blocks(self, finish: bool, end: int) -> np.ndarray:
        """The same, of the first block of the order in which nothing stays."""
        vpn, order = self.c.vpn, self.control.order
        while self.at < end:
            stop = min(_block(self.at, order) + (1 << order), end)
            first, last = np.searchsorted(vpn, [self.at, stop]).tolist()
            stays = np.flatnonzero(~self.taken[first:last])
            rows = np.arange(first, first + int(stays[0]) if len(stays) else last)
            cut = self._cut(rows, finish, stop)
            if self.at < stop or not len(stays):
                self._look(first)
                if len(cut):
                    return cut
                continue
            # What was isolated is put back: the block cannot become free any more.
            self.looked[first : first + stays[0] + 1] = True
            self.at = min(max(stop, int(self.behind[first + stays[0]])), end)
        return np.zeros(0, np.int64)

    def _migrate(self, rows: np.ndarray) -> int:
        if self.calm[rows].all():
            self.kept.append(rows)
            return 0
        return self.lists.one(downwards(self.c.take(rows)).head)

    def _flush(self) -> None:
        """The lists that were only noted."""
        if self.kept:
            rows = np.concatenate([x[::-1] for x in self.kept])
            ends = np.cumsum([0, *map(len, self.kept)])
            self.lists.each(self.c.take(rows), ends.tolist())

    def _failed(self, finish: bool) -> bool:
        """After a list of which something was left: whether to scan on at once."""
        c = self.control
        if c.skips_on_failure and not since(c.kernel, "6.3"):
            self.at = _block(self.at - 1, c.order) + (1 << c.order)
            self.last = NOWHERE
        if not c.finishes_after_failure or finish:
            return False
        # 6.3 and 6.4 do not see that the scanner may have left the pageblock already.
        if since(c.kernel, "6.5") and self.at % PAGEBLOCK == 0:
            return False
        if c.order == HUGE:
            self.last = NOWHERE
        return True

    def _forget(self) -> None:
        """The round before is forgotten once its block of the order is left."""
        order = self.control.order
        if order > 0 and self.last != NOWHERE and self.last < _block(self.at, order):
            self.last = NOWHERE


def _same_block(first: int, second: int) -> bool:
    return _block(first, HUGE) == _block(second, HUGE)
