"""The four phases on a window whose outcomes are known (its Plan).

Source: migrate_pages_batch() in mm/migrate.c; movable_ops of the drivers that own
non-LRU pages; zap_pte_range() for pages that their process has unmapped.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import Where
from jaxmig.linux.mappings import FolioMaps, PageMaps
from jaxmig.linux.phases import (
    alloc,
    copypage,
    flush as flushing,
    remap as remapping,
    unmap as unmapping,
)
from jaxmig.linux.phases.copypage import Copies
from jaxmig.linux.phases.flush import FlushRequests
from jaxmig.linux.phases.unmap import HeadChanges
from jaxmig.linux.plan import Left, Pages, Plan
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.frame import FLAGS, RMAP
from jaxmig.state.lanes import Known, Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree, static
from jaxmig.state.window import Window

Index = Int32[Array, ""]


@pytree
class Batch:
    """A window's folios and pages from phase to phase; they may be of many batches."""

    window: Window
    plan: Plan
    pages: Pages
    held: HeadChanges  # what the unmap phase changes in rows
    found: Known  # rows and entries of the pages before the first phase
    known: Known  # rows and entries as they are now
    dst: Lanes  # destination of each folio, its head frame; NOWHERE: it stays
    page: Lanes  # destination of each base page
    others: Copies | None  # large folios that move as blocks
    asked: FlushRequests  # the flushes that it needs
    emptied: Bool[Array, " cpus"]  # CPUs that flushed everything earlier in the call
    seen: bool = static()  # whether the machine is read between two phases


def prepare(
    m: Machine,
    window: Window,
    known: tuple[PageMaps, FolioMaps, Plan, Pages, FlushRequests, Bool[Array, " cpus"]],
    at: Where,
    ready: Bool[Array, ""],
    seen_inside: bool = False,
) -> tuple[Machine, Batch]:
    """Allocate destinations for a window's folios.

    Args:
      known: what the page tables say, by page and by folio; the plan, by folio and by
        page; the flushes; bool[cpus], CPUs that flushed everything earlier in the call.
      at: the migrating CPU and the target node.
      ready: true, and known only once the page tables have been read.
      seen_inside: whether the machine is read between two phases.
    Returns:
      The machine without these frames in its stacks; the window for the phases.
    Source: alloc_migration_target() in mm/migrate.c.
    """
    seen, mapped, p, pages, asked, emptied = known
    pages = dataclasses.replace(
        pages, unmapped=pages.unmapped & ready, refused=pages.refused & ready
    )
    m, dst = alloc.take_many(m, at.node, window, p.moved)
    others = copypage.blocks_of(window, dst, p.gone)
    found = Known(window.page_row, seen.chains)
    step = jnp.where(dst == NOWHERE, NOWHERE, dst - window.head)
    maps, lost, step = window.spread(mapped.maps << 1 | mapped.dirty, p.lost, step)
    stays = (step == NOWHERE) | (window.page == NOWHERE)
    page = jnp.where(stays, NOWHERE, window.page + step)
    heads = (jnp.where(window.is_head, x, 0) for x in (maps >> 1, lost))
    held = HeadChanges(*heads, dirty=(maps & 1) > 0)
    return m, Batch(
        window,
        p,
        pages,
        held,
        found,
        found,
        dst,
        page,
        others,
        asked,
        emptied,
        seen_inside,
    )


def unmap(rules: Rules, m: Machine, batch: Batch) -> tuple[Machine, Batch]:
    """Phase 1: present entries become migration entries."""
    pages = (batch.pages.unmapped, batch.pages.refused)
    w, known = batch.window, batch.known
    m, known = unmapping.unmap(m, w, known, pages, batch.held, batch.seen)
    return m, dataclasses.replace(batch, known=known)


def flush(rules: Rules, m: Machine, batch: Batch) -> tuple[Machine, Batch]:
    """Phase 2: CPUs drop stale translations."""
    m = flushing.drop(rules, m, batch.asked, batch.emptied)

    # Later writes of the page table depend on the flush, which reads it (xla.after).
    def later(x: Lanes) -> Lanes:
        return xla.after(xla.after(x, m.tlb.entry[0, 0]), m.huge_tlb.entry[0, 0])

    others = batch.others
    if others is not None:
        others = dataclasses.replace(others, count=later(others.count))
    moved = {"dst": later(batch.dst), "page": later(batch.page), "others": others}
    return m, dataclasses.replace(batch, **moved)


def copy(rules: Rules, m: Machine, batch: Batch) -> tuple[Machine, Batch]:
    """Phase 3: contents."""
    m = copypage.copy(m, batch.window.page, batch.page)
    if batch.others is not None and m.memory is not None:
        orders = (frame.PMD_ORDER,)
        memory = copypage.copy_folios(orders, m.memory, batch.others)
        m = dataclasses.replace(m, memory=memory)
    return m, batch


