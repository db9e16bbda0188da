"""Free frames in the order in which the pages of a list would stay on their shards.

A page gets the next frame on its node's stack, whose order Linux does not fix (see
machine.py).  A machine with another order is as valid, and is migrated alike on one
device and on many.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int64

from jaxmig.engine.shard.sharded import plan_of
from jaxmig.state import arguments
from jaxmig.state.machine import Machine

Numbers = Int64[np.ndarray, " n"]


def arrange(
    state: Machine, folios: Any, node: int, mesh: Mesh, layout: str = "striped"
) -> Machine:
    """`state` with `node`'s free frames reordered for a migration of `folios` to it.

    Page i of the list gets a frame of its own shard, as long as there is one; after a
    page that fails, later ones get their neighbours' frames.

    Args:
      folios: int32[folios], head frames in list order.
      node: the target node.
      layout: how `deal` will lay out the machine.
    Returns:
      The machine with `free` changed.
    Raises:
      ValueError: as `deal`, for folios or a node that the machine has not, or where
        fewer frames are free than the list is long.
    """
    node = arguments.node(state, node)
    d = plan_of(state, mesh, layout).frames
    heads = np.asarray(arguments.folios(state, folios)[0], np.int64)
    top = int(state.top[node, 0])
    if heads.size > top:
        raise ValueError(f"node {node} has {top} free frames, the list {heads.size}")
    start = node * state.geometry.slots_per_node
    free = np.array(state.free)
    # Frames are popped from the top: the last of the stack comes first.
    popped = free[start : start + top][::-1]
    wanted, offered = (x // d.block % d.shards for x in (heads, popped))
    free[start : start + top] = popped[_matched(wanted, offered, d.shards)][::-1]
    return dataclasses.replace(state, free=jnp.asarray(free))


def _matched(wanted: Numbers, offered: Numbers, shards: int) -> Numbers:
    """An order of `offered`, so that as many places as possible get the shard wanted."""
    given = np.full(wanted.size, -1)
    left = np.ones(offered.size, bool)
    for shard in range(shards):
        who, what = np.flatnonzero(wanted == shard), np.flatnonzero(offered == shard)
        n = min(who.size, what.size)
        given[who[:n]] = what[:n]
        left[what[:n]] = False
    # Where a shard has too few free frames, any others will do: those pages cross.
    rest = np.flatnonzero(left)
    short = np.flatnonzero(given < 0)
    given[short] = rest[: short.size]
    return np.concatenate([given, rest[short.size :]])
