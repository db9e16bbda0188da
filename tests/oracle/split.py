"""Splitting a large folio that could not be allocated for (mm/huge_memory.c)."""

from __future__ import annotations

from . import tlb
from .folio import Entry, Folio
from .kernel import EAGAIN, EBUSY, Kernel
from .rmap import clear_flush


def try_split_folio(k: Kernel, folio: Folio, mode: str) -> int | list[Folio]:
    """try_split_folio(): an error, or the pieces in the order Linux lists them."""
    if folio.test("locked"):
        if mode == "async" and k.release.has("split_trylock"):
            return EAGAIN
        # Up to 6.10 even an asynchronous caller sleeps here.
        folio.sleep_on("locked")
    rc = _refused(folio)
    if rc:
        return rc
    _unmap_folio(k, folio)
    pieces = _pieces(k, folio)
    # The pieces are isolated in its place.
    folio.isolated = False
    if not k.release.has("pieces_ascending"):
        pieces[1:] = pieces[:0:-1]
    # The tails go onto the list first, what is left of the head last.
    return pieces[1:] + pieces[:1]


def _refused(folio: Folio) -> int:
    """split_huge_page_to_list(): what is looked at before and while unmapping."""
    # Neither anonymous nor in a mapping.
    if folio.movable_ops:
        return EBUSY
    if folio.test("writeback") or folio.test("private"):
        return EBUSY
    if folio.test("buffers_locked"):
        return EBUSY
    # can_split_folio() sees references before anything is unmapped.
    held = folio.test("extra_ref")
    held = folio.test("pinned") or held
    if held:
        return EAGAIN
    # The walk skips such a stack, so references of the mappings remain.
    if folio.anon and folio.test("temp_stack"):
        return EAGAIN
    return 0


def _unmap_folio(k: Kernel, folio: Folio) -> None:
    """unmap_folio(): PMDs are flushed at once, PTEs one by one or, later, together."""
    for entry in folio.maps:
        clear_flush(k, entry, batch=k.release.has("split_defers_flush"))
        if entry.dirty:
            folio.dirty = True
    # This sends what the batch had pending as well.
    if k.release.has("split_defers_flush"):
        tlb.flush_pending(k)


def _pieces(k: Kernel, folio: Folio) -> list[Folio]:
    """__split_huge_page() and remap_page(): small folios in address order."""
    pieces = []
    for sub in range(folio.nr):
        piece = Folio(0, folio.kind, folio.node, [folio.contents[sub]])
        piece.anon, piece.isolated = folio.anon, True
        piece.dirty, piece.mlocked = folio.dirty, folio.mlocked
        pieces.append(piece)
    for entry in folio.maps:
        del entry.process.entries[entry.vpn]
    if folio.anon:
        for entry in folio.maps:
            for i in range(entry.nr):
                _map_piece(entry, i, pieces[entry.sub + i])
    else:
        # Pieces of a file are found again by a fault; nothing maps them now.
        k.world.unmapped += pieces
    folio.maps = []
    k.world.wake()
    return pieces


def _map_piece(old: Entry, i: int, piece: Folio) -> None:
    """One PTE in place of a part of the large folio's mapping."""
    new = Entry(old.process, old.region, old.vpn + i, 1, 0, piece, "pte")
    new.write, new.young, new.dirty = old.write, old.young, old.dirty
    new.soft_dirty, new.uffd_wp = old.soft_dirty, old.uffd_wp
    # A NUMA hint is lost: the PTE is made anew.
    new.exclusive = old.exclusive
    new.process.entries[new.vpn] = new
    piece.maps.append(new)
