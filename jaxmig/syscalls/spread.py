"""One list whose folios go to nodes of their own, as mbind(2) may ask for.

Source: alloc_migration_target_by_mpol(), new_folio() in mm/mempolicy.c, Linux 6.3.
"""

import numpy as np

from jaxmig.migrate import replace
from jaxmig.syscalls.session import Session
from jaxmig.syscalls.space import Heads


def migrate_over(
    s: Session, folios: Heads, nodes: Heads, room: int, *, reason: str
) -> int:
    """migrate_pages() of one list: folios not migrated, or -ENOMEM.

    What a call counts does not depend on where a folio goes while memory lasts.  So it
    is counted in a rehearsal, on a node that has all the memory there is, and the state
    is that of a list a node.

    Args:
      nodes: int32[folios], where each folio goes.
      room: base pages free on all nodes that may be tried.
    """
    targets = np.unique(nodes).tolist()
    if len(targets) == 1:
        return s.migrate(folios, targets[0], reason=reason)
    before = s.state
    # What the sources give back must not become room on the stage.
    sources = set(s.view().node(folios).tolist())
    stage = min(set(targets) - sources, default=targets[0])
    s.rewind(replace(before, nfree=before.nfree.at[stage].set(room)))
    ret = s.migrate(folios, stage, reason=reason)
    counted = dict(s.counts), s.ipis, s.logs and [*s.logs]
    s.rewind(before)
    for target in targets:
        s.migrate(folios[nodes == target], target, reason=reason)
    s.counts, s.ipis, s.logs = counted
    return ret
