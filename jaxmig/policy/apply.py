"""The four phases on a window whose plan is made.

Source: migrate_pages_batch() in mm/migrate.c; movable_ops of the drivers that own
non-LRU pages; zap_pte_range() for pages that their process let go.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, pte, xla
from jaxmig.frame import FLAGS, RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import (
    alloc,
    copypage,
    flush as flushing,
    lanes,
    remap as remapping,
    unmap as unmapping,
)
from jaxmig.phases.flush import Asked
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.phases.unmap import Held
from jaxmig.phases.window import Window
from jaxmig.policy.folio import Where
from jaxmig.policy.look import Mapped, Seen
from jaxmig.policy.plan import Left, Pages, Plan
from jaxmig.pytree import pytree, static
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@pytree
class Batch:
    """Folios on their way: a window of them, whatever batches they belong to."""

    w: Window
    plan: Plan
    pages: Pages
    held: Held  # what unmapping makes of the heads' rows
    found: Known  # rows and entries of the pages before the first phase
    known: Known  # as they are now
    dst: Lanes  # where each folio goes; NOWHERE: it stays
    page: Lanes  # where each base page goes
    asked: Asked  # the flushes
    emptied: Bool[Array, " cpus"]  # CPUs that an earlier flush has emptied
    seen: bool = static()  # somebody looks at the machine between two phases


def prepare(
    m: Machine,
    w: Window,
    known: tuple[Seen, Mapped, Plan, Pages, Asked, Bool[Array, " cpus"]],
    at: Where,
    ready: Bool[Array, ""],
    seen_inside: bool = False,
) -> tuple[Machine, Batch]:
    """A window whose folios have frames to go to.

    Args:
      known: of the window what the page tables say, its plan, both by page and by folio,
        and the flushes it asks for; CPUs that the call has emptied before.
      ready: true, once all that is read of the page tables has been read.
      seen_inside: somebody looks at the machine between two phases.
    """
    seen, mapped, p, pages, asked, emptied = known
    pages = dataclasses.replace(
        pages, unmapped=pages.unmapped & ready, refused=pages.refused & ready
    )
    m, dst = alloc.take_many(m, at.node, w, p.moved)
    found = Known(w.page_row, seen.words)
    step = jnp.where(dst == NOWHERE, NOWHERE, dst - w.head)
    maps, lost, step = w.spread(mapped.maps << 1 | mapped.dirty, p.lost, step)
    stays = (step == NOWHERE) | (w.page == NOWHERE)
    page = jnp.where(stays, NOWHERE, w.page + step)
    heads = (jnp.where(w.is_head, x, 0) for x in (maps >> 1, lost))
    held = Held(*heads, dirty=(maps & 1) > 0)
    return m, Batch(
        w, p, pages, held, found, found, dst, page, asked, emptied, seen_inside
    )


def unmap(r: Rules, m: Machine, b: Batch) -> tuple[Machine, Batch]:
    """Phase 1: migration entries."""
    pages = (b.pages.unmapped, b.pages.refused)
    m, known = unmapping.unmap(m, b.w, b.known, pages, b.held, b.seen)
    return m, dataclasses.replace(b, known=known)


def flush(r: Rules, m: Machine, b: Batch) -> tuple[Machine, Batch]:
    """Phase 2: CPUs drop what is stale now."""
    m = flushing.drop(r, m, b.asked, b.emptied)
    # What is written next must not overtake the flush, which has read the page table.
    dst, page = (
        xla.after(xla.after(x, m.tlb.entry[0, 0]), m.huge_tlb.entry[0, 0])
        for x in (b.dst, b.page)
    )
    return m, dataclasses.replace(b, dst=dst, page=page)


def copy(r: Rules, m: Machine, b: Batch) -> tuple[Machine, Batch]:
    """Phase 3: contents."""
    return copypage.copy(m, b.w.page, b.page), b


def remap(r: Rules, m: Machine, b: Batch) -> tuple[Machine, Batch]:
    """Phase 4: identity and entries, to the destination or back; old frames are free."""
    w, p, pages = b.w, b.plan, b.pages
    m = _keep_conditions(m, w.head, b.dst, p.left)
    m = _follow_drivers(m, b)
    those = (pages.unmapped, pages.refused, pages.gone)
    m = remapping.remap(m, w.page, b.page, those, b.known, b.held)
    m = _zap(m, b.found, pages.gone)
    m = alloc.give_many(m, w, xla.after(w.head, b.dst), p.moved | p.gone)
    return m, b


Phase = Callable[[Rules, Machine, Batch], tuple[Machine, Batch]]
PHASES: Final[dict[str, Phase]] = {
    "unmap": unmap,
    "flush": flush,
    "copy": copy,
    "remap": remap,
}


def apply(r: Rules, m: Machine, b: Batch, upto: Index | None = None) -> Machine:
    """The phases; all of them, or up to and with the one of a number."""
    for number, phase in enumerate(PHASES.values()):
        done, b = phase(r, m, b)
        m = done if upto is None else _chosen(number <= upto, done, m)
    return m


def _chosen(pred: Bool[Array, ""], new: Machine, old: Machine) -> Machine:
    return jax.tree.map(lambda x, y: jnp.where(pred, x, y), new, old)


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


def _follow_drivers(m: Machine, b: Batch) -> Machine:
    """A driver points the users of its pages at the new ones; no rmap is walked."""
    if m.conditions is None:
        return m
    movable = frame.kind(b.w.page_row[:, FLAGS]) == frame.MOVABLE_OPS
    where = movable & (b.page != NOWHERE)

    def follow(m: Machine) -> Machine:
        entry = jnp.where(where, b.known.row[:, RMAP], NOWHERE)

        def point(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = lanes.entry_or(b.found.words, m, entry)
            new = jnp.stack([b.page, old[:, pte.BITS]], axis=1)
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