def remap(rules: Rules, m: Machine, batch: Batch) -> tuple[Machine, Batch]:
    """Phase 4: rows and entries, to the destination or back; old frames are freed."""
    w, p, pages = batch.window, batch.plan, batch.pages
    m = _keep_conditions(m, w.head, batch.dst, p.left)
    m = _follow_drivers(m, batch)
    if batch.others is not None:
        rows = copypage.move_blocks(frame.PMD_ORDER, m.frame, batch.others)
        m = dataclasses.replace(m, frame=rows)
    those = (pages.unmapped, pages.refused, pages.gone)
    m = remapping.remap(m, w.page, batch.page, those, batch.known, batch.held)
    m = _zap(m, batch.found, pages.gone)
    m = alloc.give_many(m, w, xla.after(w.head, batch.dst), p.moved | p.gone)
    return m, batch


Phase = Callable[[Rules, Machine, Batch], tuple[Machine, Batch]]
PHASES: Final[dict[str, Phase]] = {
    "unmap": unmap,
    "flush": flush,
    "copy": copy,
    "remap": remap,
}


def apply(rules: Rules, m: Machine, batch: Batch, upto: Index | None = None) -> Machine:
    """Run the phases.

    Args:
      batch: the window from `prepare`.
      upto: int32, the number of the last phase that is run; None: all are.
    Returns:
      The machine after it.
    Source: migrate_pages_batch() in mm/migrate.c.
    """
    for number, phase in enumerate(PHASES.values()):
        done, batch = phase(rules, m, batch)
        m = done if upto is None else _chosen(number <= upto, done, m)
    return m


def _chosen(pred: Bool[Array, ""], new: Machine, old: Machine) -> Machine:
    return jax.tree.map(lambda x, y: jnp.where(pred, x, y), new, old)


def _keep_conditions(m: Machine, src: Lanes, dst: Lanes, left: Left | None) -> Machine:
    """Write the conditions that are left after all tests, at old frames and at new ones.

    Rows of free frames are zero already: rows of new frames are written only if some
    moved folio has a condition left.
    """
    if left is None or m.conditions is None:
        return m
    lane = left.lane
    some = lane != NOWHERE
    rows = lanes.scatter(m.conditions, lanes.rows(src, lane), some, left.stays)

    def follow(rows: Array) -> Array:
        return lanes.scatter(rows, lanes.rows(dst, lane), some, left.goes)

    rows = xla.skip_unless(left.some_go, follow, rows)
    return dataclasses.replace(m, conditions=rows)


def _follow_drivers(m: Machine, batch: Batch) -> Machine:
    """A driver sets its users' entries to the new frames; no rmap walk is counted."""
    if m.conditions is None:
        return m
    movable = frame.kind(batch.window.page_row[:, FLAGS]) == frame.MOVABLE_OPS
    where = movable & (batch.page != NOWHERE)

    def follow(m: Machine) -> Machine:
        entry = jnp.where(where, batch.known.row[:, RMAP], NOWHERE)

        def point(carry: tuple, i: Index) -> tuple[Machine, Lanes]:
            m, entry = carry
            old, following = _entry(batch.found, m, entry, i)
            new = jnp.stack([batch.page, old[:, pte.BITS]], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, point, (m, entry))[0]

    return xla.skip_unless(lanes.some(where)[0], follow, m)


def _zap(m: Machine, known: Known, gone: Mask) -> Machine:
    """Empty the entries of pages that were freed.

    `known`: rows and entries before the first phase; those of such pages are unchanged.
    """

    def zap(m: Machine) -> Machine:
        entry = jnp.where(gone, known.row[:, RMAP], NOWHERE)

        def empty(carry: tuple, i: Index) -> tuple[Machine, Lanes]:
            m, entry = carry
            old, following = _entry(known, m, entry, i)
            nothing = jnp.full_like(entry, NOWHERE)
            new = jnp.stack([nothing, pte.empty(old[:, pte.BITS])], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, empty, (m, entry))[0]

    return xla.skip_unless(lanes.some(gone)[0], zap, m)


def _entry(
    known: Known, m: Machine, entry: Lanes, i: Index
) -> tuple[Int32[Array, "lanes 2"], Lanes]:
    """An entry of a driver's page or of a freed one; see `lanes.entry_or`.

    Chains of drivers' pages are no rmap, and are known only where nothing is shared.
    """
    if m.geometry.shared:
        return xla.read(entry, lambda: lanes.entry_of(m, entry))
    return lanes.entry_or(known.chains, m, entry, i)
