"""move_pages(2): each page goes to its own node, pages with the same node in one list.

Source: kernel_move_pages(), do_pages_move(), add_page_for_migration(),
move_pages_and_store_status(), do_pages_stat() in mm/migrate.c, Linux 6.3 and 6.18.
"""

import dataclasses
import errno
from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.calls.syscalls.lookup import PAGE_SHIFT, LookedUp, lookup
from jaxmig.calls.syscalls.nodes import MAX_NUMNODES, Nodes
from jaxmig.calls.syscalls.scan import MOVE, MOVE_ALL, NO_HEADS
from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Space
from jaxmig.state import arguments

STAT_CHUNK: Final = 16  # DO_PAGES_STAT_CHUNK_NR
FIRST_WINDOW: Final = 64
NOT_WRITTEN: Final = np.iinfo(np.int32).min
QUEUED: Final = 1

Status = list[int | None]


def move_pages(
    session: Session,
    space: Space,
    pages: Sequence[int],
    nodes: int | Sequence[int] | None,
    flags: int = MOVE,
    *,
    privileged: bool = True,
    pid: int | None = None,
    cpuset: Nodes | None = None,
    fault_at: int | None = None,
) -> tuple[int, Status]:
    """The call on the process of `space`.

    Args:
      pages: addresses, bytes.
      nodes: the target of all pages or of each; None only asks where pages are.
      flags: MPOL_MF_* bits.
      privileged: whether the caller has CAP_SYS_NICE.
      pid: None or 0 for the process itself; any other PID is unknown.
      cpuset: nodes that the process may use, all if None.
      fault_at: element of the arrays at which the user's memory ends.
    Returns:
      What the call returns, an errno negative, and the status array, where None is an
      element that the kernel does not write.
    Raises:
      ValueError: for what is no number, no list of them, not a node a page, or no part
        of the machine.
    """
    space.check(session.state)
    flags = arguments.whole("flags", flags, arguments.SIGNED, arguments.WORD)
    pid = arguments.register("pid", pid)
    fault_at = arguments.register("fault_at", fault_at)
    cpuset = arguments.allowed("cpuset", cpuset)
    status = np.full(len(pages), NOT_WRITTEN, np.int32)
    ret = _permitted(flags, privileged, pid)
    if ret == 0:
        vpn = _page_numbers(pages)
        if nodes is None:
            ret = _query(session, space, vpn, status, fault_at)
        else:
            targets = _targets(nodes, len(pages))
            allowed = frozenset(range(session.nodes)) if cpuset is None else cpuset
            bad = _first_bad(session, targets, allowed, fault_at)
            m = _Move(session, space, bool(flags & MOVE_ALL), vpn, targets, status)
            ret = m.run(*bad)
    written = status != NOT_WRITTEN
    if written.all():
        return ret, status.tolist()
    return ret, [
        n if w else None for n, w in zip(status.tolist(), written, strict=True)
    ]


def _permitted(flags: int, privileged: bool, pid: int | None) -> int:
    """Tests of the arguments, in Linux's order: 0 or a negative errno."""
    if flags & ~(MOVE | MOVE_ALL):
        return -errno.EINVAL
    if flags & MOVE_ALL and not privileged:
        return -errno.EPERM
    return -errno.ESRCH if pid else 0


def _page_numbers(pages: Sequence[int]) -> Int64[np.ndarray, " pages"]:
    if isinstance(pages, range):
        return (
            np.arange(pages.start, pages.stop, pages.step, dtype=np.int64) >> PAGE_SHIFT
        )
    # Addresses are unsigned; shifted, they fit a signed word again.
    listed = arguments.numbers("pages", pages)
    return np.asarray([(p % (1 << 64)) >> PAGE_SHIFT for p in listed], np.int64)


def _targets(nodes: int | Sequence[int], count: int) -> Int64[np.ndarray, " pages"]:
    def known(n: int) -> int:
        return n if 0 <= n < MAX_NUMNODES else -1

    if np.ndim(nodes) == 0:
        one = arguments.whole("nodes", nodes, arguments.SIGNED, arguments.WORD)
        return np.full(count, known(one), np.int64)
    listed = arguments.numbers("nodes", nodes)
    if len(listed) != count:
        raise ValueError(
            f"nodes: {len(listed)} for {count} pages; give one each, or one"
        )
    return np.asarray([known(n) for n in listed], np.int64)


def _query(
    session: Session,
    space: Space,
    vpn: Int64[np.ndarray, " pages"],
    status: Int32[np.ndarray, " pages"],
    fault_at: int | None,
) -> int:
    """Write the node of each page, STAT_CHUNK pages at a time: 0 or a negative errno."""
    end, ret = len(vpn), 0
    if fault_at is not None and fault_at < end:
        end, ret = fault_at // STAT_CHUNK * STAT_CHUNK, -errno.EFAULT
    if end:
        p = lookup(session.view(), space, session.release, vpn[:end])
        status[:end] = np.where(p.error == 0, p.node, p.error)
    return ret


