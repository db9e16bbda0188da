"""Kernel releases as data: one row of switches a release.

A switch is named after what the kernel does once it is on; adding a release is adding a
row.  Commits are those of Linux's history.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from jaxmig.machine import Cpus

# (CPUs, the CPU that migrates) -> bool[mms]: whose flushes are left to the batch's.
Defers = Callable[[Cpus, Any], Any]


@dataclasses.dataclass(frozen=True)
class Release:
    """What one release of migrate_pages() does."""

    name: str
    batched: bool = True
    # 6.1: PageTransHuge() is true of every compound head, so thp_* count all large
    # folios.
    thp_counts_large: bool = False
    # 2ef7dbb26990: SYNC callers get three asynchronous passes, then one folio at a
    # time.
    async_first: bool = True
    # As posted: the folio that would pass the limit opens the next batch.
    crossing_opens_next: bool = False
    # 4d4b6d66db63: nothing is deferred for a PTE that no TLB can hold.
    checks_pte_accessible: bool = False
    # 851ae6424697: what a longterm pin will try again is not counted as failed before.
    retry_is_no_failure: bool = False
    # 43b3dfdd0455: arm64 defers the wait for its invalidations.
    arm64_defers: bool = False
    # lru_add_drain() after a move only for folios that were mlocked, not for all mapped.
    drains_mlocked: bool = False
    # "mm/migrate: correct nr_failed in migrate_pages_sync": every split counts.
    counts_nr_split: bool = False
    # a split defers its PTEs and flushes once; what the batch had pending goes with it
    split_flushes_batch: bool = False
    # folios queued as partially mapped are split before anything else is tried
    splits_partially_mapped: bool = False
    # try_split_folio() only tries the lock in ASYNC
    split_trylocks: bool = False
    # __split_unmapped_folio(): pieces enter the list ascending
    pieces_ascend: bool = False
    # move_pages() works on folios: hugetlb tails are accepted
    moves_hugetlb_tail: bool = False
    # move_pages() by folio_walk: nothing mapped is -ENOENT
    walks_folios: bool = False
    # follow_page() accepts PROT_NONE pages
    follows_prot_none: bool = False
    # migrate_pages(2) adds folios it could not isolate to its result
    counts_unisolated: bool = False
    # and, of a large folio mapped by PTEs, each of them
    counts_unisolated_ptes: bool = False
    # a driver's page is never taken for freed, whatever its references are
    moves_freed_driver_pages: bool = False
    # 209954cbc7d0: a CPU that stops using an address space stays in its mask
    keeps_mask: bool = False
    # mbind() knows MPOL_WEIGHTED_INTERLEAVE
    weighs_interleave: bool = False
    # x86 sends INVLPGB instead of interrupts where the CPU has it (merged in 6.15)
    invlpgb: bool = False
    # Instead of should_defer_flush(); for rows of one's own.
    defers: Defers | None = None


_V63 = Release("6.3")
_V65 = dataclasses.replace(
    _V63,
    name="6.5",
    checks_pte_accessible=True,
    retry_is_no_failure=True,
    follows_prot_none=True,
)
_V66 = dataclasses.replace(_V65, name="6.6", arm64_defers=True, drains_mlocked=True)
_V67 = dataclasses.replace(
    _V66,
    name="6.7",
    counts_nr_split=True,
    moves_hugetlb_tail=True,
    counts_unisolated=True,
)
_V68 = dataclasses.replace(_V67, name="6.8", split_flushes_batch=True)
_V610 = dataclasses.replace(
    _V68, name="6.10", splits_partially_mapped=True, weighs_interleave=True
)
_V612 = dataclasses.replace(_V610, name="6.12", split_trylocks=True, walks_folios=True)

RELEASES: Final[dict[str, Release]] = {
    r.name: r
    for r in (
        Release("6.1", batched=False, thp_counts_large=True),
        Release("6.2", batched=False),
        Release("v4", async_first=False, crossing_opens_next=True),
        _V63,
        _V65,
        _V66,
        _V67,
        _V68,
        _V610,
        _V612,
        dataclasses.replace(
            _V612,
            name="6.18",
            pieces_ascend=True,
            counts_unisolated_ptes=True,
            moves_freed_driver_pages=True,
            keeps_mask=True,
            invlpgb=True,
        ),
    )
}
BOTH: Final = ("6.2", "6.3")  # the last serial and the first batched release


def release(name: str) -> Release:
    """The row of a release.

    Raises:
      ValueError: if there is none of that name.
    """
    try:
        return RELEASES[name]
    except KeyError:
        known = " ".join(RELEASES)
        raise ValueError(f"kernel {name!r}: not modelled; one of {known}") from None
