"""The four phases of a batched call, on a chunk whose fates are known.

Source: migrate_pages_batch() in mm/migrate.c; movable_ops of the drivers that own
non-LRU pages; zap_pte_range() for pages that their process let go.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from jaxmig import pte, xla
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc, copypage, lanes, remap, unmap
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.policy.folio import Where
from jaxmig.policy.plan import Left, Listed, Plan


def apply(
    m: Machine,
    src: Lanes,
    known: Known,
    p: Plan,
    f: Listed,
    at: Where,
    again: Mask | None = None,
) -> Machine:
    """The four phases on the arrays.

    `again`: pages whose entries were flushed and will be put back as they were.
    """
    found = known
    m, known = unmap.unmap(m, src, known, p.unmapped & ~f.movable, p.lost)
    moved, freed = p.moved & ~p.released, p.freed | p.released
    m, dst = alloc.take_many(m, at.node, moved)
    m = _keep_conditions(m, src, dst, p.left)
    m = copypage.copy(m, src, dst)
    m = copypage.switch(m, src, dst, known, freed)
    m = _follow_drivers(m, dst, moved & f.movable)
    back = p.unmapped & ~p.released  # a released page's row is blank
    m = remap.remap(m, jnp.where(moved, dst, src), back, known, again)
    m = _zap(m, found, freed)
    return alloc.give_many(m, xla.after(src, dst), moved | freed)


def _keep_conditions(m: Machine, src: Lanes, dst: Lanes, left: Left | None) -> Machine:
    """Conditions after all tests, where the pages are then.

    Rows of free frames are blank, and mostly nothing is left when a page moves: the
    new row need not be written then.
    """
    if left is None or m.conditions is None:
        return m
    lane = left.lane
    some = lane != NOWHERE
    rows = lanes.scatter(m.conditions, lanes.rows(src, lane), some, left.stays)

    def follow(rows: Array) -> Array:
        return lanes.scatter(rows, lanes.rows(dst, lane), some, left.goes)

    rows = xla.when(left.some_go, follow, rows)
    return dataclasses.replace(m, conditions=rows)


def _follow_drivers(m: Machine, dst: Lanes, where: Mask) -> Machine:
    """A driver points the users of its pages at the new ones; no rmap is walked."""
    if m.conditions is None:
        return m

    def follow(m: Machine) -> Machine:
        row = xla.read(dst, lambda: lanes.rows(m.frame, dst))
        entry = jnp.where(where, row[:, RMAP], NOWHERE)

        def point(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = xla.read(entry, lambda: lanes.entry_of(m, entry))
            new = jnp.stack([dst, old[:, pte.BITS]], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, point, (m, entry))[0]

    return xla.when(lanes.some(where)[0], follow, m)


def _zap(m: Machine, known: Known, freed: Mask) -> Machine:
    """Empty the entries of pages that are no more.

    `known`: rows and entries as they were found; those of such pages still are so.
    """

    def zap(m: Machine) -> Machine:
        entry = jnp.where(freed, known.row[:, RMAP], NOWHERE)

        def empty(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = lanes.entry_or(known.words, m, entry)
            nothing = jnp.full_like(entry, NOWHERE)
            new = jnp.stack([nothing, pte.empty(old[:, pte.BITS])], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, empty, (m, entry))[0]

    return xla.when(lanes.some(freed)[0], zap, m)
