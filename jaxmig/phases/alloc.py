"""Free frames: a stack of blocks for each node and folio order, and one number a node.

An allocation of order n succeeds if 2^n base pages are free on the node; which frames
it gets is the model's affair (see machine.py).  Between unmap and move a destination is
reserved in the number and taken from the stack at the move, so that a folio that fails
in between returns nothing but the number.

Source: alloc_migration_target(), __alloc_pages() with __GFP_THISNODE, mm/migrate.c.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, xla
from jaxmig.machine import NOWHERE, Geometry, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.phases.window import Window

FEW_NODES: Final = 8  # of as many, each has a push of its own
Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Slots = Int32[Array, " slots"]
Tops = Int32[Array, "nodes orders"]


def pool_of(g: Geometry, order: Index) -> Index:
    """Number of the pool that serves an order in use."""
    return sum((order > o).astype(jnp.int32) for o in g.orders[:-1]) + jnp.int32(0)


def reserve(m: Machine, node: Index, pages: Index) -> Machine:
    """Take `pages` base pages (negative: give back) from a node's free memory."""
    return dataclasses.replace(m, nfree=xla.add(m.nfree, node, -pages))


def _slot(g: Geometry, node: Index, pool: Index, top: Index) -> Index:
    return node * g.slots_per_node + _of(g.stack_start, g, pool) + top


def _spot(g: Geometry, node: Index, pool: Index) -> Bool[Array, "nodes orders"]:
    nodes, pools = jnp.arange(g.nodes), jnp.arange(len(g.orders))
    return (nodes[:, None] == node) & (pools == pool)


def _top(top: Tops, spot: Bool[Array, "nodes orders"]) -> Index:
    return jnp.where(spot, top, 0).sum(dtype=jnp.int32)


def take(
    g: Geometry, free: Slots, top: Tops, node: Index, order: Index, live: Flag
) -> tuple[Tops, Index]:
    """The stacks without a reserved block, if `live`, and its head frame."""
    pool = pool_of(g, order)
    spot = _spot(g, node, pool)
    slot = _slot(g, node, pool, jnp.maximum(_top(top, spot) - 1, 0))
    return top - (spot & live), xla.read(node, lambda: free[slot])


def give(
    g: Geometry, free: Slots, top: Tops, head: Index, order: Index, live: Flag
) -> tuple[Slots, Tops]:
    """The stacks with a freed block on them, if `live`.

    A base page that was split off a large folio stays in its old pool's range: nothing
    asks for that range again, so it is not pushed.
    """
    pool, node = pool_of(g, order), head // np.int32(g.frames_per_node)
    offset = head - node * g.frames_per_node
    home = live & (offset >= _of(g.pool_start, g, pool))
    home &= offset < _of(lambda k: g.pool_start(k + 1), g, pool)
    spot = _spot(g, node, pool)
    size = _of(lambda k: g.pool_blocks[k], g, pool)
    slot = _slot(g, node, pool, jnp.minimum(_top(top, spot), size - 1))
    old = xla.read(node, lambda: free[slot])
    free = xla.put(free, slot, jnp.where(home, head, old))
    return free, top + (spot & home)


def _of(number: Callable[[int], int], g: Geometry, pool: Index) -> Index:
    """A number that each pool has, of one of them; choices fold, a table would not."""
    found = jnp.int32(number(0))
    for k in range(1, len(g.orders)):
        found = jnp.where(pool == k, number(k), found)
    return found


def take_many(
    m: Machine, node: Index, w: Window, wanted: Mask
) -> tuple[Machine, Lanes]:
    """A folio on `node` for each of those that are wanted; there must be enough.

    Args:
      wanted: folio lanes that move.
    Returns:
      The machine; int32[lanes], head frames, NOWHERE where none is wanted.
    """
    g = m.geometry
    dst = jnp.full_like(w.head, NOWHERE)
    counts = []
    for pool, mine in pools(g, w, wanted):
        (count,) = lanes.totals(mine)
        counts.append(count)
        pop = functools.partial(_pop, m, node, pool, mine)
        if pool == 0 and not w.large:
            dst = pop()
        else:
            found = jax.lax.cond(count > 0, pop, lambda: jnp.full_like(w.head, NOWHERE))
            dst = jnp.minimum(dst, found)
    spare = (0,) * (len(g.orders) - len(counts))
    taken = jnp.stack([*counts, *map(jnp.int32, spare)])
    m = dataclasses.replace(m, top=m.top.at[node].add(-taken))
    (pages,) = lanes.totals(jnp.where(wanted, _counted(w), 0))
    return reserve(m, node, pages), dst


