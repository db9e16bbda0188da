"""Phase 3: contents and the folio's identity move to the destination frames.

Source: folio_migrate_mapping(), folio_copy(), folio_migrate_flags() in mm/migrate.c.
"""

import dataclasses
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, UInt32

from jaxmig import frame, wall
from jaxmig.machine import NOWHERE, Geometry, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def move_folio(
    g: Geometry,
    rows: Int32[Array, "frames 4"],
    memory: UInt32[Array, "frames 1024"] | None,
    src: Index,
    dst: Index,
    order: Index,
    live: Flag,
) -> tuple[Array, Array | None]:
    """Contents and identity of a folio move to `dst`, if `live`; `src` is blank then.

    Chains come along by their heads; the page cache's references are dst's from here
    on, and extra ones cannot exist any more.  Each order has a block of its own size,
    so that a folio is one read and one write whatever its size.
    """
    for o in g.orders:

        def whole(c: tuple, size: int = 1 << o) -> tuple[Array, Array | None]:
            return _move(*c, src, dst, size)

        rows, memory = wall.when(live & (order == o), whole, (rows, memory))
    return rows, memory


@jax.named_scope("folio_copy")
def _move(
    rows: Array, memory: Array | None, src: Index, dst: Index, size: int
) -> tuple[Array, Array | None]:
    moved = wall.read(src, lambda: _slice(rows, src, size))
    rows = jax.lax.dynamic_update_slice_in_dim(rows, moved, dst, 0)
    # The copy of the rows must be read before the blanks are written.
    src = wall.after(src, moved)
    rows = jax.lax.dynamic_update_slice_in_dim(rows, _blank(size), src, 0)
    if memory is None:
        return rows, None
    block = wall.read(src, lambda: _slice(memory, src, size))
    return rows, jax.lax.dynamic_update_slice_in_dim(memory, block, dst, 0)


def _blank(count: int) -> Array:
    return jnp.tile(jnp.asarray([[0, 0, 0, NOWHERE]], jnp.int32), (count, 1))


def _slice(array: Array, start: Index, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, start, size)


def free_folio(rows: Array, head: Index, pages: Index) -> Array:
    """Blank the rows of a folio that is no more (`pages` 0: none)."""

    def page(i: Index, rows: Array) -> Array:
        return wall.put(rows, head + i, _blank(1)[0])

    return jax.lax.fori_loop(0, pages, page, rows)


@jax.named_scope("folio_copy")
def copy(m: Machine, src: Lanes, dst: Lanes, step: int) -> Machine:
    """Copy base pages, `step` at a time: more at once would not fit the cache."""
    if m.memory is None:
        return m
    count = src.shape[0]
    step = min(step, count)

    def some(i: Index, memory: Array) -> Array:
        here = jax.lax.dynamic_slice_in_dim(src, i * step, step)
        there = jax.lax.dynamic_slice_in_dim(dst, i * step, step)
        rows = wall.read(here, lambda: lanes.rows(memory, here))
        return lanes.scatter(memory, there, there != NOWHERE, rows)

    # Slices clamp: the last step may copy again what the one before it copied.
    memory = jax.lax.fori_loop(0, -(-count // step), some, m.memory)
    return dataclasses.replace(m, memory=memory)


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
