"""The series as posted (v4): batches in every mode, ten passes, -EDEADLOCK."""

from __future__ import annotations

from dataclasses import dataclass

from . import tlb
from .attempt import migrate_folio_unmap
from .batch import Batch, move_phase, no_memory, put_back, unmapped
from .folio import Folio
from .hugetlb import migrate_hugetlbs
from .kernel import EDEADLK, ENOMEM, Kernel, Request, Stats

PASSES = 10


@dataclass
class Pieces(Batch):
    """The round for split pieces: their failures and retries are not counted."""

    def count_retry(self, folio: Folio) -> None:
        """Only the pages are remembered, so the loops end after one pass."""
        self.retry_pages += folio.nr

    def count_failed(self, folio: Folio) -> None:
        """The large folio counted as failed when it was split."""


def migrate_pages(k: Kernel, request: Request, folios: list[Folio]) -> int:
    """migrate_pages() as posted; ``folios`` keeps what did not migrate."""
    stats = Stats()
    ret: list[Folio] = []
    rc = migrate_hugetlbs(k, request, folios, ret, stats)
    total = rc
    while rc >= 0 and folios:
        batch = _cut(k, folios, ret)
        rc = _batch(k, request, batch, ret, stats) if batch else 0
        ret += batch
        # An error replaces the count of what failed before.
        total = rc if rc < 0 else total + rc
    folios[:0] = ret
    k.account(stats)
    return total if folios else 0


def _cut(k: Kernel, folios: list[Folio], ret: list[Folio]) -> list[Folio]:
    """The head of the list, without the folio that would pass the limit."""
    ret += [f for f in folios if f.hugetlb]
    folios[:] = [f for f in folios if not f.hugetlb]
    pages = taken = 0
    for folio in folios:
        pages += folio.nr
        # Reading: a folio above the limit on its own is a batch of one.
        if 0 < k.batch < pages and taken:
            break
        taken += 1
    batch = folios[:taken]
    del folios[:taken]
    k.batches += bool(batch)
    return batch


def _batch(
    k: Kernel, request: Request, batch: list[Folio], ret: list[Folio], stats: Stats
) -> int:
    """migrate_pages_batch() as posted, with its two ways to start over."""
    split: list[Folio] = []
    b = Batch(k, request, request.mode, batch, ret, split, stats, PASSES)
    rc = _round(b)
    while rc == EDEADLK:
        # Everything is unlocked again: now it is safe to wait.
        rc = _round(b)
    # As in 6.3, a batch that ran out of memory drops its split pieces.
    if rc < 0:
        ret += split
    elif split:
        ret += batch
        # Leftovers are set aside first, so that only pieces are tried again.
        batch[:] = split
        pieces = Pieces(k, request, request.mode, batch, ret, None, stats, PASSES)
        while _round(pieces) == EDEADLK:
            pass
        # Running out of memory among the pieces ends the call, unlike in 6.3.
        rc = pieces.saved or rc
    return rc


def _round(b: Batch) -> int:
    """Unmap passes, the flush, move passes, and what is left put back."""
    b.saved = 0
    b.k.lists += 1
    _unmap_phase(b)
    if not (b.saved == ENOMEM and not b.moving):
        b.k.hook("unmap")
        tlb.flush_pending(b.k)
        b.k.hook("flush")
        move_phase(b)
    put_back(b)
    return b.saved or b.failed


def _unmap_phase(b: Batch) -> None:
    """As in 6.3, but any mode, with ``force`` from the fourth pass."""
    b.retry = 1
    for number in range(b.passes):
        if not b.retry:
            break
        b.start_pass()
        for folio in list(b.folios):
            # With folios locked, waiting for one more could deadlock.
            rc, dst = migrate_folio_unmap(
                b.k, b.request, folio, b.mode, number > 2, bool(b.moving), batch=True
            )
            if rc == EDEADLK:
                # Retries of this unfinished pass are not counted as failures.
                b.saved = EDEADLK
                return
            if rc == ENOMEM:
                if no_memory(b, folio):
                    return
            else:
                unmapped(b, folio, dst, rc)
    b.end_passes()
