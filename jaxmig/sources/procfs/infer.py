"""Page bits that Linux shows as counts per area, or not at all.

smaps counts the pages of an area that are dirty, accessed, mapped by PMDs or resident.
If the count is none or all, the pages are known; otherwise they are chosen here.
"""

import numpy as np

from jaxmig.sources.procfs.columns import (
    I32,
    I64,
    U8,
    U32,
    U64,
    AreaKind,
    Bools,
    PageFlag as F,
    bits,
    pick,
)
from jaxmig.sources.procfs.kpage import DIRTY, REFERENCED
from jaxmig.sources.procfs.maps import Areas, is_pfnmap
from jaxmig.sources.procfs.pagemap import (
    EXCLUSIVE,
    FILE,
    IS_HUGE,
    IS_ZERO,
    SOFT_DIRTY,
    UFFD_WP,
    bit,
)


def has(flags: U32, flag: F) -> Bools:
    """Rows with any of these bits, bool[n]."""
    found: Bools = (flags & bits(flag)) != 0
    return found


def mark(rows: Bools, flag: F) -> U32:
    """The flag where `rows`, else 0."""
    return np.where(rows, bits(flag), np.uint32(0))


def counted_in_rss(flags: U32) -> Bools:
    """Pages that Linux counts in Rss, bool[n].

    vm_normal_page() hides the zero page and raw frames from the counters; a page with
    a struct page in a VM_IO area is counted, and is the one that carries FILE there.
    Hugetlb pages have their own counter.

    Source: smaps_pte_entry() in fs/proc/task_mmu.c.
    """
    raw = has(flags, F.PFNMAP) & ~has(flags, F.FILE)
    return ~(has(flags, F.ZERO | F.HUGETLB) | raw)


def area_flags(areas: Areas) -> U32:
    """Bits that every page of an area has, uint32[areas]."""
    perms = areas.perms
    flags = np.zeros(len(areas), np.uint32)
    for position, flag in ((2, F.WRITABLE), (4, F.EXEC), (8, F.SHARED_AREA)):
        flags |= mark((perms & position) != 0, flag)
    flags |= mark(areas.kind == AreaKind.HUGETLB, F.HUGETLB)
    raw = [is_pfnmap(f, p) for f, p in zip(areas.vm_flags, areas.path, strict=True)]
    flags |= mark(np.array(raw, np.bool_), F.PFNMAP)
    flags |= mark(np.array([p == "[vdso]" for p in areas.path], np.bool_), F.VDSO)
    return flags


def word_flags(word: U64, category: U8) -> U32:
    """Bits of the pagemap words and of the scan."""
    flags = np.zeros(len(word), np.uint32)
    named = (FILE, F.FILE), (SOFT_DIRTY, F.SOFT_DIRTY)
    for position, flag in (*named, (EXCLUSIVE, F.EXCLUSIVE), (UFFD_WP, F.UFFD_WP)):
        flags |= mark(bit(word, position) == 1, flag)
    flags |= mark((category & IS_ZERO) != 0, F.ZERO)
    return flags | mark((category & IS_HUGE) != 0, F.HUGE_PMD)


def zero_pages(flags: U32, area: I32, areas: Areas, scanned: bool) -> U32:
    """Zero pages, inferred from pages missing in Rss, where kpageflags is not readable.

    Args:
      flags: uint32[rows], bits known so far.
      area: int32[rows], row of `areas`.
      scanned: PAGEMAP_SCAN has found the small zero pages; only huge ones are inferred.
    Returns:
      uint32[rows], PageFlag.ZERO or 0.
    """
    known = (areas.rss >= 0) & (areas.kind != AreaKind.HUGETLB)
    resident = np.bincount(area[counted_in_rss(flags)], minlength=len(areas))
    want = np.where(known, np.maximum(resident - areas.rss, 0), 0)
    could = ~has(flags, F.EXCLUSIVE | F.PFNMAP | F.ZERO | F.HUGETLB)
    anon_area = np.isin(areas.kind[area], (AreaKind.ANON, AreaKind.STACK))
    could &= (
        (has(flags, F.HUGE_PMD) & anon_area)
        if scanned
        else (~has(flags, F.FILE) | anon_area)
    )
    return mark(pick(area, want, could) & could, F.ZERO)


def huge_pages(
    vpn: I64, pfn: I64 | None, area: I32, order: np.ndarray, areas: Areas, pmd: int
) -> U32:
    """PMD mappings, chosen by the count of smaps, for kernels without PAGEMAP_SCAN.

    A block qualifies only if all its pages are resident and, where frames are known, its
    frames are contiguous and aligned; whole folios of that order come first.

    Args:
      vpn: int64[rows], page numbers, sorted by area and number.
      pfn: int64[rows], frame numbers; None if they are hidden.
      area: int32[rows], row of `areas`.
      order: of each row's folio.
      pmd: base pages of a PMD mapping.
    Returns:
      uint32[rows], PageFlag.HUGE_PMD or 0.
    """
    flags = np.zeros(len(vpn), np.uint32)
    first = np.flatnonzero(vpn % pmd == 0)
    first = first[first + pmd <= len(vpn)]
    last = first + pmd - 1
    whole = (vpn[last] == vpn[first] + pmd - 1) & (area[last] == area[first])
    if pfn is not None:
        whole &= (pfn[last] == pfn[first] + pmd - 1) & (pfn[first] % pmd == 0)
    first = first[whole]
    want = np.maximum(areas.huge_pmd, 0) // pmd
    chosen = first[pick(area[first], want, order[first])]
    flags[(chosen[:, None] + np.arange(pmd)).ravel()] = bits(F.HUGE_PMD)
    return flags


def dirty_and_young(flags: U32, words: U64, area: I32, areas: Areas) -> tuple[U32, int]:
    """DIRTY and YOUNG bits, as many as smaps counts in each area.

    Pages with PG_dirty come first, then anonymous ones, which a write has created.
    Where smaps is not readable, anonymous pages count as dirty and all pages as accessed.

    Args:
      flags: uint32[rows], bits known so far.
      words: uint64[rows], kpageflags; 0 if unknown.
      area: int32[rows], row of `areas`.
    Returns:
      uint32[rows], the bits, and how many of them were placed by choice.
    """
    counted = counted_in_rss(flags)
    rows = np.flatnonzero(counted)
    of_area = area[rows]
    anon = ~has(flags[rows], F.FILE)
    size = np.bincount(of_area, minlength=len(areas))
    found = np.zeros(len(flags), np.uint32)
    chosen = 0
    sources = (
        (F.DIRTY, areas.dirty, bit(words[rows], DIRTY) * np.uint64(2), anon),
        (F.YOUNG, areas.referenced, bit(words[rows], REFERENCED), ~anon | anon),
    )
    for flag, count, sure, otherwise in sources:
        score = sure.astype(np.int64) + (anon if flag == F.DIRTY else 0)
        marked = pick(of_area, np.maximum(count, 0), score)
        marked = np.where(count[of_area] < 0, otherwise, marked)
        found[rows] |= mark(marked, flag)
        unsure = (count > 0) & (count < size)
        chosen += int(np.minimum(count, size - count)[unsure].sum())
    return found, chosen
