"""The kernel's functions grouped by the cost that they belong to: Linux 6.1 to 6.18.

A group has beginnings of names, and a function belongs to the first group that fits;
suffixes of the compiler (`.isra.0`, `.cold`) are ignored.  The two walks of the reverse
map share functions, whose time is divided like that of the walks' own functions.  Common
helpers (locks, lists, statistics) are in the group that has most of their callers in a
report with children of Linux 6.18.
"""

import re
from collections.abc import Mapping
from typing import Final

# Functions that wait for other CPUs, and none that a CPU runs alone.
SHOOTDOWN: Final = (
    *("smp_call_function", "on_each_cpu", "arch_tlbbatch_flush", "try_to_unmap_flush"),
    *("native_flush_tlb_multi", "flush_tlb_multi", "kvm_flush_tlb_multi"),
    *("llist_add_batch", "native_send_call_func", "x2apic_send_IPI", "csd_lock_wait"),
    *("kvm_send_ipi", "__x2apic_send_IPI", "default_send_IPI", "generic_exec_single"),
    *("native_write_msr", "call_function_", "broadcast_tlb_flush"),
)
LOCAL: Final = (
    *("ptep_clear_flush", "pmdp_huge_clear_flush", "flush_tlb", "native_flush_tlb"),
    *("__flush_tlb", "invalidate_user_asid", "__native_tlb_flush_global"),
)
DEFER: Final = (
    *("set_tlb_ubc_flush_pending", "arch_tlbbatch_add", "should_defer_flush"),
    "__bitmap_or",  # the mask of the batch
)
COPY: Final = (
    *("copy_page", "copy_highpage", "folio_copy", "copy_mc", "__pi_copy_page"),
    *("folio_mc_copy", "folios_mc_copy", "copy_user_highpage"),
)
# Of one walk alone.
UNMAP: Final = (
    *("try_to_migrate", "folio_remove_rmap", "page_remove_rmap", "folio_not_mapped"),
    *("invalid_migration_vma", "folio_try_share_anon_rmap", "page_try_share_anon_rmap"),
)
REMAP: Final = (
    *("remove_migration_pte", "folio_add_anon_rmap", "page_add_anon_rmap"),
    *(
        "folio_add_file_rmap",
        "page_add_file_rmap",
        "folio_mark_dirty",
        "native_set_pte",
    ),
    *("pte_mkwrite", "mlock_drain", "maybe_mkwrite", "noop_dirty_folio"),
)
# Of both walks: for each mapping, and once for a folio.
WALK_MAPPING: Final = (
    *("page_vma_mapped_walk", "check_pte", "__pte_offset_map", "___pte_offset_map"),
    *("pte_offset_map", "anon_vma_interval_tree", "__anon_vma_interval_tree"),
    *("vma_interval_tree", "__lruvec_stat_mod_folio", "mod_memcg_lruvec_state"),
    *("__mod_memcg_lruvec_state", "__mod_lruvec", "lruvec_stat_mod"),
)
WALK_FOLIO: Final = (
    *(
        "rmap_walk",
        "__rmap_walk",
        "folio_lock_anon_vma_read",
        "folio_anon_vma",
        "folio_get_anon_vma",
    ),
    *("page_get_anon_vma", "down_read", "up_read", "__rcu_read", "folio_mapping"),
)
SWITCH: Final = (
    *("folio_migrate", "__folio_migrate_mapping", "migrate_folio_extra"),
    *("__buffer_migrate_folio", "mem_cgroup_migrate", "__migrate_folio"),
    *("migrate_folio", "move_to_new_folio", "folio_xchg_last_cpupid"),
    *("filemap_migrate_folio", "migrate_huge_page_move_mapping", "__css_rstat_updated"),
)
ALLOC: Final = (
    *("alloc_migration_target", "__alloc_pages", "__folio_alloc", "folio_alloc"),
    *("alloc_demote", "alloc_misplaced_dst", "alloc_new_node_page", "alloc_migrate"),
    *("__alloc_frozen_pages", "alloc_frozen_pages", "get_page_from_freelist"),
    *("rmqueue", "__rmqueue", "__next_zones_zonelist", "compaction_alloc"),
    *("isolate_freepages", "prep_new_page", "post_alloc_hook", "__zone_watermark"),
    *("__pageblock_pfn_to_page", "pfn_to_online_page", "prep_compound_page"),
    *("free_unref", "free_pcppages", "__free_frozen_pages", "free_frozen_page"),
    *("__get_pfnblock_flags_mask", "get_pfnblock", "free_one_page", "__free_one_page"),
    *(
        "__list_del_entry_valid",
        "__list_add_valid",
        "_raw_spin_trylock",
        "__free_pages",
    ),
)
BOOKKEEPING: Final = (
    *("migrate_pages", "migrate_folio_done", "migrate_folio_unmap", "unmap_and_move"),
    *("__unmap_and_move", "folio_batch", "__folio_batch", "folio_add_lru", "lru_add"),
    *("folio_isolate_lru", "isolate_lru", "folio_putback", "putback", "folio_unlock"),
    *("folio_lock", "__folio_put", "folios_put_refs", "__mem_cgroup_uncharge"),
    *("uncharge_", "lru_gen", "_raw_spin", "__raw_callee_save___pv", "__cond_resched"),
    *("_find_next_bit", "mod_node_page_state", "__mod_node_page_state", "srso_"),
    *("__x86_indirect", "queue_folios", "queue_pages", "migrate_to_node", "pagemap_"),
    *("folio_lruvec_lock", "wake_up_bit", "unlock_buffer", "drop_buffers"),
    *("__folio_split", "__schedule", "finish_task_switch"),
    *("do_migrate_pages", "mod_zone", "__mod_zone", "native_queued_spin", "pv_queued"),
)
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    # migrate_folio_done() and _unmap() are no part of the switch.
    "bookkeeping": BOOKKEEPING[:4],
    "shootdown": SHOOTDOWN,
    "local": LOCAL,
    "defer": DEFER,
    "copy": COPY,
    "remap": REMAP,
    "walk": UNMAP,
    "walk_mapping": WALK_MAPPING,
    "walk_folio": WALK_FOLIO,
    "switch": SWITCH,
    "alloc": ALLOC,
    "rest": BOOKKEEPING[4:],
}
# By what a caller is known, and base pages that a call of it has at most, on the average.
# Compaction makes two lists of a pageblock, demotion of 32 pages, NUMA balancing of one.
CALLS: Final = {
    "compaction_alloc": 256,
    "__alloc_contig_migrate_range": 32,
    "alloc_demote": 32,
    "alloc_misplaced_dst": 1,
}
# What shows that not only base pages of anonymous memory moved.
OTHERS: Final = {
    "folios of files or shmem": (
        *("rmap_walk_file", "__rmap_walk_file", "__buffer_migrate_folio"),
        *("filemap_migrate_folio", "folio_add_file_rmap", "buffer_migrate_folio"),
    ),
    "THPs": ("set_pmd_migration_entry", "remove_migration_pmd"),
}
_SUFFIX: Final = re.compile(r"\.(?:isra|constprop|part|cold|llvm)\b.*$")


def plain(name: str) -> str:
    """A function's name without the compiler's suffixes."""
    return _SUFFIX.sub("", name)


def group_of(name: str) -> str | None:
    """The group of a function; None if its name is not known."""
    for group, beginnings in GROUPS.items():
        if plain(name).startswith(beginnings):
            return "bookkeeping" if group == "rest" else group
    return None


def calls_of(own: Mapping[str, float]) -> tuple[str, int | None]:
    """The caller that functions show, and its longest call; None: one call of all."""
    for caller, longest in CALLS.items():
        if any(plain(name).startswith(caller) for name in own):
            return caller, longest
    return "", None


def kinds_of(own: Mapping[str, float]) -> list[str]:
    """What moved beside base pages of anonymous memory."""
    names = [plain(name) for name, share in own.items() if share]
    return [k for k, some in OTHERS.items() if any(n.startswith(some) for n in names)]


def grouped(percent: Mapping[str, float]) -> dict[str, float]:
    """Percent by group; functions of no group are under "unknown"."""
    found: dict[str, float] = {}
    for name, share in percent.items():
        group = group_of(name) or "unknown"
        found[group] = found.get(group, 0.0) + share
    return found
