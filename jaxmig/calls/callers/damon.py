"""DAMON's migrate_hot and migrate_cold: a region of memory, a list for each of its nodes.

Up to 6.16 the mask of nodes to fall back on is empty, but the first folio that is moved
clears it, and then every node is allowed; from 6.17 on every node is from the start.

Source: damon_pa_migrate() in mm/damon/paddr.c, damon_migrate_pages() there and, since
6.17, in mm/damon/ops-common.c, alloc_demote_folio() in mm/vmscan.c, Linux 6.11 to 7.1;
that 6.15 and 6.16 are as 6.14 is inferred.  Not modelled: filters of schemes, quotas.
"""

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, on_lru
from jaxmig.calls.callers.lists import Lists, downwards
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.state import conditions as cond


def run(request: Request) -> CallerOutcome:
    """One list for each node, to whose head folios were added in address order."""
    lists = Lists(request.session, request.node, request.mode, "damon", memalloc=True)
    c = Candidates.of(request.session.view(), request.space, request.old)
    free = on_lru(request.session, c)
    # The lock is tried after the isolation; a folio that is locked is put back.
    c = c.take(free & ~c.blocked(cond.LOCKED))
    s, anywhere = request.session, since(request.session.kernel, "6.17")
    for node in np.unique(c.node).tolist():
        allowed = range(s.nodes) if anywhere else ()
        lists.fall_back(downwards(c.take(c.node == node)), allowed, keeps=anywhere)
    return CallerOutcome(lists.ret, 0, lists.calls)
