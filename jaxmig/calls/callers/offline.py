"""Memory offlining: a block of memory is emptied.

Source: offline_pages(), do_migrate_range() in mm/memory_hotplug.c, Linux 6.1 to 7.1.
Not modelled: poisoned pages, rounds after the first, blocks smaller than the request.
"""

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, isolable
from jaxmig.calls.callers.lists import Lists, downwards
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.calls.syscalls.session import NotModelled
from jaxmig.state import frame


def run(request: Request) -> CallerOutcome:
    """One round: one list of everything that can be isolated."""
    lists = Lists(request.session, request.node, request.mode, "memory_hotplug")
    c = Candidates.of(request.session.view(), request.space, request.old)
    if c.has(frame.HURT).any():
        raise NotModelled("poisoned pages, which offlining unmaps where they are")
    c = c.take(~c.driver_busy)
    c = c.take(isolable(request.session, c))
    if since(request.session.kernel, "6.12"):
        c = hugetlb_last(downwards(c))
    if len(c):
        lists.one(c.head)
    return CallerOutcome(lists.ret, 0, lists.calls)


def hugetlb_last(candidates: Candidates) -> Candidates:
    """A list to whose tail hugetlb folios were added, in address order."""
    huge = candidates.kind == frame.HUGETLB
    return candidates.take(
        np.lexsort((np.where(huge, candidates.vpn, np.arange(len(candidates))), huge))
    )
