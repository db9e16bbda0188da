"""Phase 3: contents and rows of folios move to the destination frames.

Source: folio_migrate_mapping(), folio_copy(), folio_migrate_flags() in mm/migrate.c.
"""

import dataclasses
import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.state import lanes, xla
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import BLANK, NOWHERE, WORDS, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Pairs = Int32[Array, "room 2"]
PIECE: Final = 128  # words of a base page that are copied at a time
CACHED: Final = 128  # base pages of a gather: half a MiB stays in a CPU's L2 cache
GATHERED: Final = 1 << 16  # base pages of a gather on other devices
TOGETHER: Final = 4  # base pages whose pieces are copied alternately


@pytree
class Copies:
    """Contents that are still to be copied, by order of their folios.

    Nothing else reads memory during a call: copies that are done later, in the order of
    the moves, leave the same bytes.  The loop over folios then needs no contents, and the
    copies run in a loop of their own.  Blocks of two orders overlap only in pieces of a
    split folio, which are sources, never destinations.
    """

    pairs: Int32[Array, "orders*room 2"]  # head frames: source and destination
    count: Int32[Array, " orders"]  # folios that wait

    @property
    def room(self) -> int:
        """The most folios of one order that can wait."""
        return self.pairs.shape[0] // self.count.shape[0]

    @property
    def full(self) -> Flag:
        """Whether one more folio of some order would not fit."""
        return (self.count >= self.room).any()

    def add(self, pool: Index, src: Index, dst: Index, when: Flag) -> "Copies":
        """These and one more; there must be room.

        Args:
          pool: int32, number of the folio's order.
          src, dst: int32, head frames.
          when: whether there is one; if not, nothing changes.
        Returns:
          The copies that wait.
        """
        mine = jnp.arange(self.count.shape[0]) == pool
        at = pool * self.room + jnp.where(mine, self.count, 0).sum(dtype=jnp.int32)
        pair = jnp.where(jnp.arange(2) == 0, src, dst)
        return Copies(xla.put(self.pairs, at, pair), self.count + (mine & when))


def no_copies(orders: int, room: int) -> Copies:
    """Nothing to copy yet, `room` folios of each order."""
    pairs = jnp.zeros((orders * room, 2), jnp.int32)
    return Copies(pairs, jnp.zeros(orders, jnp.int32))


def blocks_of(window: Window, dst: Lanes, gone: Mask) -> Copies | None:
    """The large folios of a window that leave their frames as blocks.

    Args:
      dst: int32[lanes], the folios' new head frames; NOWHERE: they do not move.
      gone: bool[lanes], folios that are freed.
    Returns:
      Their old heads and new ones, a freed one's twice the old; None: the window has no
      blocks.
    """
    if window.block is None:
        return None
    leave = window.there & window.block & ((dst != NOWHERE) | gone)
    (count,) = lanes.totals(leave)

    def picked() -> Pairs:
        to = jnp.where(dst == NOWHERE, window.head, dst)
        return lanes.rows(lanes.columns(window.head, to), lanes.pick(leave))

    none = jnp.zeros((dst.shape[0], 2), jnp.int32)
    return Copies(jax.lax.cond(count > 0, picked, lambda: none), count[None])


@jax.named_scope("folio_migrate_mapping")
def move_blocks(order: int, rows: Int32[Array, "frames 4"], moves: Copies) -> Array:
    """Move the rows of whole folios; those that they leave become blank.

    Args:
      order: of the folios.
      rows: Machine.frame.
      moves: old and new head frames; the same twice: rows become blank.
    Returns:
      int32[frames, 4].
    Source: folio_migrate_mapping(), folio_migrate_flags() in mm/migrate.c.
    """
    size = 1 << order

    def one(i: Index, rows: Array) -> Array:
        at = xla.read(i, lambda: xla.row(moves.pairs, i))
        block = xla.read(at, lambda: _slice(rows, at[0], size))
        rows = jax.lax.dynamic_update_slice_in_dim(rows, block, at[1], 0)
        return jax.lax.dynamic_update_slice_in_dim(rows, blank(size), at[0], 0)

    return jax.lax.fori_loop(0, moves.count[0], one, rows)


