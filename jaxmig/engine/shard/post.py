"""Rows that other shards keep: asked for, and sent, in boxes of a fixed size.

Every shard sorts its lanes by the shard they are for and sends a box full to each of
the others at a time; how many rounds that takes is the largest pile's affair, and all
shards go through the same number.  Where all rows are at home there are none.

A lane that is nobody's has the index NOWHERE.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.engine.shard.deal import Deal
from jaxmig.state import lanes, xla
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE
from jaxmig.state.pytree import pytree

T = TypeVar("T")
Index = Int32[Array, ""]


@pytree
class Piles:
    """Lanes by the shard they are for, in their order; behind them, no lane."""

    lane: Int32[Array, "shards room"]
    count: Int32[Array, " shards"]


def sort(owner: Lanes, shards: int, spare: int) -> Piles:
    """Lanes by their owner; `spare` more places, so that boxes never end short."""
    n = owner.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    nobody = jnp.full(n + spare, NOWHERE, jnp.int32)
    piles, counts = [], []
    for shard in range(shards):
        mine = owner == shard
        place = jnp.where(mine, lanes.running(mine) - 1, NOWHERE)
        piles.append(lanes.scattered(place, index, nobody))
        counts.append(mine.sum(dtype=jnp.int32))
    return Piles(jnp.stack(piles), jnp.stack(counts))


def rounds(piles: Piles, me: Index, box: int, axis: str) -> Index:
    """How many boxes the largest pile that leaves its shard fills, anywhere."""
    others = jnp.arange(piles.count.shape[0]) != me
    most = jnp.where(others, piles.count, 0).max()
    return -(-jax.lax.pmax(most, axis) // box)


def of_round(piles: Piles, index: Index, box: int) -> Int32[Array, "shards box"]:
    """The lanes in the boxes of round `r`."""
    return jax.lax.dynamic_slice_in_dim(piles.lane, index * box, box, axis=1)


def pick(values: Array, lane: Int32[Array, "*n"]) -> Array:
    """`values` of lanes; NOWHERE for no lane."""
    return values.at[lane].get(mode="fill", fill_value=NOWHERE)


def swap(boxes: Array, axis: str) -> Array:
    """Each shard's box for each other: row i goes to shard i, and comes from there."""
    return jax.lax.all_to_all(boxes, axis, 0, 0, tiled=True)


def fetch(
    deal: Deal, axis: str, index: Lanes, read: Callable[[Lanes], Array], box: int
) -> Int32[Array, "lanes *columns"]:
    """Rows of the lanes, wherever they are kept.

    Args:
      read: the rows that this shard keeps at local places, NOWHERE for padding.
      box: how many rows one shard asks another for at a time.
    """
    me = jax.lax.axis_index(axis)
    owner = deal.owner(index)
    here = deal.local(index, owner == me)
    rows = xla.read(here, lambda: read(here))
    if deal.shards == 1:
        return rows
    p = sort(jnp.where(owner == me, deal.shards, owner), deal.shards, box)

    def some(rank: Index, rows: Array) -> Array:
        lane = of_round(p, rank, box)
        asked = swap(pick(index, lane), axis)
        at = deal.local(asked, asked != NOWHERE).reshape(-1)
        found = xla.read(at, lambda: read(at))
        back = swap(found.reshape(*asked.shape, *rows.shape[1:]), axis)
        return rows.at[lane].set(back, mode="drop")

    return jax.lax.fori_loop(0, rounds(p, me, box, axis), some, rows)


def send(
    deal: Deal,
    axis: str,
    index: Lanes,
    where: Mask,
    values: Int32[Array, "lanes columns"],
    write: Callable[[T, Lanes, Mask, Array], T],
    array: T,
    box: int,
) -> T:
    """What each shard keeps a part of, with the rows of the lanes replaced.

    Args:
      write: (array or arrays, local place, whether, rows) -> the same.
    """
    me = jax.lax.axis_index(axis)
    owner = jnp.where(where, deal.owner(index), deal.shards)
    array = write(array, deal.local(index, owner == me), owner == me, values)
    if deal.shards == 1:
        return array
    p = sort(jnp.where(owner == me, deal.shards, owner), deal.shards, box)
    whole = jnp.concatenate([index[:, None], values], axis=1)

    def some(rank: Index, array: T) -> T:
        got = swap(pick(whole, of_round(p, rank, box)), axis)
        got = got.reshape(-1, whole.shape[1])
        there = got[:, 0] != NOWHERE
        return write(array, deal.local(got[:, 0], there), there, got[:, 1:])

    return jax.lax.fori_loop(0, rounds(p, me, box, axis), some, array)


def window(
    deal: Deal, axis: str, index: Lanes, where: Mask, read: Callable[[Lanes], Lanes]
) -> Lanes:
    """Words that all shards want, from those that keep them; 0 elsewhere."""
    mine = where & (deal.owner(index) == jax.lax.axis_index(axis))
    here = deal.local(index, mine)
    words = xla.read(here, lambda: read(here))
    return jax.lax.psum(jnp.where(mine, words, 0), axis)
