"""Demotion: shrink_folio_list() and demote_folio_list() in mm/vmscan.c."""

from __future__ import annotations

from .fallback import Fallback
from .folio import ANON, Folio
from .isolate import isolate, putback
from .job import Job

SCAN = 32  # SWAP_CLUSTER_MAX
GENERATION_SCAN = 64  # MIN_LRU_BATCH


def shrink_lists(job: Job) -> None:
    """Rounds of anonymous and of file pages, the oldest first.

    Reading: pages were touched in address order, and both lists take turns.
    """
    lru = [p.folio for p in job.pages if _on_lru(p.folio)]
    # Each node has lists of its own.
    for node in sorted({f.node for f in lru}):
        _shrink_node(job, [f for f in lru if f.node == node])


def _shrink_node(job: Job, lru: list[Folio]) -> None:
    anon = [f for f in lru if f.kind in ANON or f.kind == "shmem"]
    file = [f for f in lru if f.kind == "file"]
    while anon or file:
        for queue in (anon, file):
            taken = _scan(job, queue)
            # The youngest is at the head.
            _demote(job, [f for f in taken if _cold(f)][::-1])


def _on_lru(folio: Folio) -> bool:
    """Unevictable pages have a list of their own; drivers' and pool pages none."""
    if folio.hugetlb or folio.movable_ops or folio.mlocked:
        return False
    return isolate(folio)


def _scan(job: Job, queue: list[Folio]) -> list[Folio]:
    """isolate_lru_folios(): the scan ends with the folio that fills it."""
    most = GENERATION_SCAN if job.k.world.lru_gen else SCAN
    taken, total = 0, 0
    while taken < len(queue) and total < most:
        total += queue[taken].nr
        taken += 1
    found, queue[:] = queue[:taken], queue[taken:]
    return found


def _cold(folio: Folio) -> bool:
    """Whether shrink_folio_list() puts it onto the list for demotion."""
    if folio.has("locked") or folio.has("writeback") or folio.has("young"):
        putback([folio])
        return False
    return True


def _demote(job: Job, folios: list[Folio]) -> None:
    """demote_folio_list(): memory that ends here ends only this list.

    Reading: `to` is the lower tiers, which up to 7.0 the list forgets.
    """
    keeps = job.k.release.has("demotion_mask_kept")
    job.send(folios, Fallback(job, job.to, keeps).request())
