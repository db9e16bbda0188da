"""The callers of migrate_pages() inside Linux: their lists, mode and reason, and what
they make of a failure.

There is a file for each caller.  It selects the folios that the caller isolates; a folio
that is skipped is on no list and in no count.

Source: mm/compaction.c, mm/memory_hotplug.c, mm/page_alloc.c, mm/gup.c,
mm/memory-failure.c, mm/vmscan.c, mm/migrate.c (migrate_misplaced_page()), mm/damon,
Linux 6.1 to 7.1.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

from jaxmig.calls.callers import (
    cma,
    compaction,
    damon,
    demotion,
    longterm,
    numa,
    offline,
    plain,
    soft_offline,
)
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.session import NotModelled, Session
from jaxmig.calls.syscalls.space import Space
from jaxmig.linux.releases import MAX_PAGE_ORDER
from jaxmig.state import arguments

__all__ = ["CALLERS", "Caller", "CallerOutcome", "NoSuchCaller", "call", "check"]


class NoSuchCaller(NotModelled):
    """A release that does not have the caller."""


@dataclasses.dataclass(frozen=True)
class Caller:
    """One caller.

    Attributes:
      mode: the migrate_mode that it uses unless the request names another.
      run: builds its lists and calls migrate_pages() for each.
      first: the release that introduced it, "" if it is older than all modelled ones.
    """

    mode: str
    run: Callable[[Request], CallerOutcome]
    first: str = ""


CALLERS: Final = {
    "kernel": Caller("sync", plain.run),
    "compaction": Caller("sync_light", compaction.run),
    "numa_balancing": Caller("async", numa.run),
    "demotion": Caller("async", demotion.run),
    "memory_offline": Caller("sync", offline.run),
    "cma": Caller("sync", cma.run),
    "longterm_pin": Caller("sync", longterm.run),
    "soft_offline": Caller("sync", soft_offline.run),
    "damon": Caller("async", damon.run, first="6.11"),
}


def check(caller: str, kernel: str) -> None:
    """Refuse a caller that a release does not have.

    Raises:
      ValueError: for a caller that is not modelled.
      NoSuchCaller: for one that a later release introduced.
    """
    if caller not in CALLERS:
        raise ValueError(f"caller {caller!r}: not modelled; one of {' '.join(CALLERS)}")
    first = CALLERS[caller].first
    if first and not since(kernel, first):
        raise NoSuchCaller(
            f"Linux {kernel} has no caller {caller}, which came with {first}; "
            "leave this kernel out, or choose another caller"
        )


def call(
    session: Session,
    space: Space,
    old: frozenset[int],
    node: int,
    *,
    caller: str = "kernel",
    mode: str | None = None,
    order: int | None = None,
    direct: bool | None = None,
    lru_gen: bool = False,
    compact_unevictable: bool = True,
    tier: frozenset[int] = frozenset(),
) -> CallerOutcome:
    """Let `caller` move the folios of a process from the nodes `old` to `node`.

    Args:
      session: the machine and the release; its counts and state change.
      space: the address space of the process.
      caller: a name in CALLERS.
      mode: "async", "sync_light" or "sync"; None for the caller's own.
      order, direct: of compaction: log2 of the pages that it is to free (-1: all it
        can), and whether an allocation waits for it; None: as the mode says.
      lru_gen: reclaim uses the multi-generational LRU.
      compact_unevictable: vm.compact_unevictable_allowed.
      tier: of demotion: nodes that it may use instead when `node` is full.
    Returns:
      What the calls of migrate_pages() returned, added up over the lists.
    Raises:
      ValueError: for a caller that is not modelled, for what is no number or no set of
        nodes, and for what is no part of the machine.
      NoSuchCaller: for a release that does not have it.
      SleepsForever: where Linux would wait for something that never ends.
      NotModelled: for soft offline of large folios into one of their own nodes if that
        runs full, and for demotion of folios that may fail to a node that runs full.
    """
    check(caller, session.kernel)
    space.check(session.state)
    old, tier = arguments.node_set("old", old), arguments.node_set("tier", tier)
    node = arguments.whole("node", node, -arguments.MOST)
    if order is not None:
        order = arguments.whole("order", order, compaction.EVERYTHING, MAX_PAGE_ORDER)
    c = CALLERS[caller]
    request = Request(
        session,
        space,
        old,
        node,
        mode or c.mode,
        order,
        direct,
        lru_gen,
        compact_unevictable,
        tier,
    )
    done = c.run(request)
    return dataclasses.replace(done, nr_isolated=_drift(session, caller))


def _drift(session: Session, caller: str) -> int:
    """Error that a call leaves in NR_ISOLATED_*, base pages: 0, or a negative number.

    migrate_folio_done() subtracts each page moved.  Before 6.12 reclaim subtracts pages
    that demotion moved a second time, and DAMON never adds what it isolates.
    """
    twice = caller == "demotion" and not since(session.kernel, "6.12")
    return -session.counts["pgmigrate_success"] if twice or caller == "damon" else 0
