"""A stretch of the caller's list as lanes: one for each folio, one for each base page.

A folio is decided on its lane; entries, rows and contents are worked on the lanes of its
base pages.  The lanes of a folio lie one behind the other; where all folios of a stretch
are base pages, both are the same lanes and nothing is looked up.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, xla
from jaxmig.frame import FLAGS
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.pytree import pytree, static

Index = Int32[Array, ""]


@pytree
class Window:
    """Folios, and their base pages, padded to the same number of lanes."""

    head: Lanes  # head frame of each folio; NOWHERE: none
    row: Int32[Array, "lanes 4"]  # its row
    page: Lanes  # frame of each base page; NOWHERE: none
    page_row: Int32[Array, "lanes 4"]
    folio: Lanes  # lane of the folio that a page belongs to
    first: Lanes  # lane of a folio's first page
    flat: Bool[Array, ""]  # all folios are base pages
    large: bool = static()  # whether they could be something else

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

    @property
    def is_head(self) -> Mask:
        """Page lanes that hold the first page of a folio."""
        if not self.large:
            return self.there
        lane = jnp.arange(self.page.shape[0], dtype=jnp.int32)
        return (self.page != NOWHERE) & (lane == self.spread(self.first))

    def spread(self, values: Any) -> Any:
        """What each folio has, for each of its pages."""
        if not self.large:
            return values
        return jax.lax.cond(
            self.flat,
            lambda: values,
            lambda: values.at[self.folio].get(mode="promise_in_bounds"),
        )

    def total(self, values: Lanes) -> Lanes:
        """Sum over the pages of each folio."""
        if not self.large:
            return values

        def sums() -> Lanes:
            upto = lanes.running(values)
            last = jnp.maximum(self.first + self.pages - 1, 0)
            before = upto[self.first] - values[self.first]
            return jnp.where(self.there, upto[last] - before, 0)

        return jax.lax.cond(self.flat, lambda: values, sums)

    def only(self, live: Mask) -> "Window":
        """This window with the folios in `live` alone."""
        head = jnp.where(live, self.head, NOWHERE)
        page = jnp.where(self.spread(live), self.page, NOWHERE)
        return dataclasses.replace(self, head=head, page=page)


def flat(src: Lanes, row: Int32[Array, "lanes 4"]) -> Window:
    """Base pages `src` with their rows."""
    lane = jnp.arange(src.shape[0], dtype=jnp.int32)
    return Window(src, row, src, row, lane, lane, jnp.asarray(True), large=False)


def rows_of(m: Machine, pages: Lanes) -> Int32[Array, "lanes 4"]:
    """Rows of frames; any row for NOWHERE."""
    return xla.read(pages, lambda: lanes.rows(m.frame, pages))


def open_window(
    m: Machine, folios: Lanes, start: Index, end: Index, width: int
) -> tuple[Window, Index]:
    """Folios `start` ... of a list up to `end`, as many as `width` lanes hold.

    Args:
      folios: int32[folios], head frames.
    Returns:
      The window, and the place in the list of its lane 0.
    """
    # The last slice of a list that windows do not fill begins earlier: slices clamp.
    first = jnp.minimum(start, folios.shape[0] - width)
    lane = jnp.arange(width, dtype=jnp.int32)
    head = xla.read(
        start, lambda: jax.lax.dynamic_slice_in_dim(folios, first, width)
    )
    index = first + lane
    head = jnp.where((index >= start) & (index < end), head, NOWHERE)
    row = rows_of(m, head)
    if m.geometry.orders == (0,):
        return flat(head, row), first
    return _expanded(m, head, row, start - first), first


def _expanded(
    m: Machine, head: Lanes, row: Int32[Array, "lanes 4"], skipped: Index
) -> Window:
    """The window whose folios begin at lane `skipped`, as far as their pages fit."""
    width = head.shape[0]
    lane = jnp.arange(width, dtype=jnp.int32)
    there = head != NOWHERE
    order = jnp.where(there, frame.order(row[:, FLAGS]), 0)
    is_flat = ~lanes.some(order != 0)[0]

    def expand() -> tuple[Array, ...]:
        pages = jnp.where(there, jnp.int32(1) << order, 0)
        upto = lanes.running(pages)
        fits = there & (upto <= width)
        first = jnp.where(fits, upto - pages, 0)
        place = jnp.where(fits, first, NOWHERE)
        begins = lanes.scattered(place, jnp.ones_like(lane), jnp.zeros_like(lane))
        (used,) = lanes.totals(jnp.where(fits, pages, 0))
        # Lanes without a page belong to a lane without a folio, of which there is one.
        nobody = jnp.where(skipped > 0, 0, lanes.totals(fits)[0])
        folio = jnp.where(lane < used, lanes.running(begins) - 1 + skipped, nobody)
        page = head[folio] + lane - first[folio]
        page = jnp.where(lane < used, page, NOWHERE)
        return jnp.where(fits, head, NOWHERE), page, rows_of(m, page), folio, first

    found = jax.lax.cond(is_flat, lambda: (head, head, row, lane, lane), expand)
    head, page, page_row, folio, first = found
    return Window(head, row, page, page_row, folio, first, is_flat, large=True)
