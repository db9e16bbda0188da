"""One attempt at one folio: the serial form and the unmap half of the batched one."""

from __future__ import annotations

from . import rmap
from .folio import Folio
from .kernel import EAGAIN, EBUSY, EDEADLK, ENOMEM, Kernel, Request
from .move import finish, move_to_new_folio, undo_source, undo_target

UNMAP = 1  # MIGRATEPAGE_UNMAP: src and dst are locked, src is unmapped


def lock_source(
    src: Folio, request: Request, mode: str, force: bool, avoid: bool = False
) -> int:
    """Lock the folio and get past its writeback; 0 or the error of this attempt.

    ``force`` allows sleeping; ``avoid`` (v4) forbids it while others are locked.
    """
    if src.test("locked"):
        if not force or mode == "async" or request.memalloc:
            return EAGAIN
        if avoid:
            return EDEADLK
        src.sleep_on("locked")
    # Writeback is looked at with the lock held, and only SYNC waits for it.
    if src.test("writeback"):
        if mode != "sync":
            return EBUSY
        if not force:
            return EAGAIN
        src.sleep_on("writeback")
    return 0


def unmap(k: Kernel, src: Folio, batch: bool) -> int:
    """From the locks to the unmapped folio: UNMAP, or -EAGAIN with src mapped."""
    # Such a page is not found by rmap; there is nothing to unmap.
    if src.movable_ops:
        return UNMAP
    # Reading: when the state ends, the page is an ordinary one again; a real one
    # would have been freed together with its buffers.
    if src.test("private"):
        return EAGAIN  # no mapping: only an attempt to free its buffers is made
    rmap.try_to_migrate(k, src, batch)
    return EAGAIN if src.mapped() else UNMAP


def unmap_and_move(k: Kernel, request: Request, src: Folio, force: bool) -> int:
    """unmap_and_move() and __unmap_and_move() of 6.2: the whole of one attempt."""
    # The order is Linux's: a freed page costs no allocation, a busy one does.
    if k.freed_under_us(request, src):
        return 0
    dst = k.allocate(request, src)
    if dst is None:
        return ENOMEM
    rc = lock_source(src, request, request.mode, force)
    if rc:
        undo_target(k, dst)
        return rc
    src.locked = True
    # The serial version never puts a flush off.
    rc = unmap(k, src, batch=False)
    k.hook("flush")
    if rc == UNMAP:
        rc = move_to_new_folio(k, dst, src, request.mode)
        if rc == 0:
            finish(k, request, src, dst)
            return 0
    # Everything is undone, so the next pass pays for all of it again.
    undo_source(k, src)
    undo_target(k, dst)
    return rc


def migrate_folio_unmap(
    k: Kernel,
    request: Request,
    src: Folio,
    mode: str,
    force: bool = True,
    avoid: bool = False,
    batch: bool | None = None,
) -> tuple[int, Folio | None]:
    """migrate_folio_unmap() of 6.3: result, and the new folio if unmapped."""
    if k.freed_under_us(request, src):
        return 0, None
    dst = k.allocate(request, src)
    if dst is None:
        return ENOMEM, None
    rc = lock_source(src, request, mode, force, avoid)
    if rc:
        undo_target(k, dst)
        return rc, None
    src.locked = True
    # From 6.3 only the asynchronous stage puts its flushes off.
    rc = unmap(k, src, batch=mode == "async" if batch is None else batch)
    if rc == UNMAP:
        return UNMAP, dst
    undo_source(k, src)
    undo_target(k, dst)
    return rc, None
