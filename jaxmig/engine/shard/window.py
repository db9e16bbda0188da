"""Constants of a call on shards, and the stretch of its list that comes next."""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.engine.shard import post
from jaxmig.engine.shard.deal import Deal
from jaxmig.engine.shard.sharded import ShardPlan
from jaxmig.linux.folio import Where
from jaxmig.linux.rules import Rules
from jaxmig.state import lanes
from jaxmig.state.lanes import Lanes
from jaxmig.state.machine import NOWHERE

Index = Int32[Array, ""]
STEP: Final = 128  # room is a multiple of what is copied at a time


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Static sizes of a call."""

    chunk: int  # pages after which one device gives frames back
    room: int  # pages that a shard works on at a time
    box: int  # rows for another shard at a time

    @property
    def window(self) -> int:
        """Pages of the list that all shards look at together."""
        return self.chunk


def sizes(chunk: int, shards: int) -> Sizes:
    """A quarter more than an even share; more pages take another window."""
    share = -(-chunk * 5 // (4 * shards)) if shards > 1 else chunk
    room = -(-min(share, chunk) // STEP) * STEP
    return Sizes(chunk, room, max(room // shards, 1))


@dataclasses.dataclass(frozen=True)
class ShardSetup:
    """What stays the same throughout a call."""

    rules: Rules
    plan: ShardPlan
    sizes: Sizes
    folios: Lanes  # this shard's part of the list
    deal: Deal  # of the list
    size: Index
    at: Where
    limit: Index

    @property
    def axis(self) -> str:
        """Name of the mesh's axis."""
        return self.plan.axis


@dataclasses.dataclass(frozen=True)
class ShardStretch:
    """A stretch of the list, the same on all shards, and this shard's pages of it."""

    start: Index
    end: Index
    src: Lanes  # of all of it, NOWHERE behind its end
    place: Int32[Array, " room"]  # where in the stretch this shard's pages are

    @property
    def mine(self) -> Lanes:
        """Frames of this shard's pages."""
        return post.pick(self.src, self.place)


def open_stretch(setup: ShardSetup, start: Index) -> ShardStretch:
    """The list from `start` on, as far as every shard has room and the chunk goes."""
    width, room = setup.sizes.window, setup.sizes.room
    index = jnp.arange(width, dtype=jnp.int32)
    chunk = setup.sizes.chunk
    end = jnp.minimum(start // chunk * chunk + chunk, setup.size)
    there = start + index < end
    at = jnp.where(there, start + index, NOWHERE)
    src = post.window(
        setup.deal, setup.axis, at, there, lambda here: lanes.rows(setup.folios, here)
    )
    src = jnp.where(there, src, NOWHERE)
    mine = setup.plan.frames.owner(src) == jax.lax.axis_index(setup.axis)
    rank = lanes.running(mine) - 1
    full = jnp.where(mine & (rank >= room), index, width).min()
    end = jnp.minimum(end, start + jax.lax.pmin(full, setup.axis))
    there = start + index < end
    none = jnp.full(room, NOWHERE, jnp.int32)
    at = jnp.where(mine & there, rank, NOWHERE)
    place = lanes.scattered(at, index, none)
    return ShardStretch(start, end, jnp.where(there, src, NOWHERE), place)
