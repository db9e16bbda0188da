"""A small machine of a shard's own, for the pages that it is working on.

It holds the frames, entries and conditions of up to `room` pages under numbers of its
own: page i is frame i, its entries are i, room + i, ...; the k-th page that moves gets
frame room + k.  The engine for one device then migrates this machine, and the rows are
written back under their real numbers.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.state import frame, lanes, pte
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import BLANK, NOWHERE, Cpus, Geometry, Machine, Tlb
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window, flat


@pytree
class ShardTable:
    """The small machine, and the real numbers of what is on it."""

    m: Machine
    src: Lanes  # frame of each page, NOWHERE where there is none
    entries: Int32[Array, "maps lanes"]  # the entries of each page, first to last

    @property
    def lane(self) -> Lanes:
        """Each page's number here, NOWHERE where there is none."""
        index = jnp.arange(self.src.shape[0], dtype=jnp.int32)
        return jnp.where(self.src == NOWHERE, NOWHERE, index)

    @property
    def window(self) -> Window:
        """Its pages as the engine works on them."""
        return flat(self.lane, self.m.frame[: self.src.shape[0]])


def lay(
    src: Lanes,
    row: Int32[Array, "lanes 4"],
    conditions: Int32[Array, "lanes 4"] | None,
    entries: Int32[Array, "maps lanes"],
    words: Int32[Array, "maps lanes 2"],
    cpus: Cpus,
    shared: bool,
) -> ShardTable:
    """The small machine of these pages, with a free frame for each.

    Args:
      src: frame of each page; NOWHERE: none.
      row: their rows.
      conditions: their conditions; None: the machine has none.
      entries: numbers of the entries that map each page, in the order of its chain.
      words: both words of these entries.
      cpus: the real machine's.
      shared: whether a page may have several entries.
    Returns:
      The table.
    """
    maps, room = entries.shape
    index = jnp.arange(room, dtype=jnp.int32)
    there = entries != NOWHERE
    first = jnp.where(there[0], index, NOWHERE)
    rows = row.at[:, frame.RMAP].set(first)
    blank = jnp.broadcast_to(jnp.asarray(BLANK, jnp.int32), (room, 4))
    pfn = jnp.where(there, index[None], NOWHERE)
    small = jnp.stack([pfn, jnp.where(there, words[..., pte.BITS], 0)], axis=-1)
    number = jnp.arange(maps, dtype=jnp.int32)[:, None] * room + index[None]
    # The k-th entry of a page is followed by its (k + 1)-th, `room` numbers further on.
    following = jnp.where(there, number, NOWHERE)[1:].reshape(-1)
    end = jnp.full(room, NOWHERE, jnp.int32)
    # Not an array from outside: jaxlib 0.11.2 dies of one that shard_map does not use.
    nowhere = jnp.full((1, cpus.lazy.shape[0]), NOWHERE, jnp.int32)
    none_cached = Tlb(nowhere, nowhere, nowhere * 0, nowhere * 0)
    g = Geometry(2, room, (0,), (room,), maps * room, shared)
    m = Machine(
        frame=jnp.concatenate([rows, blank]),
        memory=None,
        pte=small.reshape(-1, 2),
        rmap_next=jnp.concatenate([following, end]),
        pmd_table=jnp.zeros(1, jnp.int32),
        # Popped from the top, frames come in ascending order.
        free=jnp.concatenate([index * 0, (2 * room - 1) - index]),
        top=jnp.asarray([[0], [room]], jnp.int32),
        nfree=jnp.asarray([0, room], jnp.int32),
        tlb=none_cached,
        huge_tlb=none_cached,
        cpus=cpus,
        conditions=None
        if conditions is None
        else jnp.concatenate([conditions, conditions * 0]),
        geometry=g,
    )
    return ShardTable(m, src, entries)


def rows_of(
    table: ShardTable, m: Machine, marked: Mask
) -> Int32[Array, "lanes columns"]:
    """Rows of the pages' old frames in `m`, conditions behind them if there are any.

    `marked`: pages whose frames get the mark of `tlbs.py`.
    """
    mark = jnp.where(marked, frame.FLUSHED, 0)
    return _rows(table, m, slice(0, table.src.shape[0]), mark)


def moved_rows(table: ShardTable, m: Machine) -> Int32[Array, "lanes columns"]:
    """Rows of the destination frames, in the order in which they were allocated."""
    return _rows(table, m, slice(table.src.shape[0], None), jnp.zeros_like(table.src))


def _rows(
    table: ShardTable, m: Machine, which: slice, mark: Lanes
) -> Int32[Array, "lanes columns"]:
    row = m.frame[which]
    # A moved frame's chain still begins with the page's own first entry.
    first = _pick(table.entries[0], row[:, frame.RMAP])
    refs, maps, flags = (
        row[:, i] for i in (frame.REFCOUNT, frame.MAPCOUNT, frame.FLAGS)
    )
    real = lanes.columns(refs, maps, flags | mark, first)
    if m.conditions is None:
        return real
    return jnp.concatenate([real, m.conditions[which]], axis=1)


def words_of(
    table: ShardTable, m: Machine, taken: Lanes
) -> tuple[Int32[Array, "entries 2"], Mask]:
    """The entries as they are in `m`, and which of them have changed.

    `taken`: real numbers of the destination frames, in the order of their allocation.
    """
    frames = jnp.concatenate([table.src, taken])
    real = lanes.columns(_pick(frames, m.pte[:, pte.PFN]), m.pte[:, pte.BITS])
    # Only entries that changed are sent to the shards that keep them.
    changed = (m.pte != table.m.pte).any(axis=1)
    return real, changed & (table.entries.reshape(-1) != NOWHERE)


def taken_in_order(dst: Lanes, takes: Mask) -> Lanes:
    """Destination frames of lanes, in the order of their allocation; NOWHERE behind."""
    none = jnp.full_like(dst, NOWHERE)
    return lanes.scatter(none, lanes.rank(takes), takes, dst)


def _pick(values: Lanes, index: Lanes) -> Lanes:
    return values.at[index].get(mode="fill", fill_value=NOWHERE)
