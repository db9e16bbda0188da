"""Who calls migrate_pages() inside Linux: with which lists, mode and reason, and what a
failure means to them.

Source: mm/compaction.c, mm/memory_hotplug.c, mm/page_alloc.c, mm/gup.c,
mm/memory-failure.c, mm/vmscan.c, mm/migrate.c (migrate_misplaced_page()), mm/damon,
Linux 6.3 and 6.18.
"""

import dataclasses
import errno
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np
from jaxtyping import Array, Int32, Int64

from jaxmig import frame
from jaxmig.migrate import replace
from jaxmig.syscalls.scan import candidates, order_of
from jaxmig.syscalls.session import NotModelled, Session
from jaxmig.syscalls.space import Heads, Space, View

COMPACT_CLUSTER_MAX: Final = 32
SWAP_CLUSTER_MAX: Final = 32


@dataclasses.dataclass(frozen=True)
class Caller:
    """How one caller asks."""

    mode: str  # unless it is told another
    reason: str
    pages: int = 0  # base pages that close a list; 0: one list of everything
    tries: int = 1  # calls on what is left of a list
    memalloc: bool = False  # it runs in reclaim
    goes_on: bool = False  # -ENOMEM does not keep it from its next list
    error: int = 0  # what it tells its own caller about folios left, 0: nothing


