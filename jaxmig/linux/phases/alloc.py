"""Free frames: a stack of blocks for each node and folio order, and one number a node.

An allocation of order n succeeds if 2^n base pages are free on the node; Linux does not
fix which frames it gets, here they are the top of the stack (see machine.py).  At the
unmap a destination is only subtracted from `nfree`; it is popped at the move, so that a
folio that fails in between has no frame to return.

Source: alloc_migration_target(), __alloc_pages() with __GFP_THISNODE, mm/migrate.c.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.state import frame, lanes, xla
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Geometry, Machine
from jaxmig.state.window import Window

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Slots = Int32[Array, " slots"]
Tops = Int32[Array, "nodes orders"]


def pool_of(geometry: Geometry, order: Index) -> Index:
    """Number of the pool that serves an order in use."""
    smaller = geometry.orders[:-1]
    return sum(((order > o).astype(jnp.int32) for o in smaller), jnp.int32(0))


def reserve(m: Machine, node: Index, pages: Index) -> Machine:
    """Take `pages` base pages (negative: give back) from a node's free memory."""
    return dataclasses.replace(m, nfree=xla.add(m.nfree, node, -pages))


def _slot(geometry: Geometry, node: Index, pool: Index, top: Index) -> Index:
    start = node * geometry.slots_per_node
    return start + _of(geometry.stack_start, geometry, pool) + top


def _spot(geometry: Geometry, node: Index, pool: Index) -> Bool[Array, "nodes orders"]:
    nodes, pools = jnp.arange(geometry.nodes), jnp.arange(len(geometry.orders))
    return (nodes[:, None] == node) & (pools == pool)


def _top(top: Tops, spot: Bool[Array, "nodes orders"]) -> Index:
    return jnp.where(spot, top, 0).sum(dtype=jnp.int32)


def top_of(geometry: Geometry, top: Tops, node: Index, order: Index) -> Index:
    """Free blocks that serve an order on a node.

    Args:
      geometry: the machine's.
      top: int32[nodes, orders], Machine.top.
      node, order: int32.
    Returns:
      int32, how many.
    """
    return _top(top, _spot(geometry, node, pool_of(geometry, order)))


def take(
    geometry: Geometry, free: Slots, top: Tops, node: Index, order: Index, live: Flag
) -> tuple[Tops, Index]:
    """Pop the destination of a folio, which is reserved already.

    Args:
      free, top: Machine.free and Machine.top.
      node: int32, on which node.
      order: int32, the folio's.
      live: whether there is one; if not, the tops stay.
    Returns:
      int32[nodes, orders] tops; int32, the head frame.
    Source: alloc_migration_target() in mm/migrate.c.
    """
    pool = pool_of(geometry, order)
    spot = _spot(geometry, node, pool)
    slot = _slot(geometry, node, pool, jnp.maximum(_top(top, spot) - 1, 0))
    return top - (spot & live), xla.read(node, lambda: xla.row(free, slot))


def give(
    geometry: Geometry, free: Slots, top: Tops, head: Index, order: Index, live: Flag
) -> tuple[Slots, Tops]:
    """Push the frames of a folio that was freed.

    A piece of a split folio lies in the pool of the folio's order, whose blocks it cannot
    serve: it is not pushed.

    Args:
      free, top: Machine.free and Machine.top.
      head: int32, the folio's head frame.
      order: int32, its order.
      live: whether there is one; if not, nothing changes.
    Returns:
      int32[slots] stacks; int32[nodes, orders] tops.
    Source: free_unref_page() in mm/page_alloc.c.
    """
    # A block goes back to the node that it lies on, in the pool of its order.
    pool, node = pool_of(geometry, order), head // np.int32(geometry.frames_per_node)
    offset = head - node * geometry.frames_per_node
    home = live & (offset >= _of(geometry.pool_start, geometry, pool))
    home &= offset < _of(lambda k: geometry.pool_start(k + 1), geometry, pool)
    spot = _spot(geometry, node, pool)
    size = _of(lambda k: geometry.pool_blocks[k], geometry, pool)
    slot = _slot(geometry, node, pool, jnp.minimum(_top(top, spot), size - 1))
    old = xla.read(node, lambda: xla.row(free, slot))
    free = xla.put(free, slot, jnp.where(home, head, old))
    return free, top + (spot & home)


def _of(number: Callable[[int], int], geometry: Geometry, pool: Index) -> Index:
    """`number(pool)` for a pool that is data; selects fuse, a lookup table would not."""
    found = jnp.int32(number(0))
    for k in range(1, len(geometry.orders)):
        found = jnp.where(pool == k, number(k), found)
    return found


