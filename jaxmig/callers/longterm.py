"""Long-term pins: what is to be pinned must first leave movable memory.

All pages of a call are taken to lie in ZONE_MOVABLE or a CMA area.

Source: check_and_migrate_movable_pages(), collect_longterm_unpinnable_pages() in
mm/gup.c, Linux 6.1 to 7.1.
"""

import errno

from jaxmig import frame
from jaxmig.callers.candidates import Candidates, isolable
from jaxmig.callers.lists import Lists
from jaxmig.callers.request import Outcome, Request


def run(r: Request) -> Outcome:
    """One list in address order."""
    lists = Lists(r.s, r.node, r.mode, "longterm_pin")
    c = Candidates.of(r.s.view(), r.space, r.old)
    # gup_must_unshare(): of these the process gets a copy elsewhere before it is pinned.
    shared = (c.kind == frame.ANON) & ~c.has(frame.EXCLUSIVE_MAP)
    unshared = shared | (c.kind == frame.KSM)
    c = c.take(~unshared & (c.kind != frame.MOVABLE_OPS))
    c = c.take(isolable(r.s, c))
    if len(c):
        # migrate_longterm_unpinnable_folios() puts its list back whatever came of it.
        lists.one(c.head, puts_back=True)
    return Outcome(lists.ret, -errno.ENOMEM if lists.ret else 0, lists.calls)
