"""Moving one unmapped folio: move_to_new_folio() and what it calls."""

from __future__ import annotations

from .folio import Folio, State
from .kernel import EAGAIN, EBUSY, EHWPOISON, EIO, Kernel, Request
from .rmap import remove_migration_ptes


def move_to_new_folio(k: Kernel, dst: Folio, src: Folio, mode: str) -> int:
    """move_to_new_folio() in mm/migrate.c: 0, -EAGAIN or a lasting error."""
    rc = _try_to_move(k, dst, src, mode)
    # A retry finds no mark any more: the engine has copied for nothing.
    if rc and dst.copied:
        dst.copied = False
        k.copies_wasted += 1
    return rc


def _try_to_move(k: Kernel, dst: Folio, src: Folio, mode: str) -> int:
    """The branches of move_to_new_folio()."""
    if src.movable_ops:
        return _move_by_driver(k, dst, src)
    # A refused exclusive mapping was tested during the walk; every other kind of
    # pin is one reference too many here.
    exclusive = src.anon and any(e.kind != "READ" for e in src.maps)
    if not src.migrate_folio:
        rc = _fallback(k, src, mode)
        if rc:
            return rc
    # The mappings are gone, so any reference too many is somebody else's.
    held = src.test("extra_ref")
    if not exclusive:
        held = src.test("pinned") or held
    if held:
        return EAGAIN
    # Reading: a state of locked buffers gives any kind of folio buffers.
    if not src.hugetlb and src.test("buffers_locked"):
        if mode == "async":
            return EAGAIN
        src.sleep_on("buffers_locked")
    # From 6.12 the copy comes before the mapping switch, and may fail.
    if src.poison:
        return EHWPOISON
    _copy(k, dst, src)
    return 0


def _fallback(k: Kernel, src: Folio, mode: str) -> int:
    """fallback_migrate_folio(): 0 for a clean folio, which migrate_folio() moves."""
    if src.dirty:
        if mode != "sync" or k.release.has("gives_up_dirty"):
            return EBUSY
        # writeout() maps the page again first.  Reading: the writeback that it
        # begins lasts until somebody waits for it.
        src.dirty = False
        src.states["writeback"] = State(["waited"])
        remove_migration_ptes(k, src, src)
        return EAGAIN
    # Another pass, behind a writeout: the mappings have their references again.
    return EAGAIN if src.mapped() else 0


def _move_by_driver(k: Kernel, dst: Folio, src: Folio) -> int:
    """The movable_ops branch: the driver may be done, busy or broken."""
    # Released after its isolation: a success without a move.
    if src.test("released"):
        k.world.unmap_for_good(src)
        dst.contents = []  # unused: finish() gives it back
        return 0
    if src.test("driver_eagain"):
        return EAGAIN
    if src.test("driver_error"):
        return EIO
    _copy(k, dst, src)
    return 0


def _copy(k: Kernel, dst: Folio, src: Folio) -> None:
    """folio_copy() and folio_migrate_flags()."""
    dst.contents = list(src.contents)
    dst.dirty, dst.mlocked, dst.buffers = src.dirty, src.mlocked, src.buffers
    dst.hugetlb_refs, dst.migrate_folio = src.hugetlb_refs, src.migrate_folio
    # Reading: what the outside world does to a page goes on with the new folio.
    dst.states = src.states
    # The deferred-split queue loses a folio that migrated whole, unless it is told.
    queued = src.large and src.nr > 2 and src.kind in ("anon", "cow", "swapcache")
    split = k.release.has("split_partially_mapped")
    if queued and split and not k.release.has("requeues_partially_mapped"):
        dst.states.pop("partially_mapped", None)
    dst.copied = False
    k.hook("copy")


def finish(k: Kernel, request: Request, src: Folio, dst: Folio) -> None:
    """A folio has moved: map the new one, let go of the old one, wake waiters."""
    if not dst.contents:
        k.world.release(dst)
    elif src.movable_ops:
        # No rmap: the driver's own tables point at the page, and it flushes them.
        k.world.forget(src)
        for entry in src.maps:
            entry.folio = dst
        dst.maps, src.maps = src.maps, []
    else:
        remove_migration_ptes(k, src, dst)
    # A piece of a file that nothing maps: the page cache is all that changes.
    if src in k.world.unmapped:
        k.world.unmapped[k.world.unmapped.index(src)] = dst
    src.locked = dst.locked = False
    src.isolated = False
    k.free_source(request, src)
    k.world.wake()
    k.hook("remap")


def undo_source(k: Kernel, src: Folio) -> None:
    """migrate_folio_undo_src(): the old folio is mapped and unlocked again."""
    remove_migration_ptes(k, src, src)
    src.locked = False
    k.world.wake()
    k.hook("remap")


def undo_target(k: Kernel, dst: Folio) -> None:
    """migrate_folio_undo_dst(): the unused new folio is freed."""
    dst.locked = False
    k.world.release(dst)
