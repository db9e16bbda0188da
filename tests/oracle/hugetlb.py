"""Hugetlb folios: never batched, flushed at once, handled before all others."""

from __future__ import annotations

from . import rmap
from .folio import Folio
from .kernel import EAGAIN, EBUSY, ENOMEM, Kernel, Request, Stats
from .move import finish, move_to_new_folio, undo_source, undo_target

PASSES = 10


def unmap_and_move_huge_page(
    k: Kernel, request: Request, src: Folio, force: bool
) -> int:
    """unmap_and_move_huge_page() in mm/migrate.c."""
    if k.freed_under_us(request, src):
        return 0
    dst = k.allocate(request, src)
    if dst is None:
        return ENOMEM
    rc = 0
    # Even SYNC_LIGHT does not wait here, unlike for other folios.
    if src.test("locked"):
        if force and request.mode == "sync":
            src.sleep_on("locked")
        else:
            rc = EAGAIN
    rc = rc or _locked(k, request, src, dst)
    if rc:
        undo_target(k, dst)
    return rc


def _locked(k: Kernel, request: Request, src: Folio, dst: Folio) -> int:
    """The part with the folio lock held."""
    # A page of a pool that lost its mapping is on its way out.
    if src.test("private"):
        return EBUSY
    src.locked = True
    # TTU_BATCH_FLUSH is not used: one flush for each mapping.
    rmap.try_to_migrate(k, src, batch=False)
    k.hook("flush")
    rc = EAGAIN if src.mapped() else move_to_new_folio(k, dst, src, request.mode)
    if rc:
        undo_source(k, src)
    else:
        finish(k, request, src, dst)
    return rc


def migrate_hugetlbs(
    k: Kernel, request: Request, folios: list[Folio], ret: list[Folio], stats: Stats
) -> int:
    """migrate_hugetlbs() of 6.3: failures, or -ENOMEM, which ends the whole call."""
    failed, retry = 0, 1
    # Always ten passes, the last seven of them forced, whatever the mode.
    for number in range(PASSES):
        if not retry:
            break
        retry = retry_pages = 0
        for folio in [f for f in folios if f.hugetlb]:
            rc = unmap_and_move_huge_page(k, request, folio, number > 2)
            if rc == ENOMEM:
                # The count of failed folios is lost: only the error is returned.
                stats.failed_pages += folio.nr + retry_pages
                return ENOMEM
            if rc == EAGAIN:
                retry += 1
                retry_pages += folio.nr
                continue
            folios.remove(folio)
            if rc == 0:
                stats.succeeded += folio.nr
            else:
                ret.append(folio)
                failed += 1
                stats.failed_pages += folio.nr
    stats.failed_pages += retry_pages
    return failed + retry
