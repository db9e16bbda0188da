"""migrate_pages() itself: one list of all that can be isolated, in address order."""

from jaxmig.callers.candidates import Candidates, isolable
from jaxmig.callers.lists import Lists
from jaxmig.callers.request import Outcome, Request


def run(r: Request) -> Outcome:
    """The list."""
    lists = Lists(r.s, r.node, r.mode, "syscall_or_cpuset")
    c = Candidates.of(r.s.view(), r.space, r.old)
    lists.one(c.take(isolable(r.s, c)).head)
    return Outcome(lists.ret, 0, lists.calls)