def _first_bad(
    session: Session,
    targets: Int64[np.ndarray, " pages"],
    allowed: Nodes,
    fault_at: int | None,
) -> tuple[int, int]:
    """The index of the first element that ends the call, and its negative errno."""
    end, error = len(targets), 0
    lacking = ~np.isin(targets, sorted(session.memory))
    barred = lacking | ~np.isin(targets, sorted(allowed))
    if barred.any():
        end = int(barred.argmax())
        error = -errno.ENODEV if lacking[end] else -errno.EACCES
    if fault_at is not None and fault_at <= end and fault_at < len(targets):
        end, error = fault_at, -errno.EFAULT
    return end, error


@dataclasses.dataclass
class _Move:
    """The local variables of do_pages_move()."""

    session: Session
    space: Space
    move_all: bool
    vpn: Int64[np.ndarray, " pages"]
    targets: Int64[np.ndarray, " pages"]
    status: Int32[np.ndarray, " pages"]

    def __post_init__(self) -> None:
        # Where the target changes, and whether addresses only ever grow.
        self.edges = np.flatnonzero(np.diff(self.targets)) + 1
        ascending = bool((np.diff(self.vpn) > 0).all())
        self.ascending = ascending and not self.space.maps_twice

    def run(self, end: int, error: int) -> int:
        """Move pages up to index `end`, where `error` ends the call unless it is 0."""
        at = 0
        while at < end:
            stop, heads, alone = self.gather(at, end)
            sent = self.send(heads, at, stop)
            if sent:
                # Only the last list is sent in spite of `error`: its result is lost.
                if error and stop == end and not alone:
                    return error
                # Page `stop` has its status if it is what closed the list.
                return sent - alone if sent > 0 else sent
            at = stop + alone
        return error

    def gather(self, start: int, end: int) -> tuple[int, Int32[np.ndarray, " n"], int]:
        """The list that begins at page `start`: its end, its folios, and 0 or 1.

        It ends where the target changes, or at a page that cannot be queued.  Such a page
        has its status already, and the last value is 1.
        """
        edge = np.searchsorted(self.edges, start, side="right")
        end = min([end, *self.edges[edge : edge + 1].tolist()])
        # Most lists are short or very long, so the window of pages grows.
        heads: list[np.ndarray] = []
        size, at = FIRST_WINDOW, start
        while at < end:
            stop = min(at + size, end)
            result, head = self.results(at, stop, heads)
            refused = np.flatnonzero(result != QUEUED)
            if refused.size:
                n = int(refused[0])
                heads.append(head[:n])
                here = int(result[n])
                self.status[at + n] = here or self.targets[start]
                if here == -errno.EBUSY:
                    self.session.refuse([head[n : n + 1]])
                return at + n, np.concatenate(heads), 1
            heads.append(head)
            at, size = stop, size * 4
        return end, np.concatenate(heads), 0

    def results(
        self, first: int, last: int, before: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """add_page_for_migration() of pages `first` ... `last` - 1: results and heads.

        `before` are the heads already on the list.
        """
        view = self.session.view()
        p = lookup(view, self.space, self.session.release, self.vpn[first:last])
        result = np.full(last - first, QUEUED, np.int32)
        free = view.on_lru(p.head) & ~self._twice(p, before)
        result[~free] = -errno.EBUSY
        if not self.session.release.moves_hugetlb_tail:
            result[p.hugetlb & ~p.first] = -errno.EACCES
        if not self.move_all:
            exactly = self.session.release.knows_sharers
            result[view.shared(p.head, exactly)] = -errno.EACCES
        result[p.node == self.targets[first]] = 0
        result = np.where(p.error, p.error, result)
        result[~p.migratable] = -errno.EFAULT
        return result, p.head

    def _twice(
        self, places: LookedUp, before: list[np.ndarray]
    ) -> Bool[np.ndarray, " pages"]:
        """Pages whose folio is on the list already."""
        if self.ascending:
            # Addresses ascend, so pages of one folio follow one another.
            last = before[-1][-1:] if before else np.full(1, -1, np.int32)
            heads = np.concatenate([last, places.head])
            return heads[1:] == heads[:-1]
        _, first = np.unique(places.head, return_index=True)
        twice = np.ones(places.head.shape, bool)
        twice[first] = False
        return twice | np.isin(places.head, np.concatenate([NO_HEADS, *before]))

    def send(self, heads: Int32[np.ndarray, " n"], start: int, stop: int) -> int:
        """move_pages_and_store_status(): 0, an errno, or pages not done."""
        if len(heads) == 0:
            return 0
        node = int(self.targets[start])
        ret = self.session.migrate(heads, node)
        if ret > 0:
            return ret + len(self.vpn) - stop
        if ret == 0:
            self.status[start:stop] = node
        return ret
