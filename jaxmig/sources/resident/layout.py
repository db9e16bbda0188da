"""The folios behind the rows of a snapshot, and mappings by other processes."""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jaxmig.sources.snapshot import PageFlag as F, Snapshot
from jaxmig.state import frame
from jaxmig.state.machine import PMD_PAGES

FRAMELESS: Final = F.ZERO | F.PFNMAP

Rows = Int64[np.ndarray, " rows"]


@dataclasses.dataclass(frozen=True)
class RowPlaces:
    """The folio and the page within it that each row maps."""

    folio: Rows  # -1 where the row has no frame of its own
    page: Int32[np.ndarray, " rows"]
    order: Int32[np.ndarray, " folios"]
    first_row: Int64[np.ndarray, " folios"]  # a row that maps the folio
    by_pmd: Bool[np.ndarray, " rows"]


def lay_out(snapshot: Snapshot) -> RowPlaces:
    """Groups rows into folios."""
    has_frame = ~snapshot.has(FRAMELESS)
    order = np.minimum(snapshot.order.astype(np.int64), 63)
    pfn = snapshot.pfn.astype(np.int64)
    # A folio begins at a multiple of its size, also with made-up frame numbers.  Folios
    # above 2 MiB are files', and are split into pages; hugetlb's are refused before.
    order = np.where(order > frame.PMD_ORDER, 0, order)
    head = pfn >> order << order
    whole = _whole(pfn, head, order, has_frame)
    order = np.where(whole, order, 0)
    head = np.where(whole, head, pfn)
    rows = np.flatnonzero(has_frame)
    _, first, index = np.unique(head[rows], return_index=True, return_inverse=True)
    folio = np.full(len(snapshot), -1, np.int64)
    folio[rows] = index
    page = (pfn - head).astype(np.int32)
    first_row = rows[first]
    by_pmd = _by_pmd(snapshot, folio, page, order)
    return RowPlaces(folio, page, order[first_row].astype(np.int32), first_row, by_pmd)


def _whole(
    pfn: np.ndarray, head: np.ndarray, order: np.ndarray, has_frame: np.ndarray
) -> np.ndarray:
    """Rows of large folios whose pages are all mapped by some row, bool[rows]."""
    large = np.flatnonzero(has_frame & (order > 0))
    whole = np.zeros(len(pfn), bool)
    _, at = np.unique(pfn[large], return_index=True)
    page = large[at]
    heads, first, pages = np.unique(head[page], return_index=True, return_counts=True)
    complete = heads[pages == 1 << order[page[first]]]
    whole[large] = np.isin(head[large], complete)
    return whole


def _by_pmd(
    snapshot: Snapshot, folio: np.ndarray, page: np.ndarray, order: np.ndarray
) -> np.ndarray:
    """Rows in whole, aligned blocks that one PMD leaf maps, bool[rows]."""
    vpn = snapshot.vpn.astype(np.int64)
    huge = (
        snapshot.has(F.HUGE_PMD | F.HUGETLB) & (order == frame.PMD_ORDER) & (folio >= 0)
    )
    huge &= vpn % PMD_PAGES == page
    at = np.flatnonzero(huge)
    if not at.size:
        return huge
    # Rows of a block are neighbours: a block begins where process or number changes.
    key = np.stack(
        [snapshot.process[at].astype(np.int64), snapshot.area[at], vpn[at] // PMD_PAGES]
    )
    begins = np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]
    block = np.cumsum(begins) - 1
    huge[at] = np.bincount(block)[block] == PMD_PAGES
    return huge


def foreign(snapshot: Snapshot, place: RowPlaces) -> tuple[Rows, Rows]:
    """Rows repeated for each mapping by another process: of PTEs, and of PMD leaves."""
    row, more, small, heads = _others(snapshot, place)
    return np.repeat(row[small], more[small]), np.repeat(row[heads], more[heads])


def foreign_count(snapshot: Snapshot, place: RowPlaces) -> int:
    """The number of these mappings, without laying them out."""
    _, more, small, heads = _others(snapshot, place)
    return int(more[small | heads].sum())


def _others(
    snapshot: Snapshot, place: RowPlaces
) -> tuple[Rows, Rows, np.ndarray, np.ndarray]:
    """A row for each frame: mappings by others, whether by PTEs, whether by a leaf."""
    known = np.flatnonzero((place.folio >= 0) & (snapshot.mapcount >= 0))
    _, at, seen = np.unique(snapshot.pfn[known], return_index=True, return_counts=True)
    row = known[at]
    more = np.maximum(snapshot.mapcount[row].astype(np.int64) - seen, 0)
    small = ~place.by_pmd[row]
    # A leaf maps every page, so the head's number of other mappings is the folio's.
    return row, more, small, ~small & (place.page[row] == 0)
