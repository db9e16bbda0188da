"""The sentences of `jaxmig explain` about each phase.

Source: mm/migrate.c, mm/rmap.c, arch/x86/mm/tlb.c, Linux 6.2 and 6.3.
"""

from typing import Final

MAX_PAGES: Final = 64  # the most for which the text stays readable
UNMAP, FLUSH, COPY, REMAP = "unmap", "flush", "copy", "remap"
# (function, sentences) of a phase; {pages} and {cpus} are filled in.
SERIAL: Final = {
    UNMAP: (
        "unmap_and_move() -> try_to_migrate()",
        "The entry of {pages} becomes a migration entry: whoever touches the page from "
        "now on waits. CPUs {cpus} may still use what their TLBs hold.",
    ),
    FLUSH: (
        "ptep_clear_flush() -> flush_tlb_mm_range()",
        "CPUs {cpus} are interrupted to drop this one page, and the migrating CPU "
        "waits for all of them. Every page pays for this.",
    ),
    COPY: (
        "move_to_new_folio() -> folio_copy()",
        "Nobody can write to the page any more, so its contents go to a frame on node "
        "1. The new frame is not mapped yet.",
    ),
    REMAP: (
        "remove_migration_ptes()",
        "The entry points to the new frame and who waited goes on; the old frame is "
        "free. Only now the next page is looked at.",
    ),
}
BATCHED: Final = {
    UNMAP: (
        "migrate_folio_unmap() -> try_to_migrate()",
        "All entries of the batch ({pages}) become migration entries, one after the "
        "other, and their flushes are only noted. CPUs {cpus} may still use what their "
        "TLBs hold: nothing has been copied yet.",
    ),
    FLUSH: (
        "try_to_unmap_flush() -> arch_tlbbatch_flush()",
        "One interrupt to each of the CPUs {cpus} for the whole batch. They drop "
        "everything, also pages that nobody moves.",
    ),
    COPY: (
        "migrate_folio_move() -> folio_copy()",
        "The contents go to frames on node 1. Linux copies and maps each folio before "
        "it turns to the next; here these are drawn as two steps.",
    ),
    REMAP: (
        "migrate_folio_move() -> remove_migration_ptes()",
        "The entries point to the new frames and the old ones are free. A page that "
        "was unmapped first has been out of reach for as long as the batch took.",
    ),
}
