"""A frame's row, four int32 words: what struct page and struct folio keep.

    REFCOUNT  references to the folio, in its head's row: one a mapping (a PMD mapping
              is one), one a base page for the page or swap cache, one for private
              data, and extra ones; without the isolation's
    MAPCOUNT  PTEs that map this frame; in a head's row also PMDs that map the folio
    FLAGS     the bits below; order and kind are set in a folio's head and its tails
    RMAP      first entry that maps this frame (in a head's row it may be a PMD of the
              folio); the others follow by Machine.rmap_next

Source: include/linux/mm_types.h, include/linux/page-flags.h, Linux 6.3.
"""

from typing import Any, Final

REFCOUNT: Final = 0
MAPCOUNT: Final = 1
FLAGS: Final = 2
RMAP: Final = 3
COLUMNS: Final = 4

ORDER: Final = 0xF  # bits 0-3
KIND_SHIFT: Final = 4
KIND: Final = 0xF << KIND_SHIFT
FREE, ANON, SHMEM, FILE, KSM, SWAPCACHE, MOVABLE_OPS, HUGETLB = (
    k << KIND_SHIFT for k in range(8)
)
TAIL: Final = 1 << 8
LRU: Final = 1 << 9  # on a list from which it can be isolated
DIRTY: Final = 1 << 10
MLOCKED: Final = 1 << 11
PRIVATE: Final = 1 << 12  # buffers: one more reference
LOCKED: Final = 1 << 13  # by the migration, between unmap and remap
UNMAPPED: Final = 1 << 14  # migration entries stand for its mappings
SPLIT_QUEUED: Final = 1 << 15  # partially mapped, to be split
EXCLUSIVE_MAP: Final = 1 << 16  # anonymous or hugetlb, of one process
FLUSHED: Final = 1 << 17  # its entry was flushed and restored during this call
CONDITIONED: Final = 1 << 18  # its row of Machine.conditions may not be zero
ZERO: Final = 1 << 19  # of each page: it holds nothing but zeros
POISONED: Final = 1 << 20  # of each page: it cannot be read
HURT: Final = 1 << 21  # of a folio's head: some page of it cannot
COPIED: Final = 1 << 22  # by an engine, until the folio's references are looked at
TAILS_MAPPED: Final = 1 << 23  # of a head that a PMD maps: PTEs map pages behind it
PMD_ORDER: Final = 9

Flags = Any  # int32[lanes], of JAX or of numpy
Mask = Any  # bool[lanes]


def kind(flags: Flags) -> Flags:
    """One of FREE ... HUGETLB."""
    return flags & KIND


def order(flags: Flags) -> Flags:
    """The folio has 2^order base pages."""
    return flags & ORDER


def is_anon(flags: Flags) -> Mask:
    """folio_test_anon(): also in the swap cache; KSM pages count as anonymous."""
    k = kind(flags)
    return (k == ANON) | (k == SWAPCACHE) | (k == KSM)


def in_page_cache(flags: Flags) -> Mask:
    """Whether the folio belongs to a file, one of shmem included."""
    k = kind(flags)
    return (k == SHMEM) | (k == FILE)


def on_stack(flags: Flags) -> Mask:
    """Whether its VMA can be the temporary stack of exec(), which migration skips."""
    k = kind(flags)
    return (k == ANON) | (k == SWAPCACHE)


def is_anon_host(flags: int) -> bool:
    """is_anon() of one Python integer."""
    return flags & KIND in (ANON, SWAPCACHE, KSM)


def has(flags: Flags, bit: int) -> Mask:
    """Whether any bit of `bit` is set."""
    return (flags & bit) != 0


def is_empty(flags: Flags) -> Mask:
    """Whether a page holds only zeros and can be read."""
    return (flags & (ZERO | POISONED)) == ZERO


def cache_refs(flags: Flags) -> Flags:
    """References of a folio beside its mappings and extra ones (folio_expected_refs()).

    A page or swap cache holds one a base page and buffers hold one; a hugetlb folio
    counts its page cache as one.
    """
    k = kind(flags)
    cached = (k == SHMEM) | (k == FILE) | (k == SWAPCACHE)
    pages = (1 << order(flags)) * cached
    return pages + (k == HUGETLB) * 1 + (has(flags, PRIVATE) & cached) * 1