@jax.named_scope("folio_copy")
def copy_folios(orders: tuple[int, ...], memory: Array, copies: Copies) -> Array:
    """Copy the folios that wait, one after the other (folio_copy() in mm/util.c)."""
    for k, order in enumerate(orders):
        room = copies.room
        pairs = jax.lax.slice_in_dim(copies.pairs, k * room, (k + 1) * room)
        blocks, in_turn = _blocks(1 << order)
        cpu = in_turn if xla.marks() else blocks
        memory = jax.lax.platform_dependent(
            memory, pairs, copies.count[k], cpu=cpu, default=blocks
        )
    return memory


@functools.cache
def _blocks(size: int) -> tuple[Any, Any]:
    """Two loops that copy folios of `size` pages: whole folios, and pieces for a CPU."""

    def blocks(memory: Array, pairs: Pairs, count: Index) -> Array:
        def one(i: Index, memory: Array) -> Array:
            at = xla.read(i, lambda: xla.row(pairs, i))
            block = xla.read(at, lambda: _slice(memory, at[0], size))
            return jax.lax.dynamic_update_slice_in_dim(memory, block, at[1], 0)

        return jax.lax.fori_loop(0, count, one, memory)

    def pieces(memory: Array, pairs: Pairs, count: Index) -> Array:
        # A piece is written while it is in registers and the first-level cache.
        each = size * (WORDS // PIECE)

        def one(i: Index, memory: Array) -> Array:
            # Powers of two, unsigned: shifts and masks instead of divisions.
            i = i.astype(jnp.uint32)
            page = (i % each // (WORDS // PIECE)).astype(jnp.int32)
            word = (i % (WORDS // PIECE) * PIECE).astype(jnp.int32)
            at = pairs[i // each]
            there = (at[0] + page, word)
            read = xla.read(
                at, lambda: jax.lax.dynamic_slice(memory, there, (1, PIECE))
            )
            return jax.lax.dynamic_update_slice(memory, read, (at[1] + page, word))

        return jax.lax.fori_loop(0, count * each, one, memory)

    @jax.custom_batching.custom_vmap
    def in_turn(memory: Array, pairs: Pairs, count: Index) -> Array:
        return xla.whole(pieces, memory, pairs, count)

    @in_turn.def_vmap
    def many(
        _: int, batched: list[bool], memory: Array, pairs: Pairs, count: Index
    ) -> tuple[Array, bool]:
        axes = tuple(0 if b else None for b in batched)
        return jax.vmap(blocks, in_axes=axes)(memory, pairs, count), True

    return blocks, in_turn


@jax.named_scope("folio_migrate_mapping")
def move_rows(
    orders: tuple[int, ...],
    rows: Int32[Array, "frames 4"],
    src: Index,
    dst: Index,
    order: Index,
    live: Flag,
) -> Array:
    """Move a folio's rows to its destination; those of `src` become blank.

    The rows hold the first entries of its rmap chains and the references of the page
    cache; a folio with extra references is never moved.

    Args:
      orders: those of the machine's folios: a block of rows has the size of one.
      rows: Machine.frame.
      src, dst: int32, head frames.
      order: int32, the folio's.
      live: whether it moves; if not, nothing changes.
    Returns:
      int32[frames, 4].
    Source: folio_migrate_mapping(), folio_migrate_flags() in mm/migrate.c.
    """
    for o in orders:

        def whole(rows: Array, size: int = 1 << o) -> Array:
            moved = xla.read(src, lambda: _slice(rows, src, size))
            rows = jax.lax.dynamic_update_slice_in_dim(rows, moved, dst, 0)
            return jax.lax.dynamic_update_slice_in_dim(rows, blank(size), src, 0)

        rows = xla.when(live & (order == o), whole, rows)
    return rows


def blank(count: int) -> Array:
    """int32[count, 4], rows of free frames."""
    return jnp.tile(jnp.asarray([BLANK], jnp.int32), (count, 1))


def _slice(array: Array, start: Index, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size)


def free_folio(rows: Array, head: Index, pages: Index) -> Array:
    """Blank the rows of a folio that was freed; 0 pages: of none."""

    def page(i: Index, rows: Array) -> Array:
        return xla.put(rows, head + i, blank(1)[0])

    return jax.lax.fori_loop(0, pages, page, rows)


@jax.named_scope("folio_copy")
def copy(m: Machine, src: Lanes, dst: Lanes) -> Machine:
    """Copy base pages; lanes without a destination are not copied."""
    if m.memory is None:
        return m

    cpu = _on_cpu if xla.marks() else functools.partial(_by_rows, step=CACHED)
    elsewhere = functools.partial(_by_rows, step=GATHERED)
    own = {"cuda": _on_gpu} if xla.kernels() else {}
    memory = jax.lax.platform_dependent(
        m.memory, src, dst, cpu=cpu, default=elsewhere, **own
    )
    return dataclasses.replace(m, memory=memory)


@jax.custom_batching.custom_vmap
def _on_gpu(memory: Array, src: Lanes, dst: Lanes) -> Array:
    # Imported here: Pallas takes time to load, and needs a GPU.
    from jaxmig.linux.phases.gpucopy import copy_pages

    return copy_pages(memory, src, dst)


@_on_gpu.def_vmap
def _many_on_gpu(
    _: int, batched: list[bool], memory: Array, src: Lanes, dst: Lanes
) -> tuple[Array, bool]:
    # The kernel has no batched form.
    axes = tuple(0 if b else None for b in batched)
    rows = functools.partial(_by_rows, step=GATHERED)
    return jax.vmap(rows, in_axes=axes)(memory, src, dst), True


def _by_rows(memory: Array, src: Lanes, dst: Lanes, step: int) -> Array:
    """Gather and scatter; slices clamp, so the last step may copy pages again."""
    count = src.shape[0]
    step = min(step, count)

    def some(i: Index, memory: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(src, i * step, step)
        there = jax.lax.dynamic_slice_in_dim(dst, i * step, step)
        rows = xla.read(here, lambda: lanes.rows(memory, here))
        return lanes.scatter(memory, there, there != NOWHERE, rows)

    return jax.lax.fori_loop(0, -(-count // step), some, memory)


@jax.custom_batching.custom_vmap
def _on_cpu(memory: Array, src: Lanes, dst: Lanes) -> Array:
    last = jnp.where(dst == NOWHERE, 0, jnp.arange(1, dst.shape[0] + 1)).max()
    # A page that stays is copied onto itself: a branch would cost more.  Padding lanes copy
    # a source page onto itself: frame 0 might be a destination of another lane.
    here = jnp.where(src == NOWHERE, src.min(), src)
    there = jnp.where(dst == NOWHERE, here, dst)
    return xla.whole(_by_pieces, memory, here, there, last)


@_on_cpu.def_vmap
def _many_on_cpu(
    _: int, batched: list[bool], memory: Array, src: Lanes, dst: Lanes
) -> tuple[Array, bool]:
    # vmap turns slices into scatters, which `xla.whole` must not hold.
    axes = tuple(0 if b else None for b in batched)
    rows = functools.partial(_by_rows, step=CACHED)
    return jax.vmap(rows, in_axes=axes)(memory, src, dst), True


def _by_pieces(memory: Array, src: Lanes, dst: Lanes, count: Index) -> Array:
    """Copy 512 bytes at a time of each of TOGETHER pages.

    Short pieces let reads and writes overlap, and the cache misses at the beginning of
    several pages are in flight together.
    """
    pieces = WORDS // PIECE

    def some(i: Index, memory: Array) -> Array:
        # Powers of two, unsigned: shifts and masks instead of divisions.
        i = i.astype(jnp.uint32)
        first = i // pieces * TOGETHER
        word = (i % pieces * PIECE).astype(jnp.int32)
        here, there = (
            [pages[first + n] for n in range(TOGETHER)] for pages in (src, dst)
        )

        def reads() -> list[Array]:
            at = [(page, word) for page in here]
            return [jax.lax.dynamic_slice(memory, x, (1, PIECE)) for x in at]

        for page, words in zip(there, xla.read(here[0], reads), strict=True):
            memory = jax.lax.dynamic_update_slice(memory, words, (page, word))
        return memory

    return jax.lax.fori_loop(0, -(-count // TOGETHER) * pieces, some, memory)
