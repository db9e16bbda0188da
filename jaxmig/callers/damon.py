"""DAMON's migrate_hot and migrate_cold: a region of memory, a list for each of its nodes.

Source: damon_pa_migrate() in mm/damon/paddr.c, damon_migrate_pages() there and, since
6.17, in mm/damon/ops-common.c, Linux 6.11 to 7.1.  Not modelled: filters of schemes,
quotas, a fallback to other nodes.
"""

import numpy as np

from jaxmig import conditions as cond
from jaxmig.callers.candidates import Candidates, on_lru
from jaxmig.callers.lists import Lists, downwards
from jaxmig.callers.request import Outcome, Request


def run(r: Request) -> Outcome:
    """One list a node, to which folios were added at the head."""
    lists = Lists(r.s, r.node, r.mode, "damon", memalloc=True)
    c = Candidates.of(r.s.view(), r.space, r.old)
    free = on_lru(r.s, c)
    # The lock is tried after the isolation; who does not get it puts the folio back.
    c = c.take(free & ~c.blocked(cond.LOCKED))
    for node in np.unique(c.node).tolist():
        lists.one(downwards(c.take(c.node == node)).head)
    return Outcome(lists.ret, 0, lists.calls)
