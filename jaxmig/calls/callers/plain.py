"""migrate_pages() itself: one list of all that can be isolated, in address order."""

from jaxmig.calls.callers.candidates import Candidates, isolable
from jaxmig.calls.callers.lists import Lists
from jaxmig.calls.callers.request import CallerOutcome, Request


def run(request: Request) -> CallerOutcome:
    """Migrate the list."""
    lists = Lists(request.session, request.node, request.mode, "syscall_or_cpuset")
    c = Candidates.of(request.session.view(), request.space, request.old)
    lists.one(c.take(isolable(request.session, c)).head)
    return CallerOutcome(lists.ret, 0, lists.calls)
