"""The four phases on a window whose plan is made.

Source: migrate_pages_batch() in mm/migrate.c; movable_ops of the drivers that own
non-LRU pages; zap_pte_range() for pages that their process let go.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import jax.numpy as jnp
from jaxtyping import Array

from jaxmig import frame, pte, xla
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc, copypage, lanes, remap, unmap
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.policy import outcomes as oc
from jaxmig.policy.folio import Where
from jaxmig.policy.look import Seen
from jaxmig.policy.plan import Left, Plan
from jaxmig.phases.window import Window

PHASES: Final = ("unmap", "flush", "copy", "remap")
Flush = Callable[[Machine], Machine]


def apply(
    m: Machine,
    w: Window,
    seen: Seen,
    p: Plan,
    at: Where,
    flush: Flush,
    upto: str = PHASES[-1],
) -> Machine:
    """Unmap, flush, copy and remap the folios of a window.

    Args:
      seen: what the page tables say of the pages, as they are.
      flush: the flush of what was unmapped.
      upto: the last phase that is done.
    """
    found = Known(w.page_row, seen.words)
    movable = frame.kind(w.flags) == frame.MOVABLE_OPS
    folios = (p.unmaps > 0) & ~movable
    refusals = p.number(oc.REFUSALS, 0) + p.number(oc.REFUSALS, 1)
    refused = (refusals > 0) & ~folios
    last = PHASES.index(upto)
    m, dst = alloc.take_many(m, at.node, w, p.moved)
    m, known = unmap.unmap(m, w, found, folios, refused, p.lost)
    if last >= 1:
        m = flush(m)
    page = _destinations(w, dst)
    if last >= 2:
        m = copypage.copy(m, w.page, page)
    if last < 3:
        return m
    m = _keep_conditions(m, w.head, dst, p.left)
    gone = w.spread(p.gone)
    m = copypage.switch(m, w.page, page, known.row, gone)
    m = _follow_drivers(m, page, w.spread(p.moved & movable))
    now = jnp.where(page == NOWHERE, w.page, page)
    m = remap.remap(m, w, now, folios | refused, known)
    m = _zap(m, found, gone)
    return alloc.give_many(m, w, xla.after(w.head, dst), p.moved | p.gone)


def _destinations(w: Window, dst: Lanes) -> Lanes:
    """Where each base page goes; NOWHERE if its folio stays."""
    if not w.large:
        return dst
    step = w.spread(jnp.where(dst == NOWHERE, NOWHERE, dst - w.head))
    return jnp.where((step == NOWHERE) | (w.page == NOWHERE), NOWHERE, w.page + step)


def _keep_conditions(m: Machine, src: Lanes, dst: Lanes, left: Left | None) -> Machine:
    """Conditions after all tests, where the folios are then.

    Rows of free frames are blank, and mostly nothing is left when a folio moves: the
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


def _zap(m: Machine, known: Known, gone: Mask) -> Machine:
    """Empty the entries of pages that are no more.

    `known`: rows and entries as they were found; those of such pages still are so.
    """

    def zap(m: Machine) -> Machine:
        entry = jnp.where(gone, known.row[:, RMAP], NOWHERE)

        def empty(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = lanes.entry_or(known.words, m, entry)
            nothing = jnp.full_like(entry, NOWHERE)
            new = jnp.stack([nothing, pte.empty(old[:, pte.BITS])], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, empty, (m, entry))[0]

    return xla.when(lanes.some(gone)[0], zap, m)
