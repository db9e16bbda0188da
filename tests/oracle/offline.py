"""Memory offline: do_migrate_range() in mm/memory_hotplug.c."""

from __future__ import annotations

from .folio import Folio
from .isolate import isolate_page
from .job import Job
from .kernel import Kernel
from .rmap import try_to_unmap


def do_migrate_range(job: Job) -> None:
    """One list of the whole range, whatever its pages are.

    Reading: the call is the first round of those that Linux repeats for ever.
    """
    folios = []
    for page in job.pages:
        if page.folio.poison:
            _unmap_poisoned(job.k, page.folio)
        elif isolate_page(page.folio):
            folios.append(page.folio)
    if job.k.release.has("offline_descends"):
        # Isolated to the head, but pages of a pool to the tail.
        pool = [f for f in folios if f.hugetlb]
        folios = [f for f in folios if not f.hugetlb][::-1] + pool
    job.send(folios)


def _unmap_poisoned(k: Kernel, folio: Folio) -> None:
    """A poisoned folio is taken from its processes and left where it is."""
    try_to_unmap(k, folio, batch=False)
    for entry in folio.maps:
        entry.process.entries.pop(entry.vpn, None)
    folio.maps = []
    k.world.unmapped.append(folio)
