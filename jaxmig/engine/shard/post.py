"""Rows that other shards keep: asked for, and sent, in boxes of a fixed size.

Every shard sorts its lanes by the shard they are for and sends each of the others a box
of them in every round; the largest pile of any shard sets the number of rounds.  Where
every shard keeps all its rows itself there are none.

A padding lane has the index NOWHERE.
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
    """Lanes by the shard they are for, in their order; NOWHERE behind them."""

    lane: Int32[Array, "shards room"]
    count: Int32[Array, " shards"]


def sort(owner: Lanes, shards: int, spare: int) -> Piles:
    """Lanes by their owner; `spare` more places, so that the last box is full, too."""
    n = owner.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    padding = jnp.full(n + spare, NOWHERE, jnp.int32)
    piles, counts = [], []
    for shard in range(shards):
        mine = owner == shard
        place = jnp.where(mine, lanes.running(mine) - 1, NOWHERE)
        piles.append(lanes.scattered(place, index, padding))
        counts.append(mine.sum(dtype=jnp.int32))
    return Piles(jnp.stack(piles), jnp.stack(counts))


def rounds(piles: Piles, me: Index, box: int, axis: str) -> Index:
    """How many rounds the largest pile for another shard takes, on any shard.

    Args:
      piles: this shard's.
      me: int32, this shard.
      box: rows of a box.
      axis: the mesh's.
    Returns:
      int32, the same on all shards.
    """
    others = jnp.arange(piles.count.shape[0]) != me
    most = jnp.where(others, piles.count, 0).max()
    return -(-jax.lax.pmax(most, axis) // box)


def of_round(piles: Piles, index: Index, box: int) -> Int32[Array, "shards box"]:
    """The lanes in the boxes of round `index`."""
    return jax.lax.dynamic_slice_in_dim(piles.lane, index * box, box, axis=1)


def pick(values: Array, lane: Int32[Array, "*n"]) -> Array:
    """`values` of lanes; NOWHERE for padding."""
    return values.at[lane].get(mode="fill", fill_value=NOWHERE)


def swap(boxes: Array, axis: str) -> Array:
    """Each shard's box for each other: row i goes to shard i, and comes from there."""
    return jax.lax.all_to_all(boxes, axis, 0, 0, tiled=True)


def fetch(
    deal: Deal, axis: str, index: Lanes, read: Callable[[Lanes], Array], box: int
) -> Int32[Array, "lanes *columns"]:
    """Rows of the lanes, whichever shard keeps them.

    Args:
      deal: of the array that has these rows.
      axis: the mesh's.
      index: int32[lanes], rows of the whole array.
      read: this shard's rows at local places (NOWHERE: padding).
      box: how many rows one shard asks another for at a time.
    Returns:
      int32[lanes, columns]; any row for padding lanes.
    """
    me = jax.lax.axis_index(axis)
    owner = deal.owner(index)
    here = deal.local(index, owner == me)
    rows = xla.read(here, lambda: read(here))
    if deal.shards == 1:
        return rows
    # This shard's own rows need no box.
    p = sort(jnp.where(owner == me, deal.shards, owner), deal.shards, box)

    def some(rank: Index, rows: Array) -> Array:
        lane = of_round(p, rank, box)
        # Two exchanges a round: the row numbers there, the rows back.
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
    """Replace rows, whichever shard keeps them.

    Args:
      deal: of the array that has these rows.
      axis: the mesh's.
      index: int32[lanes], rows of the whole array.
      where: bool[lanes], lanes that write.
      values: int32[lanes, columns], the new rows.
      write: (this shard's part, local places, which lanes, rows) -> the part.
      array: this shard's part: an array, or a pytree of several.
      box: how many rows one shard sends another at a time.
    Returns:
      This shard's part with the rows of all shards written.
    """
    me = jax.lax.axis_index(axis)
    owner = jnp.where(where, deal.owner(index), deal.shards)
    array = write(array, deal.local(index, owner == me), owner == me, values)
    if deal.shards == 1:
        return array
    p = sort(jnp.where(owner == me, deal.shards, owner), deal.shards, box)
    # The row number travels in front of the row: one exchange a round.
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
    """Words that all shards need, the same lanes on each.

    Args:
      deal: of the array that has these words.
      axis: the mesh's.
      index: int32[lanes], places in the whole array.
      where: bool[lanes], lanes that read.
      read: this shard's words at local places (NOWHERE: padding).
    Returns:
      int32[lanes], the same on all shards; 0 for lanes that do not read.
    """
    mine = where & (deal.owner(index) == jax.lax.axis_index(axis))
    here = deal.local(index, mine)
    words = xla.read(here, lambda: read(here))
    # One shard has each word, the others add zeros.
    return jax.lax.psum(jnp.where(mine, words, 0), axis)
