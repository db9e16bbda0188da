"""Free frames: a stack of blocks for each node and folio order, and one number a node.

An allocation of order n succeeds if 2^n base pages are free on the node; which frames
it gets is the model's affair (see machine.py).  Between unmap and move a destination is
reserved in the number and taken from the stack at the move, so that a folio that fails
in between returns nothing but the number.

Source: alloc_migration_target(), __alloc_pages() with __GFP_THISNODE, mm/migrate.c.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import wall
from jaxmig.machine import NOWHERE, Geometry, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask

Index = Int32[Array, ""]


def pool_of(g: Geometry, order: Index) -> Index:
    """Number of the pool that serves an order in use."""
    return sum((order > o).astype(jnp.int32) for o in g.orders[:-1]) + jnp.int32(0)


def reserve(m: Machine, node: Index, pages: Index) -> Machine:
    """Take `pages` base pages (negative: give back) from a node's free memory."""
    return dataclasses.replace(m, nfree=wall.add(m.nfree, node, -pages))


def _slot(g: Geometry, node: Index, pool: Index, top: Index) -> Index:
    starts = jnp.asarray([g.stack_start(k) for k in range(len(g.orders))], jnp.int32)
    return node * g.slots_per_node + starts[pool] + top


def take(m: Machine, node: Index, order: Index) -> tuple[Machine, Index]:
    """Head frame of a reserved block."""
    pool = pool_of(m.geometry, order)
    top = m.top[node, pool] - 1
    slot = _slot(m.geometry, node, pool, top)
    head = wall.read(node, lambda: m.free[slot])
    return dataclasses.replace(m, top=m.top.at[node, pool].set(top)), head


def give(m: Machine, head: Index, order: Index, counted: Index) -> Machine:
    """Put a freed block back; `counted` of its base pages become free memory.

    A base page that was split off a large folio stays in its old pool's range: nothing
    asks for that range again, so it is not pushed.
    """
    g = m.geometry
    node = m.node_of(head)
    pool = pool_of(g, order)
    starts = jnp.asarray([g.pool_start(k) for k in range(len(g.orders))], jnp.int32)
    ends = jnp.asarray(
        [
            g.pool_start(k) + (n << o)
            for k, (n, o) in enumerate(zip(g.pool_blocks, g.orders, strict=True))
        ],
        jnp.int32,
    )
    offset = head - node * g.frames_per_node
    home = (offset >= starts[pool]) & (offset < ends[pool])
    top = m.top[node, pool]
    size = jnp.asarray(g.pool_blocks, jnp.int32)[pool]
    slot = _slot(g, node, pool, jnp.minimum(top, size - 1))
    old = wall.read(node, lambda: m.free[slot])
    m = reserve(m, node, -counted)
    return dataclasses.replace(
        m,
        free=wall.put(m.free, slot, jnp.where(home, head, old)),
        top=m.top.at[node, pool].set(top + home),
    )


def take_many(m: Machine, node: Index, wanted: Mask) -> tuple[Machine, Lanes]:
    """A base page on `node` for each lane that wants one; there must be enough."""
    top = m.top[node, 0]
    slot = _slot(m.geometry, node, jnp.int32(0), top - 1 - lanes.rank(wanted))
    frames = wall.read(node, lambda: lanes.rows(m.free, jnp.maximum(slot, 0)))
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

        m = wall.when(count > 0, push, m)
    return m
