"""Demotion: reclaim moves cold folios to a slower node instead of dropping them.

One scan takes folios of one LRU, anonymous ones or those of files, until it has seen so
many base pages; what it may not demote leaves the list shorter.  Folios were touched in
address order, and a list runs from the youngest to the oldest.

Source: shrink_inactive_list(), isolate_lru_folios(), shrink_folio_list(),
demote_folio_list() in mm/vmscan.c, Linux 6.1 to 7.1.  Not modelled: active lists, the
proportion of both LRUs, memory cgroups, tiers (the target is the lower one).
"""

from typing import Final

import numpy as np

from jaxmig import conditions as cond, frame
from jaxmig.callers.candidates import Candidates, on_lru
from jaxmig.callers.lists import Lists, cuts
from jaxmig.callers.request import Outcome, Request

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
    lists.each(c.take(rows), [*edges, len(c)] if edges else [])
    return Outcome(lists.ret, 0, lists.calls)


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
