"""What shrink_folio_list() in mm/vmscan.c does to clean file pages, for CMA."""

from __future__ import annotations

from . import tlb
from .folio import Folio
from .kernel import Kernel
from .rmap import try_to_unmap

FOLIO_BATCH = 31  # from 6.9, so many freed folios share a flush


def reclaim_clean_pages_from_list(k: Kernel, folios: list[Folio]) -> None:
    """Drop the clean file pages of a list instead of moving them."""
    clean = [f for f in folios if f.kind == "file" and not (f.dirty or f.mlocked)]
    kept: list[Folio] = []
    freed = 0
    for folio in clean:
        if not _shrink(k, folio):
            # What stays gathers at the head, the last one first.
            kept.insert(0, folio)
            continue
        freed += 1
        if k.release.has("flush_by_folio_batch") and freed % FOLIO_BATCH == 0:
            tlb.flush_pending(k)
    tlb.flush_pending(k)
    folios[:] = kept + [f for f in folios if f not in clean]


def _shrink(k: Kernel, folio: Folio) -> bool:
    """One folio: unmapped, and freed if nobody else holds it."""
    # A page freed under us is in no mapping that it could be removed from.
    if folio.has("freed") or folio.has("locked") or folio.has("writeback"):
        return False
    if folio.maps:
        _unmap(k, folio)
    # Reading: the look at the references is no attempt.
    if folio.extra_refs() or folio.dirty or folio.has("buffers_locked"):
        return False
    k.world.unmapped.remove(folio)
    k.world.release(folio)
    folio.isolated = False
    k.reclaimed += folio.nr
    return True


def _unmap(k: Kernel, folio: Folio) -> None:
    """try_to_unmap() with TTU_BATCH_FLUSH: from now on only the page cache has it."""
    try_to_unmap(k, folio, batch=True)
    for entry in folio.maps:
        entry.process.entries.pop(entry.vpn, None)
    folio.maps = []
    k.world.unmapped.append(folio)
