"""The reverse map: from a folio to the entries that map it.

Chains are intrusive: a frame's row names its first entry, `Machine.rmap_next` the one
after.  The first entry moves with the folio's row, so that no chain is ever rewritten.

Source: rmap_walk(), mm/rmap.c.  The locks of the anon_vma tree are not modelled.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.tlb import Cached
from jaxmig.state import xla
from jaxmig.state.events import Events
from jaxmig.state.frame import FLAGS, MAPCOUNT, RMAP
from jaxmig.state.machine import NOWHERE, Geometry
from jaxmig.state.pte import BITS, PFN
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@pytree
class RmapState:
    """What a walk may change."""

    frame: Int32[Array, "frames 4"]
    pte: Int32[Array, "entries 2"]
    rmap_next: Int32[Array, " entries"]
    cached: Cached
    ev: Events
    count: Index  # entries visited
    dirty: Flag  # one of them was dirty
    leaves: Index  # PMD leaves among them
    last: Index  # the entry before the next one in the head's chain, or NOWHERE


@dataclasses.dataclass(frozen=True)
class Visit:
    """One entry on the walk; at the end of a chain there is none."""

    here: Flag
    entry: Index  # 0 if there is none
    pfn: Index  # the entry's first word
    bits: Index  # the entry's second word
    page: Index  # which base page of the folio it maps
    mapcount: Index  # of that page
    flags: Index  # that page's own
    following: Index  # the entry behind it in the chain


def walked_pages(geometry: Geometry, row: Int32[Array, " 4"], pages: Index) -> Index:
    """How many frames of a folio can have chains: only the head under PMD mappings.

    A head's chain lists PTEs before PMD leaves, so that its first entry tells, unless
    another process maps by PTEs what is behind the head.
    """
    return jnp.where(geometry.only_heads(row), 1, pages)


def rmap_walk(
    geometry: Geometry,
    m: RmapState,
    head: Index,
    pages: Index,
    visit: Callable[[RmapState, Visit], tuple[RmapState, Flag]],
    first: Index | None = None,
) -> RmapState:
    """Visit every entry that maps frames `head` ... `head + pages - 1`, in order.

    Args:
      m: what the walk may change.
      head, pages: int32, the first frame and how many; 0 pages: nothing is visited.
      visit: what is done at an entry; it returns the changed `m` and whether to go on.
      first: int32, the page to begin with; the walk wraps around behind the last one.
        None: the head.
    Returns:
      `m` after the last visit.
    Source: rmap_walk() in mm/rmap.c, page_vma_mapped_walk() in mm/page_vma_mapped.c.
    """

    def frame_of(n: Index) -> Index:
        if first is None:
            return head + n
        page = n + first
        return head + jnp.where(page >= pages, page - pages, page)

    def go_on(carry: tuple[RmapState, Index, Index, Flag]) -> Flag:
        return (carry[1] < pages) & carry[3]

    def step(carry: tuple[RmapState, Index, Index, Flag]) -> tuple:
        m, page, entry, _ = carry
        here, where, then = entry != NOWHERE, frame_of(page), frame_of(page + 1)
        old, following, row, front = _look(geometry, m, where, then, entry)
        at = Visit(
            here=here,
            entry=jnp.where(here, entry, 0),
            pfn=old[PFN],
            bits=old[BITS],
            page=where - head,
            mapcount=row[MAPCOUNT],
            flags=row[FLAGS],
            following=following,
        )
        m, more = visit(m, at)
        # The last entry of a page leads to the first of the next page.
        over = ~here | (following == NOWHERE)
        return m, page + over, jnp.where(over, front, following), more

    begin = frame_of(jnp.int32(0))
    start = xla.read(head, lambda: xla.row(m.frame, begin)[RMAP])
    state = (m, jnp.int32(0), start, jnp.asarray(True))
    return jax.lax.while_loop(go_on, step, state)[0]


def _look(
    geometry: Geometry, m: RmapState, page: Index, then: Index, entry: Index
) -> tuple[Array, ...]:
    """An entry, the next of its chain, its page's row, the next page's first entry."""
    safe = jnp.where(entry == NOWHERE, 0, entry)

    def reads() -> tuple[Array, ...]:
        last = geometry.frames - 1
        first = xla.row(m.frame, jnp.minimum(then, last))[RMAP]
        now = xla.row(m.pte, safe), xla.row(m.frame, page)
        following = jnp.int32(NOWHERE)
        if geometry.shared:
            following = xla.row(m.rmap_next, safe)
        return now[0], following, now[1], first

    return xla.read(page, reads)
