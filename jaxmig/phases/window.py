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
    is_head: Mask  # page lanes that hold the first page of a folio
    large: bool = static()  # some folios are no base pages: lanes differ

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

    def spread(self, values: Any) -> Any:
        """What each folio has, for each of its pages."""
        if not self.large:
            return values
        return values.at[self.folio].get(mode="promise_in_bounds")

    def total(self, values: Lanes) -> Lanes:
        """Sum over the pages of each folio."""
        if not self.large:
            return values
        upto = lanes.running(values)
        last = jnp.maximum(self.first + self.pages - 1, 0)
        before = upto[self.first] - values[self.first]
        return jnp.where(self.there, upto[last] - before, 0)

    def only(self, live: Mask) -> "Window":
        """This window with the folios in `live` alone."""
        head = jnp.where(live, self.head, NOWHERE)
        page = jnp.where(self.spread(live), self.page, NOWHERE)
        return dataclasses.replace(self, head=head, page=page)


def flat(head: Lanes, row: Int32[Array, "lanes 4"]) -> Window:
    """Base pages with their rows."""
    lane = jnp.arange(head.shape[0], dtype=jnp.int32)
    return Window(head, row, head, row, lane, lane, head != NOWHERE, large=False)


def rows_of(m: Machine, pages: Lanes) -> Int32[Array, "lanes 4"]:
    """Rows of frames; any row for NOWHERE."""
    return xla.read(pages, lambda: lanes.rows(m.frame, pages))


@pytree
class Listed:
    """Folios of a list, one for each lane of a window."""

    head: Lanes
    row: Int32[Array, "lanes 4"]
    place: Index  # of lane 0 in the list
    skipped: Index  # lanes in front of the first folio

    @property
    def is_flat(self) -> Bool[Array, ""]:
        """Whether all are base pages."""
        order = jnp.where(self.head == NOWHERE, 0, frame.order(self.row[:, FLAGS]))
        return ~lanes.some(order != 0)[0]


def listed(m: Machine, folios: Lanes, start: Index, end: Index, width: int) -> Listed:
    """Folios `start` ... of a list up to `end`, as many as there are lanes.

    Args:
      folios: int32[folios], head frames.
    """
    # The last slice of a list that windows do not fill begins earlier: slices clamp.
    first = jnp.minimum(start, folios.shape[0] - width)
    head = xla.read(start, lambda: jax.lax.dynamic_slice_in_dim(folios, first, width))
    index = first + jnp.arange(width, dtype=jnp.int32)
    head = jnp.where((index >= start) & (index < end), head, NOWHERE)
    return Listed(head, rows_of(m, head), first, start - first)


def expanded(m: Machine, found: Listed) -> Window:
    """The folios whose pages fit the lanes, and a lane for each page."""
    head, row = found.head, found.row
    width = head.shape[0]
    lane = jnp.arange(width, dtype=jnp.int32)
    there = head != NOWHERE
    pages = jnp.where(there, jnp.int32(1) << frame.order(row[:, FLAGS]), 0)
    upto = lanes.running(pages)
    fits = there & (upto <= width)
    first = jnp.where(fits, upto - pages, 0)
    begins = lanes.scattered(
        jnp.where(fits, first, NOWHERE), jnp.ones_like(lane), jnp.zeros_like(lane)
    )
    used, count = lanes.totals(jnp.where(fits, pages, 0), fits)
    # Lanes without a page belong to a lane without a folio, of which there is one.
    nobody = jnp.where(found.skipped > 0, 0, jnp.minimum(count, width - 1))
    folio = lanes.running(begins) - 1 + found.skipped
    folio = jnp.where(lane < used, folio, nobody)
    head = jnp.where(fits, head, NOWHERE)
    begin = jnp.where(fits, head - first, 0)
    page = lane + begin.at[folio].get(mode="promise_in_bounds")
    page = jnp.where(lane < used, page, NOWHERE)
    return Window(
        head, row, page, rows_of(m, page), folio, first, begins > 0, large=True
    )
