"""Long-term pins: pages leave movable memory before they are pinned.

All pages of a call are assumed to lie in ZONE_MOVABLE or a CMA area.

Source: check_and_migrate_movable_pages(), collect_longterm_unpinnable_pages() in
mm/gup.c, Linux 6.1 to 7.1.
"""

import errno

from jaxmig.calls.callers.candidates import Candidates, isolable
from jaxmig.calls.callers.left import left_of
from jaxmig.calls.callers.lists import Lists
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.state import frame


def run(request: Request) -> CallerOutcome:
    """One list in address order, and after a success another of what is left."""
    s = request.session
    lists = Lists(s, request.node, request.mode, "longterm_pin")
    c = _collected(request)
    while len(c):
        splits = s.counts["nr_split"]
        # migrate_longterm_unpinnable_folios() puts its list back whatever the result.
        ret = lists.one(c.head, puts_back=True)
        # Up to 6.6 a success says nothing of the pieces of folios that were split.
        if ret or s.counts["nr_split"] == splits:
            break
        left = left_of(c.view, s.view(), c.head)
        c = Candidates.at(s.view(), left)
        c = c.take(isolable(s, c))
    return CallerOutcome(lists.ret, -errno.ENOMEM if lists.ret else 0, lists.calls)


def _collected(request: Request) -> Candidates:
    """What lies where it must not be pinned."""
    c = Candidates.of(request.session.view(), request.space, request.old)
    # gup_must_unshare(): the process gets a copy of these before the pin.
    forked = (c.kind == frame.ANON) & ~c.has(frame.EXCLUSIVE_MAP)
    forked |= (c.kind == frame.SWAPCACHE) & c.view.shared(c.head, exactly=True)
    unshared = forked | (c.kind == frame.KSM)
    c = c.take(~unshared & (c.kind != frame.MOVABLE_OPS))
    return c.take(isolable(request.session, c))
