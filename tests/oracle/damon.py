"""DAMON's migrate_hot and migrate_cold: damon_pa_migrate() in mm/damon."""

from __future__ import annotations

from .isolate import isolate
from .job import Job


def damon_pa_migrate(job: Job) -> None:
    """One list for each source node, from the highest page down.

    Reading: the whole range is one region; `to` is the only destination.
    """
    for node in sorted({p.folio.node for p in job.pages}):
        folios = [p.folio for p in job.pages if p.folio.node == node]
        job.send([f for f in folios if _taken(f)][::-1])


def _taken(folio) -> bool:
    """On the LRU, and its lock is free."""
    if folio.hugetlb or folio.movable_ops or not isolate(folio):
        return False
    if folio.has("locked"):
        folio.isolated = False
        return False
    return True
