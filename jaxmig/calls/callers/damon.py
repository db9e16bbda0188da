"""DAMON's migrate_hot and migrate_cold: a region of memory, a list for each of its nodes.

Source: damon_pa_migrate() in mm/damon/paddr.c, damon_migrate_pages() there and, since
6.17, in mm/damon/ops-common.c, Linux 6.11 to 7.1.  Not modelled: filters of schemes,
quotas, a fallback to other nodes.
"""

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, on_lru
from jaxmig.calls.callers.lists import Lists, downwards
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.state import conditions as cond


def run(request: Request) -> CallerOutcome:
    """One list for each node, to whose head folios were added in address order."""
    lists = Lists(request.session, request.node, request.mode, "damon", memalloc=True)
    c = Candidates.of(request.session.view(), request.space, request.old)
    free = on_lru(request.session, c)
    # The lock is tried after the isolation; a folio that is locked is put back.
    c = c.take(free & ~c.blocked(cond.LOCKED))
    for node in np.unique(c.node).tolist():
        lists.one(downwards(c.take(c.node == node)).head)
    return CallerOutcome(lists.ret, 0, lists.calls)
