"""Demotion: reclaim moves cold folios to a slower node instead of dropping them.

One scan takes folios of one LRU, anonymous ones or those of files, until it has seen a
fixed number of base pages; folios that it may not demote make its list shorter.  Folios
were touched in address order, and a list runs from the youngest to the oldest.

Folios go to the lower tier's node, and to other nodes of the tier once that is full.  Up
to 7.0 the first folio that goes to another node clears the mask of allowed nodes: from
then on every node is allowed.

Source: shrink_inactive_list(), isolate_lru_folios(), shrink_folio_list(),
demote_folio_list() in mm/vmscan.c, Linux 6.1 to 7.1.  Not modelled: active lists, the
proportion of both LRUs, memory cgroups, distances (nodes are near by their numbers).
"""

import itertools
from typing import Final

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, on_lru
from jaxmig.calls.callers.lists import Lists, cuts
from jaxmig.calls.callers.releases import since
from jaxmig.calls.callers.request import CallerOutcome, Request
from jaxmig.state import conditions as cond, frame

SWAP_CLUSTER_MAX: Final = 32
MIN_LRU_BATCH: Final = 64  # of the multi-generational LRU


def run(request: Request) -> CallerOutcome:
    """Scan both LRUs in turn, until every folio has been seen."""
    lists = Lists(
        request.session, request.node, request.mode, "demotion", memalloc=True
    )
    c = Candidates.of(request.session.view(), request.space, request.old)
    evictable = ~c.has(frame.MLOCKED)
    evictable[evictable] = on_lru(request.session, c.take(evictable))
    c = c.take(evictable).by_node()
    scan = _scans(c, MIN_LRU_BATCH if request.lru_gen else SWAP_CLUSTER_MAX)
    keeps = c.blocked(cond.LOCKED) | c.blocked(cond.WRITEBACK) | c.marked(cond.YOUNG)
    c, scan = c.take(~keeps), scan[~keeps]
    rows = np.lexsort((-c.vpn, scan))
    edges = np.flatnonzero(np.diff(scan[rows], prepend=-1)).tolist()
    c, edges = c.take(rows), [*edges, len(c)] if edges else []
    if lists.roomy(c):
        lists.each(c, edges)
    else:
        for first, last in itertools.pairwise(edges):
            _demote(request, lists, c.take(np.arange(first, last)))
    return CallerOutcome(lists.ret, 0, lists.calls)


def _demote(request: Request, lists: Lists, candidates: Candidates) -> None:
    """alloc_demote_folio(): one list, some of which may not fit on its target."""
    keeps = since(request.session.kernel, "7.1")
    lists.fall_back(candidates, request.tier, keeps)


def _scans(candidates: Candidates, pages: int) -> np.ndarray:
    """The number of the scan that finds each folio; `pages` are in each."""
    scan = np.zeros(len(candidates), np.int64)
    before = 0
    for node in np.unique(candidates.node).tolist():
        for turn, files in enumerate((False, True)):
            mine = np.flatnonzero(
                (candidates.node == node) & ((candidates.kind == frame.FILE) == files)
            )
            ends = cuts(candidates.size[mine], pages)
            number = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
            scan[mine] = before + 2 * number + turn
        before = int(scan.max()) + 1
    return scan
