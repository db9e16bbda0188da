"""Long-term pins: pages leave movable memory before they are pinned.

All pages of a call are assumed to lie in ZONE_MOVABLE or a CMA area.

Source: check_and_migrate_movable_pages(), collect_longterm_unpinnable_pages() in
mm/gup.c, Linux 6.1 to 7.1.
"""

import errno

from jaxmig.calls.callers.candidates import Candidates, isolable
from jaxmig.calls.callers.lists import Lists
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.state import frame


def run(request: Request) -> CallerOutcome:
    """One list in address order."""
    lists = Lists(request.session, request.node, request.mode, "longterm_pin")
    c = Candidates.of(request.session.view(), request.space, request.old)
    # gup_must_unshare(): the process gets a copy of these before the pin.
    shared = (c.kind == frame.ANON) & ~c.has(frame.EXCLUSIVE_MAP)
    unshared = shared | (c.kind == frame.KSM)
    c = c.take(~unshared & (c.kind != frame.MOVABLE_OPS))
    c = c.take(isolable(request.session, c))
    if len(c):
        # migrate_longterm_unpinnable_folios() puts its list back whatever the result.
        lists.one(c.head, puts_back=True)
    return CallerOutcome(lists.ret, -errno.ENOMEM if lists.ret else 0, lists.calls)
