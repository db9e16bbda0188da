"""The two rmap walks: entries out (mm/rmap.c) and back in (mm/migrate.c)."""

from __future__ import annotations

from . import tlb
from .folio import Entry, Folio
from .kernel import Kernel, share_refused


def try_to_migrate(k: Kernel, folio: Folio, batch: bool) -> None:
    """try_to_migrate(): replace every entry of a folio by a migration entry.

    ``batch`` is TTU_BATCH_FLUSH.  The walk ends at the first refusal.
    """
    # An exec'ing task's stack is skipped, for anonymous pages other than KSM's; it is
    # never in huge pages of hugetlbfs.
    other = folio.kind == "ksm" or folio.hugetlb
    if folio.anon and not other and folio.test("temp_stack"):
        return
    # Reading: processes in file order, addresses ascending.
    for entry in folio.maps:
        if entry.state == "present" and not _migrate_one(k, folio, entry, batch):
            return


def _migrate_one(k: Kernel, folio: Folio, entry: Entry, batch: bool) -> bool:
    """try_to_migrate_one(), or set_pmd_migration_entry() for a PMD."""
    clear_flush(k, entry, batch)
    # The entry is gone, so its dirty bit lives on in the folio.
    if entry.dirty:
        folio.dirty = True
    if share_refused(folio, entry):
        entry.state = "present"  # the old entry is written back, hint and all
        return False
    if entry.write:
        entry.kind = "WRITE"
    else:
        entry.kind = "READ_EXCLUSIVE" if entry.exclusive else "READ"
    # Sharing clears AnonExclusive; the kind of entry remembers it.
    entry.exclusive = False
    entry.state = "migration"
    return True


def try_to_unmap(k: Kernel, folio: Folio, batch: bool) -> None:
    """try_to_unmap(): clear every entry of a page-cache folio; nothing replaces them."""
    blind = not folio.anon and k.release.has("unmap_asks_no_access")
    runs: set[tuple[str, int]] = set()
    for entry in folio.maps:
        if entry.state != "present":
            continue
        run = entry.process.name, entry.region.start
        later = batch and tlb.should_defer(k, entry.process)
        # From 7.0 what cannot be put off is flushed once for all PTEs side by side.
        if _has_runs(k, folio, entry) and not later:
            entry.state = "cleared"
            if run not in runs:
                k.hook("unmap")
                tlb.flush_range(k, entry.process, entry.vpn, folio.nr, 1)
            runs.add(run)
        else:
            clear_flush(k, entry, batch, blind)
        if entry.dirty:
            folio.dirty = True


def _has_runs(k: Kernel, folio: Folio, entry: Entry) -> bool:
    """Whether PTEs of a large page-cache folio are cleared together."""
    runs = k.release.has("unmaps_file_runs") and entry.level == "pte"
    return runs and folio.large and not folio.anon


def clear_flush(k: Kernel, entry: Entry, batch: bool, blind: bool = False) -> None:
    """Clear an entry and flush it now or later, as its level demands.

    ``blind``: what is not put off is flushed without a look at its access rights.
    """
    entry.state = "cleared"
    if entry.level == "pmd":
        # pmdp_invalidate() does not ask whether the entry is accessible.
        k.hook("unmap")
        tlb.flush_pmd(k, entry)
    elif batch and entry.level == "pte" and tlb.should_defer(k, entry.process):
        tlb.set_pending(k, entry)
    else:
        k.hook("unmap")
        # No CPU can have cached an entry that allows no access.
        if entry.accessible or blind:  # ptep_clear_flush()
            tlb.flush_page(k, entry)


def remove_migration_ptes(k: Kernel, src: Folio, dst: Folio) -> None:
    """remove_migration_ptes(): point the entries at dst (or back at src)."""
    for entry in src.maps:
        if entry.state != "migration":
            continue
        _remove_one(entry, dst)
    if dst is not src:
        dst.maps, src.maps = src.maps, []


def _remove_one(entry: Entry, dst: Folio) -> None:
    """remove_migration_pte(): which bits survive (section 3.5)."""
    entry.folio = dst
    entry.state = "present"
    # mprotect() may have come in between: the area's present word counts.
    entry.write = entry.kind == "WRITE" and entry.region.writable
    entry.dirty = entry.dirty and dst.dirty
    if entry.kind == "WRITE" and entry.level != "pmd":
        entry.uffd_wp = False
    entry.exclusive = entry.kind != "READ" and dst.anon
    # The new entry is made from the area's protection alone.
    entry.hint = False
    entry.kind = ""