def take_many(
    m: Machine, node: Index, window: Window, wanted: Mask
) -> tuple[Machine, Lanes]:
    """Allocate a destination on `node` for each folio that moves; there must be enough.

    Args:
      node: int32.
      window: the folios.
      wanted: bool[lanes], those that move.
    Returns:
      The machine; int32[lanes], head frames, NOWHERE where none is wanted.
    Source: alloc_migration_target() in mm/migrate.c.
    """
    g = m.geometry
    slot, top = _places(g, m.top[node], pools(g, window, wanted), node, -1, window)
    frames = xla.read(node, lambda: lanes.rows(m.free, jnp.maximum(slot, 0)))
    m = dataclasses.replace(m, top=m.top.at[node].set(top))
    (pages,) = lanes.totals(jnp.where(wanted, _counted(window), 0))
    return reserve(m, node, pages), jnp.where(wanted, frames, NOWHERE)


def pools(geometry: Geometry, window: Window, folios: Mask) -> Lanes:
    """The number of the pool that serves each folio.

    Args:
      folios: bool[lanes], folios of the window.
    Returns:
      int32[lanes]; the number of pools for lanes that are not in `folios`.
    """
    pool = pool_of(geometry, frame.order(window.flags)) if window.large else 0
    return jnp.where(folios, pool, len(geometry.orders))


def _places(
    geometry: Geometry,
    top: Int32[Array, " orders"],
    pool: Lanes,
    node: Index,
    step: int,
    window: Window,
) -> tuple[Lanes, Int32[Array, " orders"]]:
    """Slots that are popped from a node's stacks, or pushed on them, one for each folio.

    Args:
      top: int32[orders], free blocks of each stack.
      pool: int32[lanes], the stack of each folio; len(orders): none.
      step: -1: popped, 1: pushed.
      window: the folios.
    Returns:
      int32[lanes]; int32[orders], free blocks of each stack afterwards.
    """
    stacks = len(geometry.orders) if window.large else 1
    starts = np.asarray([geometry.stack_start(k) for k in range(stacks)], np.int32)
    # The topmost block lies below the top.
    empty = node * geometry.slots_per_node + starts + min(step, 0)
    slot, following = lanes.dealt(pool, empty + top[:stacks], step)
    return slot, jax.lax.dynamic_update_slice(top, following - empty, (0,))


def _counted(window: Window) -> Lanes:
    """Base pages of free memory that each folio takes: hugetlb has pools of its own."""
    if not window.large:
        return window.pages
    return jnp.where(frame.kind(window.flags) == frame.HUGETLB, 0, window.pages)


def give_many(m: Machine, window: Window, head: Lanes, freed: Mask) -> Machine:
    """Free folios: push their frames on the stacks of their nodes.

    Pieces of split folios are not pushed, see `give`.

    Args:
      head: int32[lanes], the folios' old head frames.
      freed: bool[lanes], folios that leave them.
    Returns:
      The machine with free, top and nfree changed.
    """
    g = m.geometry
    home = head // np.int32(g.frames_per_node)
    counted, pool = _counted(window), pools(g, window, freed)

    def next_node(after: Index) -> Index:
        return jnp.where(freed & (home > after), home, NOWHERE).min()

    def give(
        carry: tuple[Index, Slots, Tops, Array],
    ) -> tuple[Index, Slots, Tops, Array]:
        node, free, top, nfree = carry
        mine = freed & (home == node)
        (pages,) = lanes.totals(jnp.where(mine, counted, 0))
        if len(g.orders) > 1:
            # Pieces of split folios lie outside the pool of order 0.
            offset = head - node * g.frames_per_node
            mine &= offset >= _of(g.pool_start, g, pool)
            mine &= offset < _of(lambda k: g.pool_start(k + 1), g, pool)
        here = jnp.where(mine, pool, len(g.orders))
        slot, above = _places(g, top[node], here, node, 1, window)
        free = lanes.scatter(free, slot, mine, head)
        nfree = nfree.at[node].add(pages)
        return next_node(node), free, top.at[node].set(above), nfree

    # Most nodes have none.
    start = (next_node(jnp.int32(-1)), m.free, m.top, m.nfree)
    start = xla.while_at_most(lambda c: c[0] != NOWHERE, give, start, g.nodes)
    _, free, top, nfree = start
    return dataclasses.replace(m, free=free, top=top, nfree=nfree)
