"""Soft offline: soft_offline_in_use_page() in mm/memory-failure.c, a page a call."""

from __future__ import annotations

from .folio import Folio
from .isolate import isolate
from .job import Job
from .split import split_huge_page


def soft_offline(job: Job) -> None:
    """Every page of the range, each by a call of its own, in address order."""
    for page in job.pages:
        if page.folio.large:
            _offline_large(job, page.folio)
        else:
            _offline(job, page.folio)


def _offline_large(job: Job, folio: Folio) -> None:
    """Split first; a page whose split fails is given up, and the next one tries."""
    pieces: list[Folio] = []
    for i in range(folio.nr):
        first = not pieces
        if first:
            if folio.test("locked"):
                folio.sleep_on("locked")
            taken = folio.isolated or folio.has("isolated")
            made = split_huge_page(job.k, folio, taken=taken)
            if isinstance(made, int):
                job.busy = True
                continue
            pieces = made
            # __split_huge_page() drops its own reference of all but the page in hand:
            # where the zero page has taken their place, that was the last one.
            for j, piece in enumerate(pieces):
                if j != i and piece.refcount == 0:
                    job.k.world.release(piece)
        if first or pieces[i].refcount:
            _offline(job, pieces[i])


def _offline(job: Job, folio: Folio) -> None:
    """Lock and writeback are slept on before anything is isolated."""
    if folio.test("locked"):
        folio.sleep_on("locked")
    if not folio.hugetlb and folio.test("writeback"):
        folio.sleep_on("writeback")
    # invalidate_inode_page(): clean page cache that nobody maps is dropped.
    if folio.kind == "file" and not folio.maps and not folio.dirty:
        job.k.world.unmapped.remove(folio)
        return
    if not isolate(folio, by_driver=True):
        job.busy = True
        return
    job.send([folio])
