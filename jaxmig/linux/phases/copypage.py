"""Phase 3: contents and the folio's identity move to the destination frames.

Source: folio_migrate_mapping(), folio_copy(), folio_migrate_flags() in mm/migrate.c.
"""

import dataclasses
import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.state import lanes, xla
from jaxmig.state.lanes import Lanes
from jaxmig.state.machine import BLANK, NOWHERE, WORDS, Machine
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Pairs = Int32[Array, "room 2"]
PIECE: Final = 128  # words of a base page that are copied at a time
CACHED: Final = 128  # base pages: half a MiB, what stays in a second-level cache
GATHERED: Final = 1 << 16  # base pages that other devices gather at a time
TOGETHER: Final = 4  # base pages that are copied in turn


@pytree
class Copies:
    """Contents that are still to be copied, by order of their folios.

    While a call goes on nobody else looks at memory: copying one after the other what
    was moved one after the other leaves the same bytes, whenever it is done.  The loop
    that keeps the books then touches little, and the copy is a loop of its own.  Blocks
    of two orders never overlap, but for pieces of a split folio, which are only read.
    """

    pairs: Int32[Array, "orders*room 2"]  # source and destination
    count: Int32[Array, " orders"]

    @property
    def room(self) -> int:
        """Folios of one order that can wait."""
        return self.pairs.shape[0] // self.count.shape[0]

    @property
    def full(self) -> Flag:
        """Whether one more might not fit."""
        return (self.count >= self.room).any()

    def add(self, pool: Index, src: Index, dst: Index, when: Flag) -> "Copies":
        """These and one more, if `when`; there must be room."""
        mine = jnp.arange(self.count.shape[0]) == pool
        at = pool * self.room + jnp.where(mine, self.count, 0).sum(dtype=jnp.int32)
        pair = jnp.where(jnp.arange(2) == 0, src, dst)
        return Copies(xla.put(self.pairs, at, pair), self.count + (mine & when))


def no_copies(orders: int, room: int) -> Copies:
    """Nothing to copy yet, `room` folios of each order."""
    pairs = jnp.zeros((orders * room, 2), jnp.int32)
    return Copies(pairs, jnp.zeros(orders, jnp.int32))


@jax.named_scope("folio_copy")
def copy_folios(orders: tuple[int, ...], memory: Array, copies: Copies) -> Array:
    """Copy what waits, folio after folio."""
    for k, order in enumerate(orders):
        pairs = jax.lax.slice_in_dim(
            copies.pairs, k * copies.room, (k + 1) * copies.room
        )
        blocks, in_turn = _blocks(1 << order)
        cpu = in_turn if xla.marks() else blocks
        memory = jax.lax.platform_dependent(
            memory, pairs, copies.count[k], cpu=cpu, default=blocks
        )
    return memory


@functools.cache
def _blocks(size: int) -> tuple[Any, Any]:
    """Copies of folios of `size` pages: each in one piece, and as a CPU likes it."""

    def blocks(memory: Array, pairs: Pairs, count: Index) -> Array:
        def one(i: Index, memory: Array) -> Array:
            at = xla.read(i, lambda: pairs[i])
            block = xla.read(at, lambda: _slice(memory, at[0], size))
            return jax.lax.dynamic_update_slice_in_dim(memory, block, at[1], 0)

        return jax.lax.fori_loop(0, count, one, memory)

    def pieces(memory: Array, pairs: Pairs, count: Index) -> Array:
        # What is read waits in registers and in the first-level cache to be written.
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
    """Give `dst` what `src` was, if `live`; the rows of `src` are blank then.

    Chains come along by their heads; the page cache's references are dst's from here
    on, and extra ones cannot exist any more.  Each order has a block of its own size.
    """
    for o in orders:

        def whole(rows: Array, size: int = 1 << o) -> Array:
            moved = xla.read(src, lambda: _slice(rows, src, size))
            rows = jax.lax.dynamic_update_slice_in_dim(rows, moved, dst, 0)
            return jax.lax.dynamic_update_slice_in_dim(rows, blank(size), src, 0)

        rows = xla.when(live & (order == o), whole, rows)
    return rows


def blank(count: int) -> Array:
    return jnp.tile(jnp.asarray([BLANK], jnp.int32), (count, 1))


def _slice(array: Array, start: Index, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size)


def free_folio(rows: Array, head: Index, pages: Index) -> Array:
    """Blank the rows of a folio that is no more (`pages` 0: none)."""

    def page(i: Index, rows: Array) -> Array:
        return xla.put(rows, head + i, blank(1)[0])

    return jax.lax.fori_loop(0, pages, page, rows)


@jax.named_scope("folio_copy")
def copy(m: Machine, src: Lanes, dst: Lanes) -> Machine:
    """Copy base pages.

    Lanes without a destination stay as they are.
    """
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
    # Whoever has no GPU need not wait until it is loaded.
    from jaxmig.linux.phases.gpucopy import copy_pages

    return copy_pages(memory, src, dst)


@_on_gpu.def_vmap
def _many_on_gpu(
    _: int, batched: list[bool], memory: Array, src: Lanes, dst: Lanes
) -> tuple[Array, bool]:
    # The kernel knows of one memory.
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
    # A page that stays is copied onto itself: a branch would cost more.  Lanes without a
    # page do so with one of the list: frame 0 might be somebody's destination.
    here = jnp.where(src == NOWHERE, src.min(), src)
    there = jnp.where(dst == NOWHERE, here, dst)
    return xla.whole(_by_pieces, memory, here, there, last)


@_on_cpu.def_vmap
def _many_on_cpu(
    _: int, batched: list[bool], memory: Array, src: Lanes, dst: Lanes
) -> tuple[Array, bool]:
    # Slices at indices of their own would become scatters, which may not be whole.
    axes = tuple(0 if b else None for b in batched)
    rows = functools.partial(_by_rows, step=CACHED)
    return jax.vmap(rows, in_axes=axes)(memory, src, dst), True


def _by_pieces(memory: Array, src: Lanes, dst: Lanes, count: Index) -> Array:
    """Copy 512 bytes at a time of TOGETHER pages.

    Reads and writes overlap only if little is read before it is written, and the first
    lines of one page need not wait for those of another.
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
