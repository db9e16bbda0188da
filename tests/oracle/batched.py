"""migrate_pages() from 6.3 on: batches for the asynchronous stage, then one by one."""

from __future__ import annotations

from .batch import Batch, migrate_pages_batch
from .folio import Folio
from .hugetlb import migrate_hugetlbs
from .kernel import ENOMEM, Kernel, Request, Stats

PASSES = 10
ASYNC_PASSES = 3
SYNC_PASSES = PASSES - ASYNC_PASSES


def migrate_pages(k: Kernel, request: Request, folios: list[Folio]) -> int:
    """migrate_pages() of 6.3 and later; ``folios`` keeps what did not migrate."""
    stats = Stats()
    ret: list[Folio] = []
    # Without memory for a hugetlb folio nothing else is tried.
    rc = migrate_hugetlbs(k, request, folios, ret, stats)
    total = rc
    while rc >= 0 and folios:
        batch = cut_batch(k, folios, ret)
        split: list[Folio] = []
        rc = _one_batch(k, request, batch, ret, split, stats)
        ret += batch
        # The error ends the call: later batches stay on the list, uncounted.
        if rc < 0:
            ret += split
            total = rc
        else:
            _pieces(k, request, split, ret, stats)
            total += rc
    folios[:0] = ret
    k.account(stats)
    return total if folios else 0


def cut_batch(k: Kernel, folios: list[Folio], ret: list[Folio]) -> list[Folio]:
    """The head of the list up to and including the folio that fills the batch."""
    # Hugetlb folios that kept failing are set aside.
    ret += [f for f in folios if f.hugetlb]
    folios[:] = [f for f in folios if not f.hugetlb]
    pages = taken = 0
    for folio in folios:
        pages += folio.nr
        taken += 1
        # The folio that reaches the limit is included, so a batch may exceed it.
        if 0 < k.batch <= pages:
            break
    batch = folios[:taken]
    del folios[:taken]
    k.batches += bool(batch)
    return batch


def _one_batch(
    k: Kernel,
    request: Request,
    batch: list[Folio],
    ret: list[Folio],
    split: list[Folio],
    stats: Stats,
) -> int:
    """Asynchronous callers get ten passes, the others migrate_pages_sync()."""
    if request.mode != "async":
        return _sync(k, request, batch, ret, split, stats)
    return migrate_pages_batch(
        Batch(k, request, "async", batch, ret, split, stats, PASSES)
    )


def _pieces(
    k: Kernel, request: Request, split: list[Folio], ret: list[Folio], stats: Stats
) -> None:
    """All pieces of a batch as one more list, one pass, failures not returned."""
    if split:
        b = Batch(k, request, "async", split, ret, None, stats, 1)
        # Its result is dropped: each large folio has been counted as a failure.
        migrate_pages_batch(b)
        ret += split


def _sync(
    k: Kernel,
    request: Request,
    batch: list[Folio],
    ret: list[Folio],
    split: list[Folio],
    stats: Stats,
) -> int:
    """migrate_pages_sync(): all together asynchronously, the rest one by one."""
    first = Stats()
    failed: list[Folio] = []
    b = Batch(k, request, "async", batch, failed, split, first, ASYNC_PASSES)
    rc = migrate_pages_batch(b)
    stats.succeeded += first.succeeded
    stats.thp_succeeded += first.thp_succeeded
    stats.thp_split += first.thp_split
    stats.split += first.split
    if rc == ENOMEM:
        stats.failed_pages += first.failed_pages
        stats.thp_failed += first.thp_failed
        ret += failed
        return rc
    # Failures are tried again below, except that a split folio has failed for good.
    stats.thp_failed += first.thp_split
    # Before nr_split a smaller folio could be split without counting anywhere.
    total = first.split if k.release.has("nr_split") else first.thp_split
    # First those that stayed behind, then what was given up or undone.
    batch += failed
    while batch:
        one = [batch.pop(0)]
        b = Batch(k, request, request.mode, one, ret, split, stats, SYNC_PASSES)
        # With one folio there is nobody to deadlock with: it may sleep.
        rc = migrate_pages_batch(b)
        ret += one
        if rc < 0:
            return rc
        total += rc
    return total
