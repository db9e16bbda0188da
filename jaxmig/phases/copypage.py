"""Phase 3: contents and the folio's identity move to the destination frames.

Source: folio_migrate_mapping(), folio_copy(), folio_migrate_flags() in mm/migrate.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import frame, wall
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask

Index = Int32[Array, ""]


@jax.named_scope("folio_copy")
def copy_folio(m: Machine, src: Index, dst: Index, pages: Index) -> Machine:
    """Copy `pages` base pages (0: none) frame by frame."""
    if m.memory is None:
        return m

    def page(i: Index, memory: Array) -> Array:
        row = wall.read(i, lambda: memory[src + i])
        return wall.put(memory, dst + i, row)

    return dataclasses.replace(m, memory=jax.lax.fori_loop(0, pages, page, m.memory))


@jax.named_scope("folio_migrate_mapping")
def switch_folio(m: Machine, src: Index, dst: Index, pages: Index) -> Machine:
    """Give the destination what the source was; the source's rows become free ones.

    `pages` 0: nothing happens.  Chains come along by their heads; the page cache's
    references are dst's from here on, and extra ones cannot exist any more.
    """
    blank = jnp.asarray([0, 0, 0, NOWHERE], jnp.int32)

    def page(i: Index, rows: Array) -> Array:
        row = wall.read(i, lambda: rows[src + i])
        rows = wall.put(rows, dst + i, row)
        return wall.put(rows, src + i, blank)

    m = dataclasses.replace(m, frame=jax.lax.fori_loop(0, pages, page, m.frame))
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
    blank = jnp.asarray([0, 0, 0, NOWHERE], jnp.int32)

    def page(i: Index, rows: Array) -> Array:
        return wall.put(rows, head + i, blank)

    m = dataclasses.replace(m, frame=jax.lax.fori_loop(0, pages, page, m.frame))
    c = m.conditions
    if c is None:
        return m
    row = wall.read(head, lambda: c[head])
    rows = wall.put(c, head, jnp.where(pages == 0, row, 0))
    return dataclasses.replace(m, conditions=rows)


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
