"""Splitting a large folio that could not be allocated for (mm/huge_memory.c)."""

from __future__ import annotations

from dataclasses import replace

from . import tlb
from .folio import Entry, Folio
from .kernel import EAGAIN, EBUSY, Kernel
from .rmap import clear_flush, try_to_unmap


def try_split_folio(k: Kernel, folio: Folio, mode: str) -> int | list[Folio]:
    """try_split_folio(): an error, or the pieces in the order Linux lists them."""
    if folio.test("locked"):
        if mode == "async" and k.release.has("split_trylock"):
            return EAGAIN
        # Up to 6.10 even an asynchronous caller sleeps here.
        folio.sleep_on("locked")
    pieces = split_huge_page(k, folio)
    if isinstance(pieces, int):
        return pieces
    # The tails go onto the list first, what is left of the head last.
    tails = pieces[1:] if k.release.has("pieces_ascending") else pieces[:0:-1]
    return tails + pieces[:1]


def split_huge_page(
    k: Kernel, folio: Folio, *, taken: bool = False
) -> int | list[Folio]:
    """split_huge_page() with the lock held: an error, or the pieces by address.

    ``taken``: somebody else has isolated the folio, and so holds a reference.
    """
    rc = _refused(folio, taken)
    if rc:
        return rc
    if not _unmap_folio(k, folio):
        return EAGAIN
    pieces = _pieces(k, folio)
    # The pieces are isolated in its place.
    folio.isolated = False
    return pieces


def _refused(folio: Folio, taken: bool) -> int:
    """split_huge_page_to_list(): what is looked at before and while unmapping."""
    # Neither anonymous nor in a mapping.
    if folio.movable_ops:
        return EBUSY
    if folio.test("writeback"):
        return EBUSY
    # folio_get_anon_vma() finds none once the isolation alone holds the folio.  Reading:
    # that look is no attempt; before its isolation the folio is still mapped.
    if folio.isolated and folio.has("freed"):
        return EBUSY
    if folio.test("private"):
        return EBUSY
    if folio.test("buffers_locked"):
        return EBUSY
    # can_split_folio() sees references before anything is unmapped.  Reading: that
    # look is not an attempt.
    if taken or folio.held("extra_ref") or folio.held("pinned"):
        return EAGAIN
    # The walk skips such a stack, so references of the mappings remain.
    if folio.anon and folio.test("temp_stack"):
        return EAGAIN
    return 0


def _unmap_folio(k: Kernel, folio: Folio) -> bool:
    """unmap_folio(): PMDs are flushed at once, PTEs one by one or, later, together.

    False: some mapping was not reached, and its reference stops the split.
    """
    defers = k.release.has("split_defers_flush")
    if folio.anon:
        _to_migration_entries(k, folio, defers)
    else:
        try_to_unmap(k, folio, defers)
    # This sends what the batch had pending as well.
    if defers:
        tlb.flush_pending(k)
    if not folio.mapped():
        return True
    for entry in folio.maps:
        if entry.state == "cleared":
            entry.state, entry.hint = "present", False
    k.world.wake()
    return False


def _to_migration_entries(k: Kernel, folio: Folio, defers: bool) -> None:
    """try_to_migrate() under TTU_SPLIT_HUGE_PMD."""
    for entry in list(folio.maps):
        clear_flush(k, entry, batch=defers)
        if entry.dirty:
            folio.dirty = True
        # 6.16 to 6.19 end the walk behind the first PMD, which stays PTEs.
        if entry.level == "pmd" and k.release.has("splits_one_shared_pmd"):
            _split_pmd(folio, entry)
            return


def _split_pmd(folio: Folio, entry: Entry) -> None:
    """__split_huge_pmd_locked(): one PTE for each page in place of the PMD."""
    ptes = [replace(entry, vpn=entry.vpn + i, nr=1, sub=i) for i in range(entry.nr)]
    at = folio.maps.index(entry)
    folio.maps[at : at + 1] = ptes
    for pte in ptes:
        pte.level = "pte"
        pte.process.entries[pte.vpn] = pte


def _pieces(k: Kernel, folio: Folio) -> list[Folio]:
    """__split_huge_page() and remap_page(): small folios in address order."""
    pieces = []
    for sub in range(folio.nr):
        piece = Folio(0, folio.kind, folio.node, [folio.contents[sub]])
        piece.anon, piece.isolated = folio.anon, folio.isolated
        piece.index = folio.index + sub
        piece.dirty, piece.mlocked = folio.dirty, folio.mlocked
        piece.poison = {0} if sub in folio.poison else set()
        pieces.append(piece)
    for entry in folio.maps:
        del entry.process.entries[entry.vpn]
    if folio.anon:
        for entry in folio.maps:
            for i in range(entry.nr):
                _map_piece(k, entry, i, pieces[entry.sub + i])
        # A piece that nothing maps any more may still be in the swap cache.
        k.world.unmapped += [p for p in pieces if p.cache_refs() and not p.maps]
    else:
        # Pieces of a file are found again by a fault; nothing maps them now.
        k.world.unmapped += pieces
    folio.maps = []
    k.world.wake()
    return pieces


def _map_piece(k: Kernel, old: Entry, i: int, piece: Folio) -> None:
    """One PTE in place of a part of the large folio's mapping."""
    if _unused(k, old, piece):
        zero = Entry(old.process, old.region, old.vpn + i, 1, 0, None, "pte")
        zero.state = "zero"
        old.process.entries[zero.vpn] = zero
        return
    new = Entry(old.process, old.region, old.vpn + i, 1, 0, piece, "pte")
    new.write, new.young, new.dirty = old.write, old.young, old.dirty
    new.soft_dirty, new.uffd_wp = old.soft_dirty, old.uffd_wp
    # A NUMA hint is lost: the PTE is made anew.
    new.exclusive = old.exclusive
    new.process.entries[new.vpn] = new
    piece.maps.append(new)


def _unused(k: Kernel, old: Entry, piece: Folio) -> bool:
    """try_to_map_unused_to_zeropage(): contents that are all zero need no page."""
    if not k.release.has("zero_pieces") or piece.contents != [0] or piece.poison:
        return False
    return not (piece.mlocked or old.region.mlocked)
