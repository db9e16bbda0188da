"""One list whose folios go to different nodes, as from mbind(2).

Source: alloc_migration_target_by_mpol(), new_folio() in mm/mempolicy.c, Linux 6.3.
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
    """migrate_pages() of one list whose folios go to several nodes.

    The counts of a call do not depend on where folios go, as long as memory lasts.  So
    the counts are those of one call to a single node that has all the memory, and the
    state is that of one call for each node.

    Args:
      nodes: int32[folios], the node that each folio goes to.
      room: base pages free on all nodes that may be tried.
      how: mode, reason and memalloc, as for Session.migrate().
    Returns:
      Folios not migrated, or -ENOMEM.
    """
    targets = np.unique(nodes).tolist()
    if len(targets) == 1:
        return session.migrate(folios, targets[0], **how)
    before = session.state
    # Frames that the sources free must not add to the memory of the single node.
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
    session: Session, folios: Heads, tried: Callable[[int], Sequence[int]]
) -> Heads:
    """The node that each base page of a list goes to: the first with memory left.

    Args:
      folios: base pages only, in the order of the list.
      tried: from a position in the list to the nodes that are tried, in order.
    Returns:
      int32[folios], a node for each; the last one tried where all are full.
    Raises:
      NotModelled: that depends on memory freed while the list is migrated.
    """
    _refuse_what_returns_memory(session, folios)
    free = [session.free(n) for n in range(session.nodes)]
    sources, back = session.view().node(folios), [0] * session.nodes
    found = np.zeros(len(folios), np.int32)
    # Folios of one batch have all their destinations before any source is freed.
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
                    "mbind() over nodes of which one is too small, where later pages "
                    f"would take what earlier batches leave on node {node}; leave more "
                    "memory free"
                )
        # Where all are full the allocation fails on the last.
        found[i] = order[min(first, len(order) - 1)]
        free[found[i]] -= 1
    return found


def _refuse_what_returns_memory(session: Session, folios: Heads) -> None:
    """Refuse folios that may fail or be split: they decide where later ones go."""
    flags = session.view().flags(folios)
    if (
        frame.has(flags, frame.CONDITIONED | frame.HURT).any()
        or frame.order(flags).any()
    ):
        raise NotModelled(
            "mbind() over nodes of which one is too small, of larger folios or with "
            "something in their way; leave more memory free, or name one node"
        )


def _first(nodes: Sequence[int], free: Sequence[int]) -> int:
    """Position of the first node with a free page; the length if there is none."""
    return next((i for i, n in enumerate(nodes) if free[n] > 0), len(nodes))
