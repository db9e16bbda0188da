"""The folio at an address, or the error, as in move_pages(2).

Source: follow_page() in mm/gup.c with FOLL_DUMP and, since 6.12, folio_walk_start() in
mm/pagewalk.c; do_pages_stat_array() and add_page_for_migration() in mm/migrate.c.
"""

import dataclasses
import errno
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.calls.syscalls.space import Space, View
from jaxmig.linux.releases import Release
from jaxmig.state import pte
from jaxmig.state.machine import PMD_PAGES

PAGE_SHIFT: Final = 12


@dataclasses.dataclass(frozen=True)
class LookedUp:
    """Addresses looked up, a row for each."""

    error: Int32[np.ndarray, " rows"]  # 0 where a folio was found, else negative
    head: Int32[np.ndarray, " rows"]  # 0 where none was
    node: Int32[np.ndarray, " rows"]
    first: Bool[np.ndarray, " rows"]  # the address is that of the folio's first page
    migratable: Bool[np.ndarray, " rows"]  # the area may migrate
    hugetlb: Bool[np.ndarray, " rows"]


def lookup(
    view: View, space: Space, release: Release, vpn: Int64[np.ndarray, " rows"]
) -> LookedUp:
    """Look up pages by virtual page number.

    Args:
      release: whose walk decides what an empty or PROT_NONE entry gives.
      vpn: int64[rows], any numbers, in any order.
    Returns:
      A row for each page; a page in no area has the error -EFAULT.
    """
    area = space.area_of(vpn)
    inside = area >= 0
    at = np.maximum(area, 0)
    if not space.areas:
        none = np.zeros(vpn.shape, np.int32)
        no = none.astype(bool)
        return LookedUp(none - errno.EFAULT, none, none, no, no, no)
    page = np.where(inside, vpn - space.start[at], 0)
    entry = space.first_pte[at] + page
    leaf = space.first_pmd[at] + page // PMD_PAGES
    under = (space.first_pmd[at] >= 0) & (
        (view.pte[np.maximum(leaf, 0), pte.BITS] & pte.PRESENT) != 0
    )
    bits = view.pte[np.where(under, leaf, entry), pte.BITS]
    anonymous, hugetlb = space.anonymous[at], space.hugetlb[at]
    error = _error(release, bits, anonymous, hugetlb, under)
    error = np.where(inside, error, -errno.EFAULT).astype(np.int32)
    pfn = view.pte[np.where(under, leaf, entry), pte.PFN]
    pfn = np.where(error == 0, pfn + np.where(under, page % PMD_PAGES, 0), 0)
    head = view.head(pfn)
    return LookedUp(
        error,
        head,
        view.node(pfn),
        pfn == head,
        inside & space.migratable[at],
        hugetlb,
    )


def _error(
    release: Release,
    bits: np.ndarray,
    anonymous: np.ndarray,
    hugetlb: np.ndarray,
    under: np.ndarray,
) -> np.ndarray:
    """0 where an entry maps a folio, else a negative errno."""
    # FOLL_DUMP: -EFAULT where a fault could only map the zero page.
    empty = -errno.ENOENT
    nothing = np.where(anonymous & (not release.walks_folios), -errno.EFAULT, empty)
    error = np.where(bits & pte.PRESENT, 0, nothing)
    if not release.follows_prot_none:
        # A PMD that refuses the walk is treated like one that maps nothing.
        hidden = np.where(under, nothing, empty)
        closed = ((bits & pte.PROT_NONE) != 0) & ~hugetlb
        error = np.where((error == 0) & closed, hidden, error)
    return np.where(bits & pte.ZERO_PAGE, -errno.EFAULT, error)