CALLERS: Final = {
    "kernel": Caller("sync", "syscall_or_cpuset"),
    "compaction": Caller("async", "compaction", COMPACT_CLUSTER_MAX),
    "numa_balancing": Caller("async", "numa_misplaced", 1, goes_on=True),
    "demotion": Caller(
        "async", "demotion", SWAP_CLUSTER_MAX, memalloc=True, goes_on=True
    ),
    "memory_offline": Caller("sync", "memory_hotplug"),
    "cma": Caller("sync", "contig_range", tries=5, error=errno.EBUSY),
    "longterm_pin": Caller("sync", "longterm_pin", error=errno.ENOMEM),
    "soft_offline": Caller(
        "sync", "memory_failure", 1, error=errno.EBUSY, goes_on=True
    ),
    "damon": Caller("async", "damon"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a caller's lists came to.

    Attributes:
      ret: folios not migrated, summed over the lists, or -ENOMEM.
      error: negative errno that the caller reports upwards, 0 if none.
      lists: calls of migrate_pages().
    """

    ret: int
    error: int
    lists: int


def call(
    s: Session,
    space: Space,
    old: frozenset[int],
    node: int,
    *,
    caller: str = "kernel",
    mode: str | None = None,
) -> Outcome:
    """Let `caller` move what a process has on the nodes `old` to `node`.

    Raises:
      ValueError: for a caller that is not modelled.
      SleepsForever: where Linux would.
      NotModelled: for soft offline of large folios into a node of theirs that runs full.
    """
    if caller not in CALLERS:
        raise ValueError(f"caller {caller!r}: not modelled; one of {' '.join(CALLERS)}")
    c = CALLERS[caller]
    folios = candidates(s.view(), space, old)
    free = s.view().isolable(folios)
    # A driver is asked for its own pages; a folio is on the LRU or it is not.
    for by_driver in (False, True):
        s.refuse([folios[~free]], by_driver)
    folios = folios[free]
    if c.reason == "numa_misplaced":
        folios = _worth_moving(s.view(), folios)
    c = dataclasses.replace(c, mode=mode or c.mode)
    failed = lists = short = 0
    for part, batch in _lists(s, c, folios, node):
        ret = _tries(s, c, space, part, node, batch)
        lists += 1 if batch is None else -(-len(part) // batch)
        if ret < 0 and not c.goes_on:
            return Outcome(ret, ret, lists)
        short, failed = min(short, ret), failed + max(ret, 0)
    # soft_offline_in_use_page() passes -ENOMEM on and makes -EBUSY of anything left.
    error = (short or -c.error * bool(failed)) if c.error else 0
    return Outcome(short or failed, error, lists)


def _worth_moving(view: View, folios: Heads) -> Heads:
    """migrate_misplaced_page() leaves dirty file pages and shared THPs alone."""
    flags = view.flags(folios)
    kind = flags & frame.KIND
    dirty_file = (kind == frame.FILE) & ((flags & frame.DIRTY) != 0)
    thp = (frame.order(flags) == frame.PMD_ORDER) & (kind != frame.HUGETLB)
    return folios[~(dirty_file | (thp & (view.sharers(folios) > 1)))]


def _lists(
    s: Session, c: Caller, folios: Heads, node: int
) -> Iterator[tuple[Heads, int | None]]:
    """The caller's lists, one at a time, each with its own batch limit or None."""
    if not c.pages or len(folios) == 0:
        yield folios, None
        return
    size = np.int64(1) << order_of(s.view(), folios).astype(np.int64)
    if _as_one(s, c, size, node):
        # Lists that share nothing may as well be the batches of a single call.
        yield folios, c.pages
        return
    cuts = _cuts(size, c.pages)
    for first, last in itertools.pairwise(cuts):
        if c.reason == "numa_misplaced" and s.free(node) < size[first]:
            # migrate_balanced_pgdat(): no room, so the hint fault does not even try.
            continue
        yield folios[first:last], None


def _cuts(size: Int64[np.ndarray, " folios"], pages: int) -> list[int]:
    """Where lists begin: each closes with the folio that brings it to `pages`."""
    if (size == 1).all():
        return [*range(0, len(size), pages), len(size)]
    cuts, total = [0], 0
    for i, n in enumerate(size.tolist()):
        total += n
        if total >= pages:
            cuts.append(i + 1)
            total = 0
    return cuts if cuts[-1] == len(size) else [*cuts, len(size)]


def _as_one(
    s: Session, c: Caller, size: Int64[np.ndarray, " folios"], node: int
) -> bool:
    """Whether one call with batches of the lists' size does the same as many calls.

    It does where nothing can run out, split or abort, and a batch is a list.
    """
    if s.logs is not None:
        return False  # who reads a trace wants to see each call
    small = bool((size == 1).all()) and s.free(node) >= len(size)
    return small and (not s.release.batched or s.batch == 0 or s.batch >= c.pages)


def _tries(
    s: Session, c: Caller, space: Space, folios: Heads, node: int, batch: int | None
) -> int:
    """migrate_pages() on one list, again on what is left of it if the caller does."""
    ret = 0
    for _ in range(c.tries):
        before, nfree, done = s.view(), s.state.nfree, s.counts["pgmigrate_success"]
        ret = s.migrate(
            folios, node, mode=c.mode, reason=c.reason, memalloc=c.memalloc, batch=batch
        )
        if c.reason == "memory_failure":
            moved = s.counts["pgmigrate_success"] - done
            _poison(s, before.flags(folios), nfree, moved, node)
        if ret <= 0:
            break
        if c.tries > 1:
            folios = _left(before, s.view(), folios)
    return ret


def _poison(
    s: Session,
    flags: Int32[np.ndarray, " folios"],
    nfree: Int32[Array, " nodes"],
    moved: int,
    node: int,
) -> None:
    """migrate_folio_done() leaves sources to memory-failure.c: nobody gets them again.

    `nfree` is what was free before `moved` base pages went to `node`.
    """
    # Pages of the pool are not counted as free memory anyway.
    if moved == 0 or ((flags & frame.KIND) == frame.HUGETLB).any():
        return
    back = np.array(s.state.nfree - nfree)
    # On the target, what came back is hidden by what was taken.
    back[node] = 0
    back[node] = moved - back.sum()
    if s.free(node) < back[node]:
        # The call took for one piece of a split folio what another had given up.
        raise NotModelled(
            f"node {node} has no room for the pieces of a folio of its own, whose frames "
            "soft offline keeps; leave room there, or move them to another node"
        )
    s.rewind(replace(s.state, nfree=s.state.nfree - back))


def _left(before: View, after: View, folios: Heads) -> Heads:
    """What a call left of its list: folios still there, and pieces of split ones."""
    if before.geometry.orders == (0,):
        whole = folios
    else:
        spans = zip(folios.tolist(), order_of(before, folios).tolist(), strict=True)
        whole = np.concatenate([_frames(after, h, o) for h, o in spans])
    old, new = before.frame[whole], after.frame[whole]
    flags = new[:, frame.FLAGS]
    # A frame that was given up may serve another folio of the same list by now.
    same = frame.order(old[:, frame.FLAGS] ^ flags) == 0
    taken = same & (old[:, frame.RMAP] != new[:, frame.RMAP])
    return whole[((flags & frame.KIND) != frame.FREE) & ~taken].astype(np.int32)


def _frames(after: View, head: int, order: int) -> Heads:
    """A folio that is whole, or all its pieces."""
    if order == 0 or after.flags(np.asarray([head]))[0] & frame.ORDER == order:
        return np.asarray([head], np.int32)
    return np.arange(head, head + (1 << order), dtype=np.int32)
