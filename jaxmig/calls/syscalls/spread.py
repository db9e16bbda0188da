"""One list whose folios go to nodes of their own, as mbind(2) and demotion may ask for.

Source: alloc_migration_target_by_mpol(), new_folio() in mm/mempolicy.c, Linux 6.3;
alloc_demote_folio() in mm/vmscan.c, Linux 6.1 to 7.1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxmig.calls.syscalls.session import NotModelled, Session
from jaxmig.calls.syscalls.space import Heads
from jaxmig.engine.migrate import replace
from jaxmig.state import frame


def migrate_over(
    session: Session, folios: Heads, nodes: Heads, room: int, **how: Any
) -> int:
    """migrate_pages() of one list: folios not migrated, or -ENOMEM.

    What a call counts does not depend on where a folio goes while memory lasts.  So it
    is counted in a rehearsal, on a node that has all the memory there is, and the state
    is that of a list a node.

    Args:
      nodes: int32[folios], where each folio goes.
      room: base pages free on all nodes that may be tried.
      how: mode, reason and memalloc, as for Session.migrate().
    """
    targets = np.unique(nodes).tolist()
    if len(targets) == 1:
        return session.migrate(folios, targets[0], **how)
    before = session.state
    # What the sources give back must not become room on the stage.
    sources = set(session.view().node(folios).tolist())
    stage = min(set(targets) - sources, default=targets[0])
    session.rewind(replace(before, nfree=before.nfree.at[stage].set(room)))
    ret = session.migrate(folios, stage, **how)
    counted = dict(session.counts), session.ipis, session.logs and [*session.logs]
    session.rewind(before)
    for target in targets:
        session.migrate(folios[nodes == target], target, **how)
    session.counts, session.ipis, session.logs = counted
    return ret


def nodes_with_room(
    session: Session, folios: Heads, tried: Callable[[int], Sequence[int]], who: str
) -> Heads:
    """The node each base page of a list goes to: the first with memory left.

    Args:
      tried: the nodes that are tried for each page of the list, in order.
      who: is named where it is refused.
    Raises NotModelled where memory would come back while the list is worked on.
    """
    _refuse_what_returns_memory(session, folios, who)
    free = [session.free(n) for n in range(session.nodes)]
    sources, back = session.view().node(folios), [0] * session.nodes
    found = np.zeros(len(folios), np.int32)
    # So many have their destinations before any of their sources is freed.
    limit = (session.batch or len(folios)) if session.release.batched else 1
    for i in range(len(folios)):
        if i and i % limit == 0:
            for node in sources[i - limit : i].tolist():
                back[node] += 1
        order = tried(i)
        first = _first(order, free)
        for node in order[:first]:
            if back[node]:
                raise NotModelled(
                    f"{who} over nodes of which one is too small, where later pages "
                    f"would take what earlier batches leave on node {node}; leave more "
                    "memory free"
                )
        # If there is none, the folio is tried on the last and fails there.
        found[i] = order[min(first, len(order) - 1)]
        free[found[i]] -= 1
    return found


def _refuse_what_returns_memory(session: Session, folios: Heads, who: str) -> None:
    """Where memory ends, folios that fail or are split decide where later ones go."""
    flags = session.view().flags(folios)
    if (
        frame.has(flags, frame.CONDITIONED | frame.HURT).any()
        or frame.order(flags).any()
    ):
        raise NotModelled(
            f"{who} over nodes of which one is too small, of larger folios or with "
            "something in their way; leave more memory free, or name one node"
        )


def _first(nodes: Sequence[int], free: Sequence[int]) -> int:
    """Place of the first node with a free page; behind the last if there is none."""
    return next((i for i, n in enumerate(nodes) if free[n] > 0), len(nodes))
