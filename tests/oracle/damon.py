"""DAMON's migrate_hot and migrate_cold: damon_pa_migrate() in mm/damon."""

from __future__ import annotations

from .fallback import Fallback
from .isolate import isolate
from .job import Job
from .kernel import Request


def damon_pa_migrate(job: Job) -> None:
    """One list for each source node, from the highest page down.

    Reading: the whole range is one region; `to` names the target node alone.
    """
    for node in sorted({p.folio.node for p in job.pages}):
        folios = [p.folio for p in job.pages if p.folio.node == node]
        job.send([f for f in folios if _taken(f)][::-1], _request(job))


def _request(job: Job) -> Request:
    """Up to 6.16 the fallback's mask is empty at first; later there is none."""
    anywhere = job.k.release.has("damon_falls_back")
    nodes = set(job.k.world.free) if anywhere else set()
    return Fallback(job, nodes, keeps_mask=anywhere).request()


def _taken(folio) -> bool:
    """On the LRU, and its lock is free."""
    if folio.hugetlb or folio.movable_ops or not isolate(folio):
        return False
    if folio.has("locked"):
        folio.isolated = False
        return False
    return True
