"""Phase 3: contents and the folio's identity move to the destination frames.

Source: folio_migrate_mapping(), folio_copy(), folio_migrate_flags() in mm/migrate.c.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import frame, wall
from jaxmig.machine import NOWHERE, WORDS, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask

Index = Int32[Array, ""]
BLOCK: Final = 32  # frames: 128 KiB
PIECE: Final = 128  # words of a base page that are copied at a time
CACHED: Final = 128  # base pages: half a MiB, what stays in a second-level cache
TOGETHER: Final = 4  # base pages that are copied in turn


@jax.named_scope("folio_copy")
def copy_folio(m: Machine, src: Index, dst: Index, pages: Index) -> Machine:
    """Copy `pages` base pages (0: none) frame by frame."""
    if m.memory is None:
        return m

    def some(memory: Array, at: Index, step: int) -> Array:
        rows = wall.read(at, lambda: _rows(memory, src + at, step))
        return jax.lax.dynamic_update_slice_in_dim(memory, rows, dst + at, 0)

    return dataclasses.replace(m, memory=_neighbours(m, m.memory, pages, some))


def _blank(count: int) -> Array:
    return jnp.tile(jnp.asarray([[0, 0, 0, NOWHERE]], jnp.int32), (count, 1))


def _rows(array: Array, start: Index, step: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, step)


def _neighbours(
    m: Machine, array: Array, pages: Index, some: Callable[[Array, Index, int], Array]
) -> Array:
    """`some(array, first, count)` for all pages of a folio, BLOCK at a time if it can.

    More would not stay in a cache close by; one by one would cost a dispatch each.
    """
    done = jnp.int32(0)
    if 1 << m.geometry.orders[-1] >= BLOCK:
        whole = pages // BLOCK

        def block(i: Index, array: Array) -> Array:
            return some(array, i * BLOCK, BLOCK)

        array = jax.lax.fori_loop(0, whole, block, array)
        done = whole * BLOCK
    return jax.lax.fori_loop(done, pages, lambda i, array: some(array, i, 1), array)


@jax.named_scope("folio_migrate_mapping")
def switch_folio(m: Machine, src: Index, dst: Index, pages: Index) -> Machine:
    """Give the destination what the source was; the source's rows become free ones.

    `pages` 0: nothing happens.  Chains come along by their heads; the page cache's
    references are dst's from here on, and extra ones cannot exist any more.
    """

    def some(rows: Array, at: Index, step: int) -> Array:
        moved = wall.read(at, lambda: _rows(rows, src + at, step))
        rows = jax.lax.dynamic_update_slice_in_dim(rows, moved, dst + at, 0)
        return jax.lax.dynamic_update_slice_in_dim(rows, _blank(step), src + at, 0)

    m = dataclasses.replace(m, frame=_neighbours(m, m.frame, pages, some))
    return _switch_conditions(m, src, dst, pages)


def _switch_conditions(m: Machine, src: Index, dst: Index, pages: Index) -> Machine:
    c = m.conditions
    if c is None:
        return m

    def page(_: Index, rows: Array) -> Array:
        row = wall.read(src, lambda: rows[src])
        return wall.put(wall.put(rows, dst, row), src, row * 0)

    rows = jax.lax.fori_loop(0, jnp.minimum(pages, 1), page, c)
    return dataclasses.replace(m, conditions=rows)


def free_folio(m: Machine, head: Index, pages: Index) -> Machine:
    """Blank the rows of a folio that is no more (`pages` 0: none)."""

    def some(rows: Array, at: Index, step: int) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(rows, _blank(step), head + at, 0)

    m = dataclasses.replace(m, frame=_neighbours(m, m.frame, pages, some))
    c = m.conditions
    if c is None:
        return m
    row = wall.read(head, lambda: c[head])
    rows = wall.put(c, head, jnp.where(pages == 0, row, 0))
    return dataclasses.replace(m, conditions=rows)


@jax.named_scope("folio_copy")
def copy(m: Machine, src: Lanes, dst: Lanes, step: int) -> Machine:
    """Copy base pages; devices other than CPUs take `step` at a time.

    Lanes without a destination stay as they are.
    """
    if m.memory is None:
        return m

    def rows(memory: Array, src: Lanes, dst: Lanes) -> Array:
        return _by_rows(memory, src, dst, step)

    cpu = _on_cpu if wall.MARKS else functools.partial(_by_rows, step=CACHED)
    memory = jax.lax.platform_dependent(m.memory, src, dst, cpu=cpu, default=rows)
    return dataclasses.replace(m, memory=memory)


def _by_rows(memory: Array, src: Lanes, dst: Lanes, step: int) -> Array:
    """Gather and scatter; slices clamp, so the last step may copy pages again."""
    count = src.shape[0]
    step = min(step, count)

    def some(i: Index, memory: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(src, i * step, step)
        there = jax.lax.dynamic_slice_in_dim(dst, i * step, step)
        rows = wall.read(here, lambda: lanes.rows(memory, here))
        return lanes.scatter(memory, there, there != NOWHERE, rows)

    return jax.lax.fori_loop(0, -(-count // step), some, memory)


@jax.custom_batching.custom_vmap
def _on_cpu(memory: Array, src: Lanes, dst: Lanes) -> Array:
    last = jnp.where(dst == NOWHERE, 0, jnp.arange(1, dst.shape[0] + 1)).max()
    here = jnp.where(src == NOWHERE, 0, src)
    # A page that stays is copied onto itself: a branch would cost more.
    there = jnp.where(dst == NOWHERE, here, dst)
    return wall.whole(_by_pieces, memory, here, there, last)


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

        for page, words in zip(there, wall.read(here[0], reads), strict=True):
            memory = jax.lax.dynamic_update_slice(memory, words, (page, word))
        return memory

    return jax.lax.fori_loop(0, -(-count // TOGETHER) * pieces, some, memory)


@jax.named_scope("folio_migrate_mapping")
def switch(m: Machine, src: Lanes, dst: Lanes, known: Known | None = None) -> Machine:
    """Give base pages `dst` what `src` was; lanes without a destination stay."""
    if known is None:
        row = wall.read(src, lambda: lanes.rows(m.frame, src))
    else:
        row = known.row
    where = dst != NOWHERE
    rows = lanes.scatter(m.frame, dst, where, row)
    blank = jnp.broadcast_to(jnp.asarray([0, 0, 0, NOWHERE], jnp.int32), row.shape)
    m = dataclasses.replace(m, frame=lanes.scatter(rows, src, where, blank))
    c = m.conditions
    if c is None:
        return m
    where &= frame.has(row[:, frame.FLAGS], frame.CONDITIONED)
    rows = None if known is None else known.states
    if rows is None:
        at = jnp.where(where, src, NOWHERE)
        rows = wall.read(at, lambda: lanes.rows(c, at))
    new = lanes.scatter(lanes.scatter(c, dst, where, rows), src, where, rows * 0)
    return dataclasses.replace(m, conditions=new)


def free(m: Machine, src: Lanes, where: Mask) -> Machine:
    """Blank the rows of base pages that are no more."""
    blank = jnp.asarray([0, 0, 0, NOWHERE], jnp.int32)
    rows = jnp.broadcast_to(blank, (src.shape[0], 4))
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, src, where, rows))
    c = m.conditions
    if c is None:
        return m
    none = jnp.zeros((src.shape[0], c.shape[1]), jnp.int32)
    return dataclasses.replace(m, conditions=lanes.scatter(c, src, where, none))
