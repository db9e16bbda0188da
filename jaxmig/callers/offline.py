"""Memory offlining: whatever is in a block of memory has to leave it.

Source: offline_pages(), do_migrate_range() in mm/memory_hotplug.c, Linux 6.1 to 7.1.
Not modelled: poisoned pages, rounds after the first, blocks smaller than what is asked for.
"""

import numpy as np

from jaxmig import frame
from jaxmig.callers.candidates import Candidates, isolable
from jaxmig.callers.lists import Lists, downwards
from jaxmig.callers.releases import since
from jaxmig.callers.request import Outcome, Request
from jaxmig.syscalls.session import NotModelled


def run(r: Request) -> Outcome:
    """One round: one list of everything that can be isolated."""
    lists = Lists(r.s, r.node, r.mode, "memory_hotplug")
    c = Candidates.of(r.s.view(), r.space, r.old)
    if c.has(frame.HURT).any():
        raise NotModelled("poisoned pages, which offlining unmaps where they are")
    c = c.take(~c.driver_busy)
    c = c.take(isolable(r.s, c))
    if since(r.s.kernel, "6.12"):
        c = hugetlb_last(downwards(c))
    if len(c):
        lists.one(c.head)
    return Outcome(lists.ret, 0, lists.calls)


def hugetlb_last(c: Candidates) -> Candidates:
    """A list to whose tail hugetlb folios were added, in address order."""
    huge = c.kind == frame.HUGETLB
    return c.take(np.lexsort((np.where(huge, c.vpn, np.arange(len(c))), huge)))
