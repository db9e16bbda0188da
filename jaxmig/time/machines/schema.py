"""The keys of a profile, with units, meanings and the architectures that need them.

Times are nanoseconds of the migrating CPU unless the section is `target` (a CPU that
was interrupted) or `access` (a CPU that runs the program).
"""

from typing import Final, NamedTuple


class Key(NamedTuple):
    """One number that a profile must have."""

    unit: str
    meaning: str
    archs: tuple[str, ...] = ("x86", "x86-invlpgb", "arm64")


ARCHS: Final = ("x86", "x86-invlpgb", "arm64")
ENGINES: Final = ("threads", "dma")
_X86: Final = ("x86", "x86-invlpgb")
_INVLPGB: Final = ("x86-invlpgb",)
_ARM: Final = ("arm64",)

# Counts, not costs: whole numbers, at least 1.
SHAPE: Final = {
    "machine.cpus": Key("CPUs", "CPUs of the machine"),
    "machine.nodes": Key("nodes", "memory nodes"),
    "machine.running": Key("CPUs", "CPUs that run the target by default"),
    "machine.cache": Key("pages", "4 KiB pages that the largest cache holds"),
    "tlb.sets": Key("sets", "4 KiB TLB of a CPU"),
    "tlb.ways": Key("ways", "4 KiB TLB of a CPU"),
    "tlb.huge_sets": Key("sets", "2 MiB TLB of a CPU"),
    "tlb.huge_ways": Key("ways", "2 MiB TLB of a CPU"),
}
# Percentages.
SHARES: Final = {
    "machine.hot": Key("%", "pages copied that the migrating CPU's cache holds"),
}
COSTS: Final = {
    "cost.call": Key("ns", "a migrate_pages() call itself, whatever its list"),
    "cost.alloc": Key("ns", "one destination folio: allocator and free list"),
    "cost.alloc_page": Key("ns", "each base page of it, on top"),
    "cost.bookkeeping": Key("ns", "an attempt's lock, isolation, LRU add, statistics"),
    "cost.walk": Key("ns", "reverse-map walk, entry to migration entry: first mapping"),
    "cost.walk_next": Key("ns", "the same for each further mapping of the folio"),
    "cost.remap": Key("ns", "migration entry to mapping again: first mapping"),
    "cost.remap_next": Key("ns", "the same for each further mapping of the folio"),
    "cost.cached": Key(
        "ns", "more for a folio of shmem or of a file: xarray, statistics"
    ),
    "cost.switch": Key("ns", "mapping switch, flags and memcg of a folio moved"),
    "cost.move_check": Key(
        "ns", "of cost.switch, the reference check; a retry's price"
    ),
    "cost.lru_drain": Key("ns", "one lru_add_drain()"),
    "cost.copy_4k": Key("ns", "copying 4 KiB to another node, in a run of pages"),
    "cost.copy_first": Key(
        "ns", "more for a call's first 4 KiB copied: nothing fetches ahead of it"
    ),
    "cost.copy_hot": Key(
        "ns",
        "copying 4 KiB that the migrating CPU's cache holds, of folios of any size",
    ),
    "cost.copy_beyond": Key(
        "ns", "more for each 4 KiB copied in one call beyond what the cache holds"
    ),
    "cost.copy_2m": Key("ns", "copying 2 MiB to another node"),
    "cost.batch_gain": Key("ns", "gain of batching beyond flushes, a folio moved"),
    "cost.local_page": Key("ns", "one-page flush on the migrating CPU", _X86),
    "cost.local_full": Key("ns", "full flush on the migrating CPU, with refill", _X86),
    "cost.flush_first": Key("ns", "shootdown of one other CPU, waited for", _X86),
    "cost.flush_next": Key("ns", "each further CPU in the same shootdown", _X86),
    "cost.flush_lazy": Key("ns", "shootdown with only lazy CPUs in the mask", _X86),
    "cost.defer": Key("ns", "leaving one entry to the batch's flush", _X86),
    "cost.broadcast": Key("ns", "INVLPGB of a page or range, TLBSYNC", _INVLPGB),
    "cost.broadcast_all": Key("ns", "INVLPGB of all non-global, TLBSYNC", _INVLPGB),
    "cost.tlbi": Key("ns", "issuing one TLBI", _ARM),
    "cost.dsb": Key("ns", "waiting for the TLBIs issued (dsb ish)", _ARM),
    "target.page": Key("ns", "shootdown handler on its target, one page", _X86),
    "target.full": Key("ns", "the same, full flush", _X86),
    "access.tlb_hit": Key("ns", "translation found in the TLB"),
    "access.walk": Key("ns", "page-table walk after a TLB miss"),
    "access.memory_local": Key("ns", "load from the CPU's own node"),
    "access.memory_remote": Key("ns", "load from another node"),
    "access.fault": Key("ns", "entering and leaving a page fault"),
    "access.wake": Key("ns", "from unlock of the folio to the waiter running"),
}
_ALL: Final = SHAPE | SHARES | COSTS
SECTIONS: Final = ("machine", "tlb", "cost", "target", "access")  # as files have them
SCHEMA: Final = {k: _ALL[k] for s in SECTIONS for k in _ALL if k.startswith(s)}
# Keys that older files lack, with the key whose value they then have.  None: they add no
# cost.
LATER: Final = {
    "machine.cache": None,
    "machine.hot": None,
    "cost.call": None,
    "cost.cached": None,
    "cost.copy_beyond": None,
    "cost.copy_first": None,
    "cost.copy_hot": "cost.copy_4k",
    "cost.walk_next": "cost.walk",
    "cost.remap_next": "cost.remap",
}


def required(arch: str) -> frozenset[str]:
    """The keys that a profile of `arch` must have, no more and no less."""
    return frozenset(key for key, spec in SCHEMA.items() if arch in spec.archs)
