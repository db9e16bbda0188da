"""Kernel releases as data: one row of switches a release.

A switch is named after what the kernel does once it is on; adding a release is adding a
row.  Commits are those of Linux's history.  6.12 is 6.12.0, 6.18 is 6.18.33 and 6.19 is
6.19.9; a name stands for its first version elsewhere.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jaxmig.state.machine import Cpus

# (CPUs, the CPU that migrates) -> bool[mms]: address spaces whose flushes are deferred.
Defers = Callable[["Cpus", Any], Any]
NR_MAX_BATCHED_MIGRATION: Final = 512  # base pages
MAX_PAGE_ORDER: Final = 10  # of an allocation, and of what compaction is asked for
MODES: Final = ("async", "sync_light", "sync")  # enum migrate_mode


@dataclasses.dataclass(frozen=True)
class Release:
    """What one release of migrate_pages() does."""

    name: str
    source: str = "read"  # or inferred, and from what
    batched: bool = True
    # 6.1: PageTransHuge() is true of every compound head, so thp_* count all large
    # folios.
    thp_counts_large: bool = False
    # 2ef7dbb26990: SYNC callers get three asynchronous passes, then one folio at a time.
    async_first: bool = True
    # As posted: the folio that would exceed the limit begins the next batch.
    crossing_opens_next: bool = False
    # 4d4b6d66db63: nothing is deferred for a PTE that no TLB can hold.
    checks_pte_accessible: bool = False
    # 851ae6424697: a folio that a longterm pin will retry is not yet counted as failed.
    retry_is_no_failure: bool = False
    # 43b3dfdd0455: arm64 defers the wait for its invalidations.
    arm64_defers: bool = False
    # lru_add_drain() after a move only for folios that were mlocked, not for all mapped.
    drains_mlocked: bool = False
    # "mm/migrate: correct nr_failed in migrate_pages_sync": every split counts.
    counts_nr_split: bool = False
    # a split defers flushes of PTEs; its one flush includes what the batch has pending
    split_flushes_batch: bool = False
    # folios on the deferred split queue are split before they are unmapped
    splits_partially_mapped: bool = False
    # 60fbb14396d5: a split's walk ends with the first PMD leaf that it splits, so that a
    # THP of several processes loses one leaf a try
    splits_one_shared_pmd: bool = False
    # 8a8ca142a488: the destination is queued as partially mapped if the source was
    requeues_deferred: bool = False
    # b1f202060afe: pieces of an anonymous folio that hold nothing but zeros are mapped to
    # the shared zero page
    zero_pieces: bool = False
    # a split of a file's folio flushes PROT_NONE PTEs, too, though no TLB can hold them
    unmap_flushes_hints: bool = False
    # and all PTEs of the folio with one flush
    unmaps_file_runs: bool = False
    # try_split_folio() only tries the lock in ASYNC
    split_trylocks: bool = False
    # __split_unmapped_folio(): pieces enter the list ascending
    pieces_ascend: bool = False
    # move_pages() works on folios: hugetlb tails are accepted
    moves_hugetlb_tail: bool = False
    # move_pages() by folio_walk: nothing mapped is -ENOENT
    walks_folios: bool = False
    # move_pages(): follow_page() accepts PROT_NONE pages
    follows_prot_none: bool = False
    # migrate_pages(2) adds folios it could not isolate to its result
    counts_unisolated: bool = False
    # and, of a large folio mapped by PTEs, each of them
    counts_unisolated_ptes: bool = False
    # a driver's page never counts as freed, whatever its references are
    moves_freed_driver_pages: bool = False
    # 209954cbc7d0: a CPU that stops using an address space stays in its mask, until a
    # flush of that address space finds it there
    keeps_mask: bool = False
    # mbind() knows MPOL_WEIGHTED_INTERLEAVE
    weighs_interleave: bool = False
    # 060913999d7a: a page that cannot be read gives -EHWPOISON; before, a panic
    survives_poison: bool = False
    # fallback_migrate_folio(): a dirty page is -EBUSY in every mode; before, SYNC has it
    # written first
    gives_up_dirty: bool = False
    # folio_maybe_mapped_shared(): of a large folio exactly whether two processes map it
    knows_sharers: bool = False
    # RFC v6, "Accelerate page migration with batch copying and hardware offload": an engine
    # copies the folios of a batch that have no extra references; they are moved first
    offloads: bool = False
    # x86 sends INVLPGB instead of interrupts where the CPU has it
    invlpgb: bool = False
    # Instead of should_defer_flush(); for rows of one's own.
    defers: Defers | None = None


def _next(row: Release, name: str, source: str = "read", **switches: Any) -> Release:
    """The row of a later release: as `row`, but for the switches given."""
    return dataclasses.replace(row, name=name, source=source, **switches)


_V62 = Release("6.2", batched=False)
_V63 = Release("6.3")
_V64 = _next(_V63, "6.4", checks_pte_accessible=True)
_V65 = _next(_V64, "6.5", retry_is_no_failure=True, follows_prot_none=True)
_V66 = _next(_V65, "6.6", arm64_defers=True, drains_mlocked=True)
_V67 = _next(
    _V66,
    "6.7",
    counts_nr_split=True,
    moves_hugetlb_tail=True,
    counts_unisolated=True,
)
_V68 = _next(_V67, "6.8", split_flushes_batch=True)
_V610 = _next(_V68, "6.10", splits_partially_mapped=True, weighs_interleave=True)
_V612 = _next(
    _V610,
    "6.12",
    split_trylocks=True,
    walks_folios=True,
    zero_pieces=True,
    survives_poison=True,
)
_V613 = _next(_V612, "6.13")
_V614 = _next(_V613, "6.14", keeps_mask=True)
_V615 = _next(
    _V614,
    "6.15",
    "inferred: 6.14 has none of these, 6.17 has all",
    pieces_ascend=True,
    invlpgb=True,
    unmap_flushes_hints=True,
    gives_up_dirty=True,
    knows_sharers=True,
)
_V616 = _next(
    _V615,
    "6.16",
    "inferred: as 6.17",
    counts_unisolated_ptes=True,
    splits_one_shared_pmd=True,
)
_V617 = _next(_V616, "6.17")
_V6180 = _next(
    _V617,
    "6.18.0",
    "inferred: 6.18.33 without what 6.17 and 6.19 lack",
    moves_freed_driver_pages=True,
)
_V618 = _next(
    _V6180,
    "6.18",
    "read: 6.18.33",
    splits_one_shared_pmd=False,
    requeues_deferred=True,
)
_V619 = _next(_V6180, "6.19", "read: 6.19.9")
_V70 = _next(_V619, "7.0", splits_one_shared_pmd=False, unmaps_file_runs=True)
_V71 = _next(_V70, "7.1", "read: 7.1.3", requeues_deferred=True)
_V72 = _next(_V71, "7.2", "inferred: 7.1 and a tree after 7.3-rc5 agree")
_V73 = _next(_V72, "7.3", _V72.source)

RELEASES: Final[dict[str, Release]] = {
    r.name: r
    for r in (
        *(_next(_V62, "6.1", thp_counts_large=True), _V62),
        Release("v4", "the posting", async_first=False, crossing_opens_next=True),
        *(_V63, _V64, _V65, _V66, _V67, _V68, _V610, _V612, _V613, _V614, _V615),
        *(_V616, _V617, _V6180, _V618, _V619, _V70, _V71, _V72, _V73),
        _next(_V618, "batch-copy", "the posting, v6, on 6.18", offloads=True),
    )
}
BOTH: Final = ("6.2", "6.3")  # the last serial and the first batched release
LATEST: Final = "7.3"
# Of these only what changed in the callers was read: which release is nearest, and what
# the callers have of a later one.
UNREAD: Final = {
    "6.9": "6.8, but compaction takes large folios and CMA flushes by 31, as in 6.10",
    "6.11": "6.10, which has no DAMON; 6.12 has",
}


def release(name: str) -> Release:
    """The row of a release.

    Raises:
      ValueError: if there is none of that name.
    """
    name = LATEST if name == "latest" else name
    if name not in RELEASES:
        raise ValueError(f"kernel {name!r}: {_unknown(name)}")
    return RELEASES[name]


def expand(words: Iterable[str]) -> tuple[str, ...]:
    """Names of the releases that a list names, in order and each once.

    Args:
      words: names, `both`, `latest`, and ranges such as `6.1-7.3`, which are of numbered
        releases only.
    Returns:
      Names of RELEASES.
    Raises:
      ValueError: for a word that names none; says what to write.
    """
    found: list[str] = []
    for word in words:
        first, dash, last = word.partition("-")
        if word == "both":
            found += BOTH
        elif dash and word not in RELEASES:
            found += _between(word, first, last)
        else:
            if word != "latest" and word not in RELEASES:
                raise ValueError(f"{word!r}: {_unknown(word)}")
            found.append(release(word).name)
    return tuple(dict.fromkeys(found))


def _between(word: str, first: str, last: str) -> list[str]:
    """The numbered releases from one to another, both included.

    A point release beside its own (6.18.0) only where it is named.
    """
    numbered = [name for name in RELEASES if name[0].isdigit()]
    last = LATEST if last == "latest" else last
    for name in (first, last):
        if name not in numbered:
            line = f"no range of releases; {name!r} {_unknown(name)}"
            raise ValueError(f"{word!r}: {line}")
    begin, end = numbered.index(first), numbered.index(last)
    if begin > end:
        raise ValueError(f"{word!r}: an empty range; write {last}-{first}")
    found = numbered[begin : end + 1]
    return [n for n in found if n.count(".") == 1 or n in (first, last)]


def _unknown(name: str) -> str:
    if name in UNREAD:
        read = "of it only the callers of migrate_pages() were read"
        return f"not modelled, {read}; the nearest is {UNREAD[name]}"
    return f"not modelled; one of {' '.join(RELEASES)}, a range, both or latest"
