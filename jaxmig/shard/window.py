"""What a call on shards works with, and the stretch of its list that comes next."""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.machine import NOWHERE
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes
from jaxmig.policy.folio import Where
from jaxmig.rules import Rules
from jaxmig.shard import post
from jaxmig.shard.deal import Deal
from jaxmig.shard.state import Plan

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
class Job:
    """What stays the same throughout a call."""

    rules: Rules
    plan: Plan
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
class Stretch:
    """A stretch of the list, the same on all shards, and this shard's pages of it."""

    start: Index
    end: Index
    src: Lanes  # of all of it, NOWHERE behind its end
    place: Int32[Array, " room"]  # where in the stretch this shard's pages are

    @property
    def mine(self) -> Lanes:
        """Frames of this shard's pages."""
        return post.pick(self.src, self.place)


def open_stretch(j: Job, start: Index) -> Stretch:
    """The list from `start` on, as far as every shard has room and the chunk goes."""
    width, room = j.sizes.window, j.sizes.room
    index = jnp.arange(width, dtype=jnp.int32)
    end = jnp.minimum(start // j.sizes.chunk * j.sizes.chunk + j.sizes.chunk, j.size)
    there = start + index < end
    at = jnp.where(there, start + index, NOWHERE)
    src = post.window(
        j.deal, j.axis, at, there, lambda here: lanes.rows(j.folios, here)
    )
    src = jnp.where(there, src, NOWHERE)
    mine = j.plan.frames.owner(src) == jax.lax.axis_index(j.axis)
    rank = lanes.running(mine) - 1
    full = jnp.where(mine & (rank >= room), index, width).min()
    end = jnp.minimum(end, start + jax.lax.pmin(full, j.axis))
    there = start + index < end
    none = jnp.full(room, NOWHERE, jnp.int32)
    at = jnp.where(mine & there, rank, NOWHERE)
    place = lanes.scattered(at, index, none)
    return Stretch(start, end, jnp.where(there, src, NOWHERE), place)
