"""Phase 3 on shards: the contents of pages, within a shard and across.

Pages that stay are copied as one device copies them.  The others go through a box of
BOX pages for each shard at a time: 4 KiB and a number for each page are all that
crosses.
"""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

from jaxmig import xla
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import copypage, lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.shard import post
from jaxmig.shard.deal import Deal

Index = Int32[Array, ""]
Memory = UInt32[Array, "frames 1024"]
BOX: Final = 256  # pages: one MiB for each shard at a time


@jax.named_scope("folio_copy")
def move(
    d: Deal, axis: str, m: Machine, src: Lanes, dst: Lanes, takes: Mask
) -> Machine:
    """Contents of pages that this shard keeps to frames that any shard keeps."""
    if m.memory is None:
        return m
    me = jax.lax.axis_index(axis)
    p = post.sort(jnp.where(takes, d.owner(dst), d.shards), d.shards, BOX)
    here = d.local(src, takes)
    there = d.local(dst, takes)
    stay = p.lane[me, : src.shape[0]]
    m = copypage.copy(m, post.pick(here, stay), post.pick(there, stay))
    assert m.memory is not None
    memory = _cross(d, axis, m.memory, p, here, there)
    return dataclasses.replace(m, memory=memory)


def _cross(
    d: Deal, axis: str, memory: Memory, p: post.Piles, here: Lanes, there: Lanes
) -> Memory:
    me = jax.lax.axis_index(axis)

    def cross(r: Index, memory: Memory) -> Memory:
        lane = post.of_round(p, r, BOX)
        # One shard further each time, all of them at once.
        for shift in range(1, d.shards):
            to = lane[(me + shift) % d.shards]
            memory = _ship(
                d, axis, shift, memory, post.pick(here, to), post.pick(there, to)
            )
        return memory

    return jax.lax.fori_loop(0, post.rounds(p, me, BOX, axis), cross, memory)


def _ship(
    d: Deal, axis: str, shift: int, memory: Memory, src: Lanes, dst: Lanes
) -> Memory:
    """Pages to the shard `shift` further on, and those that come from the other side."""
    rows = xla.read(src, lambda: lanes.rows(memory, src))
    way = [(i, (i + shift) % d.shards) for i in range(d.shards)]
    rows, at = (jax.lax.ppermute(x, axis, way) for x in (rows, dst))
    return lanes.scatter(memory, at, at != NOWHERE, rows)
