"""A process's memory page by page, in the order of its addresses: what a map shows.

Source: what /proc/PID/pagemap, numa_maps and kpageflags say of a page.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool, Int8, Int16, Int64

from jaxmig.calls.syscalls import Space
from jaxmig.calls.syscalls.space import Heads, View, entries_of
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.machine import PMD_PAGES

# What `stays` counts: why migrate_pages() leaves a page, as far as can be seen before.
WHY: Final = ("can move", "may not move", "pinned or held", "locked or in writeback")
MOVES, CLOSED, HELD, BUSY = range(len(WHY))
_HOLDS: Final = (cond.PINNED, cond.EXTRA_REF)
_WAITS: Final = (cond.LOCKED, cond.WRITEBACK, cond.BUFFERS_LOCKED)


@dataclasses.dataclass(frozen=True, eq=False)
class Footprint:
    """Pages behind which a folio stands; a row is a base page.

    Attributes:
      vpn: virtual page number, ascending.
      order: the page's folio has 2^order base pages.
      alone: no other process maps the folio.
      stays: index of WHY.
    """

    vpn: Int64[np.ndarray, " pages"]
    order: Int8[np.ndarray, " pages"]
    node: Int16[np.ndarray, " pages"]
    hugetlb: Bool[np.ndarray, " pages"]
    file: Bool[np.ndarray, " pages"]
    alone: Bool[np.ndarray, " pages"]
    stays: Int8[np.ndarray, " pages"]

    def __len__(self) -> int:
        return len(self.vpn)


def of(view: View, space: Space) -> Footprint:
    """What the areas of a process map now."""
    vpn, pfn, closed = _mapped(view, space)
    head = view.head(pfn)
    flags = view.flags(head)
    stays = np.where(closed | ~view.isolable(head), CLOSED, MOVES)
    for states, why in ((_WAITS, BUSY), (_HOLDS, HELD)):
        stays = np.where((stays == MOVES) & _in_way(view, head, states), why, stays)
    return Footprint(
        vpn=vpn,
        order=frame.order(flags).astype(np.int8),
        node=view.node(pfn).astype(np.int16),
        hugetlb=frame.kind(flags) == frame.HUGETLB,
        file=frame.in_page_cache(flags),
        alone=~view.shared(head, exactly=True),
        stays=stays.astype(np.int8),
    )


def _mapped(view: View, space: Space) -> tuple[np.ndarray, Heads, np.ndarray]:
    """Page number, frame, and whether its area is closed, of every mapped base page."""
    pages: list[np.ndarray] = [np.zeros(0, np.int64)]
    frames: list[np.ndarray] = [np.zeros(0, np.int32)]
    closed: list[np.ndarray] = [np.zeros(0, bool)]
    for a in space.areas:
        entry, page = entries_of(view, a, 0, a.pages)
        there = view.mapped(entry)
        entry, page = entry[there], page[there]
        size = np.where(entry >= view.geometry.ptes, PMD_PAGES, 1)
        # A leaf stands for its pages, one after the other.
        inside = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        pages.append(a.start + np.repeat(page, size) + inside)
        frames.append(np.repeat(view.pte[entry, pte.PFN], size) + inside)
        closed.append(np.full(inside.size, not a.migratable))
    pfn = np.concatenate(frames).astype(np.int32)
    return np.concatenate(pages), pfn, np.concatenate(closed)


def _in_way(view: View, head: Heads, states: tuple[int, ...]) -> np.ndarray:
    """Folios of which somebody still has one of these states."""
    if view.conditions is None:
        return np.zeros(head.shape, bool)
    fields, marks = cond.unpack(view.conditions[head])
    found = np.any([fields[s] > 0 for s in states], axis=0)
    if cond.PINNED in states:
        found |= (marks & cond.PIN_HELD) != 0
    there: np.ndarray = found
    return there