def _pop(m: Machine, node: Index, pool: int, mine: Mask) -> Lanes:
    """Head frames from the top of a stack."""
    top = m.top[node, pool]
    slot = _slot(m.geometry, node, jnp.int32(pool), top - 1 - lanes.rank(mine))
    frames = xla.read(node, lambda: lanes.rows(m.free, jnp.maximum(slot, 0)))
    return jnp.where(mine, frames, NOWHERE)


def pools(g: Geometry, w: Window, folios: Mask) -> list[tuple[int, Mask]]:
    """The folios of each pool."""
    if not w.large:
        return [(0, folios)]
    order = frame.order(w.flags)
    return [(k, folios & (order == o)) for k, o in enumerate(g.orders)]


def _counted(w: Window) -> Lanes:
    """Base pages of free memory that each folio takes: hugetlb has pools of its own."""
    if not w.large:
        return w.pages
    return jnp.where(frame.kind(w.flags) == frame.HUGETLB, 0, w.pages)


def give_many(m: Machine, w: Window, head: Lanes, freed: Mask) -> Machine:
    """Put folios back on the stacks of their nodes.

    Args:
      head: int32[lanes], their head frames.

    Base pages that were split off a larger folio are not pushed, see `give`.
    """
    g = m.geometry
    home = head // np.int32(g.frames_per_node)
    if g.nodes > FEW_NODES:
        return _give_sorted(m, w, head, freed, home)
    of_node = [freed & (home == n) for n in range(g.nodes)]
    counted = _counted(w)
    counts = lanes.totals(*of_node, *(jnp.where(x, counted, 0) for x in of_node))
    for node, mine, count in zip(range(g.nodes), of_node, counts, strict=False):

        def push(m: Machine, mine: Mask = mine, node: int = node) -> Machine:
            for pool, some in pools(g, w, mine):
                m = _push(m, node, pool, head, some)
            return m

        m = xla.when(count > 0, push, m)
    return dataclasses.replace(m, nfree=m.nfree + jnp.stack(counts[g.nodes :]))


def _give_sorted(
    m: Machine, w: Window, head: Lanes, freed: Mask, home: Lanes
) -> Machine:
    """The same of many nodes at once: a push for each would be a program for each."""
    g, top, free = m.geometry, m.top, m.free
    lane, offset = jnp.arange(head.shape[0]), head - home * g.frames_per_node
    for pool, mine in pools(g, w, freed):
        mine &= (offset >= g.pool_start(pool)) & (offset < g.pool_start(pool + 1))
        node = jnp.where(mine, home, np.int32(g.nodes))
        order = jnp.argsort(node, stable=True)
        first = jnp.searchsorted(node[order], jnp.arange(g.nodes + 1)).astype(jnp.int32)
        rank = lane.at[order].set(lane - first[node[order]]).astype(jnp.int32)
        at = jnp.where(mine, home, 0)
        slot = _slot(g, at, jnp.int32(pool), top[at, pool] + rank)
        free = lanes.scatter(free, slot, mine, head)
        top = top.at[:, pool].add(jnp.diff(first))
    back = jnp.where(freed, home, NOWHERE)
    nfree = m.nfree.at[back].add(jnp.where(freed, _counted(w), 0), mode="drop")
    return dataclasses.replace(m, free=free, top=top, nfree=nfree)


def _push(m: Machine, node: int, pool: int, head: Lanes, mine: Mask) -> Machine:
    g = m.geometry
    if len(g.orders) > 1:
        offset = head - node * g.frames_per_node
        mine &= (offset >= g.pool_start(pool)) & (offset < g.pool_start(pool + 1))
    top = m.top[node, pool]
    slot = _slot(g, jnp.int32(node), jnp.int32(pool), top + lanes.rank(mine))
    (count,) = lanes.totals(mine)
    return dataclasses.replace(
        m,
        free=lanes.scatter(m.free, slot, mine, head),
        top=m.top.at[node, pool].add(count),
    )
