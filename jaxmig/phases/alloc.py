"""Free frames: a stack of blocks for each node and folio order, and one number a node.

An allocation of order n succeeds if 2^n base pages are free on the node; which frames
it gets is the model's affair (see machine.py).  Between unmap and move a destination is
reserved in the number and taken from the stack at the move, so that a folio that fails
in between returns nothing but the number.

Source: alloc_migration_target(), __alloc_pages() with __GFP_THISNODE, mm/migrate.c.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig import xla
from jaxmig.machine import NOWHERE, Geometry, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask

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


def take_many(m: Machine, node: Index, wanted: Mask) -> tuple[Machine, Lanes]:
    """A base page on `node` for each lane that wants one; there must be enough."""
    top = m.top[node, 0]
    slot = _slot(m.geometry, node, jnp.int32(0), top - 1 - lanes.rank(wanted))
    frames = xla.read(node, lambda: lanes.rows(m.free, jnp.maximum(slot, 0)))
    (count,) = lanes.totals(wanted)
    m = reserve(m, node, count)
    m = dataclasses.replace(m, top=m.top.at[node, 0].add(-count))
    return m, jnp.where(wanted, frames, NOWHERE)


def give_many(m: Machine, pages: Lanes, freed: Mask) -> Machine:
    """Put base pages back on the stacks of their nodes."""
    size = m.geometry.frames_per_node
    nodes = range(m.geometry.nodes)
    of_node = [freed & (pages >= n * size) & (pages < (n + 1) * size) for n in nodes]
    counts = lanes.totals(*of_node)
    for node, mine, count in zip(nodes, of_node, counts, strict=True):

        def push(
            m: Machine, mine: Mask = mine, node: int = node, count: Index = count
        ) -> Machine:
            top = m.top[node, 0]
            slot = _slot(
                m.geometry, jnp.int32(node), jnp.int32(0), top + lanes.rank(mine)
            )
            return dataclasses.replace(
                m,
                free=lanes.scatter(m.free, slot, mine, pages),
                top=m.top.at[node, 0].add(count),
                nfree=m.nfree.at[node].add(count),
            )

        m = xla.when(count > 0, push, m)
    return m
