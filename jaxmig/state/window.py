"""A stretch of the caller's list as lanes: one for each folio, one for each base page.

Checks use a folio's lane; entries, rows and contents the lanes of its base pages, which
are consecutive.  Of a large folio that only PMD leaves map, the first page alone has
entries: the others may have no lanes, and move with it as a block.  Where no folio has
more than one lane, both are the same lanes and nothing is gathered.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.state import frame, lanes, xla
from jaxmig.state.frame import FLAGS
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Geometry, Machine
from jaxmig.state.pytree import pytree, static

Index = Int32[Array, ""]


@pytree
class Window:
    """Folios, and their base pages, padded to the same number of lanes."""

    head: Lanes  # head frame of each folio; NOWHERE: none
    row: Int32[Array, "lanes 4"]  # its row
    page: Lanes  # frame of each base page; NOWHERE: none
    page_row: Int32[Array, "lanes 4"]
    folio: Lanes  # lane of the folio that a page belongs to
    first: Lanes  # lane of a folio's first page; behind the last folio, where pages end
    is_head: Mask  # page lanes that hold the first page of a folio
    count: Index  # folios
    skipped: Index  # padding lanes before the first of them
    block: Mask | None  # folios of which only the first page has a lane; None: none
    large: bool = static()  # folios may be large
    by_heads: bool = static()  # no folio has more than one lane, which is its page's

    @property
    def there(self) -> Mask:
        """Folio lanes that hold a folio."""
        return self.head != NOWHERE

    @property
    def flags(self) -> Lanes:
        """Flags of the folios."""
        return self.row[:, FLAGS]

    @property
    def pages(self) -> Lanes:
        """Base pages of each folio, 0 where there is none."""
        if not self.large:
            return self.there.astype(jnp.int32)
        return jnp.where(self.there, jnp.int32(1) << frame.order(self.flags), 0)

    def spread(self, *values: Lanes) -> tuple[Lanes, ...]:
        """Values of folio lanes, on the lanes of their pages.

        In one gather: a row of several numbers takes no longer than one.
        """
        if self.by_heads:
            return values
        rows = lanes.rows(lanes.columns(*values), self.folio)
        return tuple(rows[:, i] for i in range(len(values)))

    def total(self, values: Lanes) -> Lanes:
        """Sum over the pages of each folio."""
        if self.by_heads:
            return values
        upto = jnp.pad(lanes.running(values), (1, 0))
        before = upto.at[self.first].get(mode="promise_in_bounds")
        # One folio's pages end where the next one's begin.
        return jnp.where(self.there, jnp.append(before[1:], upto[-1]) - before, 0)

    def only(self, live: Mask) -> "Window":
        """This window with the folios in `live` alone."""
        head = jnp.where(live, self.head, NOWHERE)
        (count,) = lanes.totals(live & self.there)
        (there,) = self.spread(live.astype(jnp.int32))
        page = jnp.where(there > 0, self.page, NOWHERE)
        return dataclasses.replace(self, head=head, page=page, count=count)


def flat(
    head: Lanes,
    row: Int32[Array, "lanes 4"],
    count: Index | None = None,
    skipped: Index | int = 0,
    large: bool = False,
) -> Window:
    """A window of base pages, and perhaps of folios that only PMD leaves map.

    Args:
      head: int32[lanes], their head frames, one behind the other; NOWHERE elsewhere.
      row: int32[lanes, 4], the rows of these frames.
      count: how many; None: they are counted.
      skipped: padding lanes before the first.
      large: whether there may be others than base pages.
    Returns:
      The window, each folio on the lane of its first page.
    """
    lane = jnp.arange(head.shape[0], dtype=jnp.int32)
    there = head != NOWHERE
    count = lanes.totals(there)[0] if count is None else count
    skipped = jnp.asarray(skipped, jnp.int32)
    same = (head, row, head, row, lane, lane)
    block = there & (frame.order(row[:, FLAGS]) > 0) if large else None
    return Window(*same, there, count, skipped, block, large=large, by_heads=True)


def rows_of(m: Machine, pages: Lanes) -> Int32[Array, "lanes 4"]:
    """Rows of frames; any row for NOWHERE."""
    return xla.read(pages, lambda: lanes.rows(m.frame, pages))


@pytree
class Listed:
    """Folios of a list, one on each lane of a window."""

    head: Lanes
    row: Int32[Array, "lanes 4"]
    place: Index  # of lane 0 on the list
    skipped: Index  # padding lanes before the first folio
    count: Index  # folios, on consecutive lanes

    def blocks(self, geometry: Geometry) -> Mask:
        """Folios of which only the first page needs a lane."""
        huge = frame.order(self.row[:, FLAGS]) == frame.PMD_ORDER
        return (self.head != NOWHERE) & huge & geometry.only_heads(self.row)

    def is_flat(self, geometry: Geometry, blocks: Bool[Array, ""]) -> Bool[Array, ""]:
        """Whether a lane a folio is enough; `blocks`: whether large folios may be."""
        large = (self.head != NOWHERE) & (frame.order(self.row[:, FLAGS]) != 0)
        return ~lanes.some(large & ~(self.blocks(geometry) & blocks))[0]

    def flat(self, large: bool = False) -> Window:
        """The window, if `is_flat`; `large`: whether there may be large folios."""
        return flat(self.head, self.row, self.count, self.skipped, large)


def listed(m: Machine, folios: Lanes, start: Index, end: Index, width: int) -> Listed:
    """Folios of a list from `start` up to `end`, as many as there are lanes.

    Args:
      folios: int32[folios], head frames; at least `width` of them, padding included.
      start, end: int32, places on the list.
      width: lanes.
    Returns:
      The folios with their rows.
    """
    # Slices clamp at the end of the array: the last one begins earlier, with padding lanes.
    first = jnp.minimum(start, folios.shape[0] - width)
    head = xla.once(start, lambda: jax.lax.dynamic_slice_in_dim(folios, first, width))
    index = first + jnp.arange(width, dtype=jnp.int32)
    head = jnp.where((index >= start) & (index < end), head, NOWHERE)
    skipped = start - first
    count = jnp.clip(end - start, 0, width - skipped)
    return Listed(head, rows_of(m, head), first, skipped, count)


def expanded(
    m: Machine,
    found: Listed,
    blocks: Bool[Array, ""] | None = None,
    most: Index | int | None = None,
) -> Window:
    """The folios whose pages fit the lanes, and lanes for these pages.

    Args:
      found: folios of a list.
      blocks: whether large folios may be blocks, with one lane; None: each page has one.
      most: pages that it takes; None: as many as there are lanes.
    Returns:
      The window; its last folios may be left out.
    """
    head, row = found.head, found.row
    width = head.shape[0]
    lane = jnp.arange(width, dtype=jnp.int32)
    there = head != NOWHERE
    pages = jnp.where(there, jnp.int32(1) << frame.order(row[:, FLAGS]), 0)
    block = None
    if blocks is not None:
        block = found.blocks(m.geometry) & blocks
        pages = jnp.where(block, 1, pages)
    upto = lanes.running(pages)
    fits = there & (upto <= (width if most is None else most))
    first = upto - pages
    begins = lanes.scattered(
        jnp.where(fits, first, NOWHERE), jnp.ones_like(lane), jnp.zeros_like(lane)
    )
    used, count = lanes.totals(jnp.where(fits, pages, 0), fits)
    first = jnp.where(fits, first, used)
    # Padding pages point to a padding folio: there is one, in front or behind.
    padding = jnp.where(found.skipped > 0, 0, jnp.minimum(count, width - 1))
    folio = lanes.running(begins) - 1 + found.skipped
    folio = jnp.where(lane < used, folio, padding)
    head = jnp.where(fits, head, NOWHERE)
    begin = jnp.where(fits, head - first, 0)
    page = lane + begin.at[folio].get(mode="promise_in_bounds")
    page = jnp.where(lane < used, page, NOWHERE)
    return Window(
        head,
        row,
        page,
        rows_of(m, page),
        folio,
        first,
        begins > 0,
        count,
        found.skipped,
        block,
        large=True,
        by_heads=False,
    )
