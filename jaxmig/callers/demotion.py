"""Demotion: reclaim moves cold folios to a slower node instead of dropping them.

One scan takes folios of one LRU, anonymous ones or those of files, until it has seen so
many base pages; what it may not demote leaves the list shorter.  Folios were touched in
address order, and a list runs from the youngest to the oldest.

Folios go to the lower tier's node, or to others of the tier once that is full.  Up to 7.0
the first one that gets there empties the mask of those others: all nodes are allowed then.

Source: shrink_inactive_list(), isolate_lru_folios(), shrink_folio_list(),
demote_folio_list() in mm/vmscan.c, Linux 6.1 to 7.1.  Not modelled: active lists, the
proportion of both LRUs, memory cgroups, distances (nodes are near by their numbers),
larger folios and such as may fail, where the target runs full.
"""

import itertools
from typing import Final

import numpy as np

from jaxmig import conditions as cond, frame
from jaxmig.callers.candidates import Candidates, on_lru
from jaxmig.callers.lists import Lists, cuts
from jaxmig.callers.releases import since
from jaxmig.callers.request import Outcome, Request
from jaxmig.syscalls.session import NotModelled
from jaxmig.syscalls.spread import nodes_with_room

SWAP_CLUSTER_MAX: Final = 32
MIN_LRU_BATCH: Final = 64  # of the multi-generational LRU


def run(r: Request) -> Outcome:
    """Scans of both LRUs in turn, until all has been seen."""
    lists = Lists(r.s, r.node, r.mode, "demotion", memalloc=True)
    c = Candidates.of(r.s.view(), r.space, r.old)
    evictable = ~c.has(frame.MLOCKED)
    evictable[evictable] = on_lru(r.s, c.take(evictable))
    c = c.take(evictable).by_node()
    scan = _scans(c, MIN_LRU_BATCH if r.lru_gen else SWAP_CLUSTER_MAX)
    keeps = c.blocked(cond.LOCKED) | c.blocked(cond.WRITEBACK) | c.marked(cond.YOUNG)
    c, scan = c.take(~keeps), scan[~keeps]
    rows = np.lexsort((-c.vpn, scan))
    edges = np.flatnonzero(np.diff(scan[rows], prepend=-1)).tolist()
    c, edges = c.take(rows), [*edges, len(c)] if edges else []
    if lists.roomy(c):
        lists.each(c, edges)
    else:
        for first, last in itertools.pairwise(edges):
            _demote(r, lists, c.take(np.arange(first, last)))
    return Outcome(lists.ret, 0, lists.calls)


def _demote(r: Request, lists: Lists, c: Candidates) -> None:
    """alloc_demote_folio(): one list, which its target may have no room for."""
    s, here = r.s, r.s.free(r.node)
    everywhere = here > 0 and not since(s.kernel, "7.1")
    near = [(r.node + i) % s.nodes for i in range(s.nodes)]
    tried = [n for n in near if everywhere or n == r.node or n in r.tier]
    if int(c.size.sum()) <= here or len(tried) < 2:
        lists.one(c.head)
        return
    nodes = nodes_with_room(s, c.head, lambda _: tried, "demotion")
    home, wanted = int(c.node[0]), int((nodes == c.node[0]).sum())
    if min(wanted, s.free(home)) > int(s.state.top[home, 0]):
        problem = "the machine was made without frames for pages that go nowhere"
        raise NotModelled(f"demotion: {problem}; leave more memory free")
    lists.over(c.head, nodes, sum(s.free(n) for n in tried))


def _scans(c: Candidates, pages: int) -> np.ndarray:
    """The number of the scan that meets each folio."""
    scan = np.zeros(len(c), np.int64)
    before = 0
    for node in np.unique(c.node).tolist():
        for turn, files in enumerate((False, True)):
            mine = np.flatnonzero((c.node == node) & ((c.kind == frame.FILE) == files))
            ends = cuts(c.size[mine], pages)
            number = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
            scan[mine] = before + 2 * number + turn
        before = int(scan.max()) + 1
    return scan
