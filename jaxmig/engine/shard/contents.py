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

from jaxmig.engine.shard import post
from jaxmig.engine.shard.deal import Deal
from jaxmig.linux.phases import copypage
from jaxmig.state import lanes, xla
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine

Index = Int32[Array, ""]
Memory = UInt32[Array, "frames 1024"]
BOX: Final = 256  # pages: one MiB for each shard at a time


@jax.named_scope("folio_copy")
def move(
    deal: Deal, axis: str, m: Machine, src: Lanes, dst: Lanes, takes: Mask
) -> Machine:
    """Copy pages whose frames this shard keeps, to frames that any shard keeps.

    Args:
      deal: of the frames.
      axis: the mesh's.
      m: this shard's part of the machine.
      src, dst: int32[lanes], frames of the whole machine.
      takes: bool[lanes], pages that move.
    Returns:
      This shard's part with its memory changed.
    Source: folio_copy() in mm/util.c.
    """
    if m.memory is None:
        return m
    me = jax.lax.axis_index(axis)
    # Lanes that do not move are in no pile: their owner is past the last shard.
    p = post.sort(jnp.where(takes, deal.owner(dst), deal.shards), deal.shards, BOX)
    here = deal.local(src, takes)
    there = deal.local(dst, takes)
    stay = p.lane[me, : src.shape[0]]
    m = copypage.copy(m, post.pick(here, stay), post.pick(there, stay))
    assert m.memory is not None
    memory = _cross(deal, axis, m.memory, p, here, there)
    return dataclasses.replace(m, memory=memory)


def _cross(
    deal: Deal, axis: str, memory: Memory, piles: post.Piles, here: Lanes, there: Lanes
) -> Memory:
    me = jax.lax.axis_index(axis)

    def cross(index: Index, memory: Memory) -> Memory:
        lane = post.of_round(piles, index, BOX)
        # Step by step around the ring, all shards at once.
        for shift in range(1, deal.shards):
            to = lane[(me + shift) % deal.shards]
            src, dst = post.pick(here, to), post.pick(there, to)
            memory = _ship(deal, axis, shift, memory, src, dst)
        return memory

    return jax.lax.fori_loop(0, post.rounds(piles, me, BOX, axis), cross, memory)


def _ship(
    deal: Deal, axis: str, shift: int, memory: Memory, src: Lanes, dst: Lanes
) -> Memory:
    """Pages to the shard `shift` further on, and those that come from the other side."""
    rows = xla.read(src, lambda: lanes.rows(memory, src))
    way = [(i, (i + shift) % deal.shards) for i in range(deal.shards)]
    rows, at = (jax.lax.ppermute(x, axis, way) for x in (rows, dst))
    return lanes.scatter(memory, at, at != NOWHERE, rows)
