"""Flushes that the folios of a window need: deferred to their batch, and immediate.

Source: set_tlb_ubc_flush_pending(), should_defer_flush() in mm/rmap.c,
pmdp_huge_clear_flush(), huge_ptep_clear_flush().
"""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import outcomes as oc, tlb
from jaxmig.linux.batches import Cut
from jaxmig.linux.mappings import PageMaps, chain
from jaxmig.linux.phases import flush
from jaxmig.linux.phases.flush import CallFlushes, FlushRequests
from jaxmig.linux.plan import Pages, Plan
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.frame import FLAGS
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

Index = Int32[Array, ""]
FEW_MMS: Final = 4  # address spaces whose sums are taken in one pass
# An attempt's time: its pass, then its folio's place in the list.
PASS_SHIFT: Final = 27


@pytree
class Walks:
    """How often try_to_migrate() clears the entries of each base page."""

    unmaps: Lanes  # in the asynchronous stage, or the only one
    again: Lanes  # in migrate_pages_sync()
    refusals: Lanes  # walks that failed at the page's first entry, in the first stage
    again_refused: Lanes  # and in the second
    at_once: Mask  # without TTU_BATCH_FLUSH: serial, hugetlb
    hugetlb: Mask


def walks_of(rules: Rules, window: Window, pages: Pages) -> Walks:
    """The walks of each page of a window."""
    a, b, refused, later = (
        oc.number(pages.counts, what, stage)
        for what in (oc.UNMAPS, oc.REFUSALS)
        for stage in (0, 1)
    )
    hugetlb = frame.kind(window.page_row[:, FLAGS]) == frame.HUGETLB
    at_once = (hugetlb & window.large) | ~rules.batched
    if window.large:
        refused, later = (jnp.where(window.is_head, x, 0) for x in (refused, later))
    return Walks(a, b, refused, later, at_once, hugetlb)


def _flushes(walks: Walks, bits: Lanes, here: Mask, waits: Mask) -> Lanes:
    """How often an entry is flushed immediately; `waits`: should_defer_flush()."""
    pmd = pte.has(bits, pte.HUGE)
    # pmdp_invalidate() flushes even a PROT_NONE entry, which no TLB can hold.
    always = pmd & ~walks.hugetlb
    held = pte.accessible(bits) | always
    # remove_migration_pte() drops a NUMA hint: the entry is accessible from then on.
    later = ~pte.has(bits, pte.VM_PROT_NONE) | always
    first = jnp.minimum(walks.unmaps, 1)
    n = (first + walks.refusals) * held + (walks.unmaps - first) * later
    n = jnp.where(waits & ~pmd & ~walks.at_once, 0, n)
    again = jnp.where(walks.unmaps > 0, later, held)
    return jnp.where(here, n + (walks.again + walks.again_refused) * again, 0)


def close_batches(
    rules: Rules,
    ev: Events,
    flushes: CallFlushes,
    m: Machine,
    cpu: Index,
    window: Window,
    known: tuple[PageMaps, Plan, Pages, Cut, Index],
    put_off: Bool[Array, " mms"],
) -> tuple[Events, CallFlushes, FlushRequests]:
    """Close the batches that end in the window; its last one may go on in the next.

    Args:
      flushes: pending in the open batch, and counted so far.
      cpu: int32, the migrating CPU.
      known: of the window: what the page tables say, its plan by folio and by page, its
        batches, and int32, the place in the list of its lane 0.
      put_off: address spaces whose flushes are deferred (`tlb.should_defer`).
    Returns:
      Events and flushes with those of the closed batches; the requests of this window.
    Source: try_to_unmap_flush() in migrate_pages_batch(), mm/migrate.c.
    """
    seen, p, pages, c, place = known
    walks = walks_of(rules, window, pages)
    # At most one batch a folio, and the one that goes on.
    slots = window.head.shape[0] + 1
    by_page = (seen, walks, pages.batch)
    pending, asked = asked_of(rules, m, window, by_page, slots, put_off)
    given = (flushes, cpu, place, put_off)
    times = _times(m, window, p, seen, walks, pages.batch, given)
    ending = (pending, asked, c.closed)
    ev, flushes = end_batches(rules, ev, flushes, m, cpu, ending, times)
    return ev, flushes, asked


def asked_of(
    rules: Rules,
    m: Machine,
    window: Window,
    known: tuple[PageMaps, Walks, Lanes],
    slots: int,
    put_off: Bool[Array, " mms"],
) -> tuple[Bool[Array, "batches mms"], FlushRequests]:
    """The flushes that the folios of a window need.

    Args:
      known: of each page what the page tables say, its walks and its batch.
      slots: rows of the result: more than there are batches.
      put_off: address spaces whose flushes are deferred.
    Returns:
      Address spaces that each batch has pending, and the requests of all batches together.
    Source: should_defer_flush(), set_tlb_ubc_flush_pending() in mm/rmap.c.
    """
    seen, walks, batch = known
    one, whole = _immediate(m, window, seen, walks, put_off)
    defers = (walks.unmaps + walks.refusals > 0) & ~walks.at_once
    pending = _pending(rules, m, window, seen, defers, batch, slots, put_off)
    return pending, FlushRequests(pending.any(axis=0), one, whole)


def end_batches(
    rules: Rules,
    ev: Events,
    flushes: CallFlushes,
    m: Machine,
    cpu: Index,
    asked: tuple[Bool[Array, "batches mms"], FlushRequests, Index],
    times: tuple[Lanes, Lanes] | None = None,
) -> tuple[Events, CallFlushes]:
    """Close the batches that end in a window.

    Args:
      flushes: pending in the open batch, and counted so far.
      cpu: int32, the migrating CPU.
      asked: address spaces that each batch has pending, the requests of all batches, and
        int32, how many batches end.
      times: int32[batches] both, see `_times`; None: no PMD leaf is mapped.
    Returns:
      Events and flushes with those of the closed batches.
    Source: try_to_unmap_flush() in mm/rmap.c.
    """
    pending, all_of_it, ends = asked
    slots = pending.shape[0]
    # Batch 0 of the window began before it, with flushes pending already.
    pending = pending.at[0].set(pending[0] | flushes.open)
    flushes = _with_requests(flushes, m, all_of_it, rules)
    last = jnp.minimum(ends, slots - 1)
    still = pending[last]
    closed = jnp.arange(slots) < ends
    current = jnp.zeros(slots, bool) if times is None else times[1] > times[0]
    ending = pending & closed[:, None], current & closed
    ev, flushes = flush.close(rules, ev, flushes, m.cpus, cpu, *ending)
    if times is not None:
        deferred, whole = times[0][last], times[1][last]
        flushes = dataclasses.replace(flushes, deferred=deferred, caught_up=whole)
    return ev, dataclasses.replace(flushes, open=still & (ends < slots))


def _with_requests(
    flushes: CallFlushes, m: Machine, asked: FlushRequests, rules: Rules
) -> CallFlushes:
    return dataclasses.replace(
        flushes,
        one=flushes.one + asked.one,
        whole=flushes.whole + asked.whole,
        emptied=flushes.emptied | flush.emptied(rules, m.cpus, asked),
    )


def _pending(
    rules: Rules,
    m: Machine,
    window: Window,
    seen: PageMaps,
    defers: Mask,
    batch: Lanes,
    slots: int,
    put_off: Bool[Array, " mms"],
) -> Bool[Array, "batches mms"]:
    """Address spaces with deferred flushes, for each batch of the window."""
    mms = put_off.shape[0]
    none = jnp.zeros(slots * mms, bool)
    # With one mapping a page, `seen` has all that chains would tell.
    if not m.geometry.shared:
        at = jnp.where(defers & (seen.counted > 0), batch * mms + seen.mm, NOWHERE)
        flat = jax.lax.platform_dependent(at, none, cpu=_marked, default=_marked_once)
        return flat.reshape(slots, mms)

    def step(carry: tuple, i: Index) -> tuple:
        pending, entry = carry
        old, following = lanes.entry_or(seen.chains, m, entry, i)
        bits = old[:, pte.BITS]
        mm = jnp.where(entry == NOWHERE, 0, pte.mm_of(bits))
        counted = tlb.defers_entry(rules, bits) & (entry != NOWHERE) & put_off[mm]
        at = jnp.where(counted, batch * mms + mm, NOWHERE)
        return lanes.scatter(pending, at, counted, jnp.asarray(True)), following

    first = jnp.where(defers, chain(m, window.page_row), NOWHERE)
    return lanes.along_chains(True, step, (none, first))[0].reshape(slots, mms)


def _marked(at: Lanes, none: Bool[Array, " slots"]) -> Bool[Array, " slots"]:
    return lanes.scattered(at, jnp.ones(at.shape[0], bool), none)


def _marked_once(at: Lanes, none: Bool[Array, " slots"]) -> Bool[Array, " slots"]:
    # Only the first of equal neighbours writes: on a GPU, writes to one place queue up.
    run = at[1:] == at[:-1]
    return _marked(at.at[1:].set(jnp.where(run, NOWHERE, at[1:])), none)


def _immediate(
    m: Machine,
    window: Window,
    seen: PageMaps,
    walks: Walks,
    put_off: Bool[Array, " mms"],
) -> tuple[Int32[Array, " mms"], Int32[Array, " mms"]]:
    """Immediate flushes of one entry, and of a THP's PMD, by address space."""
    mms = put_off.shape[0]
    none = jnp.zeros(mms, jnp.int32)

    def sums(old: Array, here: Mask) -> tuple[Lanes, Lanes, Lanes]:
        bits = old[:, pte.BITS]
        mm = jnp.where(here, pte.mm_of(bits), 0)
        n = _flushes(walks, bits, here, put_off[mm])
        if not window.large:
            return mm, n, n * 0
        whole = pte.has(bits, pte.HUGE) & ~walks.hugetlb
        return mm, jnp.where(whole, 0, n), jnp.where(whole, n, 0)

    if not m.geometry.shared:
        mm, *found = sums(seen.chains.words[0], seen.maps > 0)
        if mms <= FEW_MMS:
            return _by_mm(mms, mm, *found)
        # Batched calls mostly flush nothing immediately: then no scatter is run.
        some = lanes.some(found[0] + found[1])[0]
        return xla.zero_unless(some, lambda: _by_mm(mms, mm, *found))

    def step(carry: tuple, i: Index) -> tuple:
        total, entry = carry
        old, following = lanes.entry_or(seen.chains, m, entry, i)
        found = _by_mm(mms, *sums(old, entry != NOWHERE))
        return (total[0] + found[0], total[1] + found[1]), following

    some = walks.again + walks.again_refused > 0
    now = walks.unmaps + walks.refusals > 0
    some |= now & (walks.at_once | (seen.pmds > 0) | ~put_off.all())
    first = jnp.where(some, chain(m, window.page_row), NOWHERE)
    return lanes.along_chains(True, step, ((none, none), first))[0]


def _by_mm(
    mms: int, mm: Lanes, one: Lanes, whole: Lanes
) -> tuple[Int32[Array, " mms"], Int32[Array, " mms"]]:
    """Sums of two numbers by the lanes' address spaces."""
    if mms <= FEW_MMS:
        # In one pass; scattered to few places, numbers would queue up on a GPU.
        mine = [mm == n for n in range(mms)] if mms > 1 else [True]
        terms = (jnp.where(here, x, 0) for x in (one, whole) for here in mine)
        found = jnp.stack(lanes.totals(*terms))
        return found[:mms], found[mms:]
    none = jnp.zeros(mms, jnp.int32)
    at = jnp.where(one + whole > 0, mm, NOWHERE)
    return none.at[at].add(one, mode="drop"), none.at[at].add(whole, mode="drop")


def _times(
    m: Machine,
    window: Window,
    plan: Plan,
    seen: PageMaps,
    walks: Walks,
    batch: Lanes,
    given: tuple[CallFlushes, Index, Index, Bool[Array, " mms"]],
) -> tuple[Lanes, Lanes] | None:
    """When each batch last deferred a PTE's flush, and last flushed a PMD immediately.

    Only of the address space that the migrating CPU runs: the PMD's full flush brings
    this CPU up to date, so that the batch's flush finds nothing to drop on it unless a
    PTE was deferred later.  None if there are no leaves.
    """
    flushes, cpu, place, put_off = given
    if not window.large:
        return None
    slots = window.head.shape[0] + 1
    nothing = jnp.zeros(slots, jnp.int32)
    deferred = nothing.at[0].set(flushes.deferred)
    whole = nothing.at[0].set(flushes.caught_up)
    mm = m.cpus.mm[cpu]
    lane = jnp.arange(window.head.shape[0], dtype=jnp.int32)
    passes = jnp.maximum(plan.number(oc.TRIES, 0), 1)
    acts = (walks.unmaps + walks.refusals > 0) & ~walks.at_once

    def mine(old: Array, entry: Lanes) -> tuple[Mask, Mask]:
        bits = old[:, pte.BITS]
        own = (entry != NOWHERE) & (pte.mm_of(bits) == mm) & acts
        pmd = pte.has(bits, pte.HUGE)
        return own & ~pmd & put_off[jnp.where(own, mm, 0)], own & pmd

    def look() -> tuple[Lanes, Lanes]:
        def step(carry: tuple, i: Index) -> tuple:
            (puts, drops), entry = carry
            old, following = lanes.entry_or(seen.chains, m, entry, i)
            a, b = mine(old, entry)
            return (puts | a, drops | b), following

        no = acts & False
        (when,) = window.spread((passes << PASS_SHIFT) | (place + lane))
        first = jnp.where(acts, chain(m, window.page_row), NOWHERE)
        start = ((no, no), first)
        puts, drops = lanes.along_chains(m.geometry.shared, step, start)[0]
        at = [jnp.where(x, batch, slots) for x in (puts, drops)]
        return (
            deferred.at[at[0]].max(when, mode="drop"),
            whole.at[at[1]].max(when, mode="drop"),
        )

    def leaf() -> Array:
        return lanes.some(acts & (seen.pmds > 0))[0]

    some = jax.lax.cond(mm != NOWHERE, leaf, lambda: mm < 0)
    # Without a leaf in this window the CPU can be up to date only from an earlier one.
    return jax.lax.cond(some | (flushes.caught_up > 0), look, lambda: (deferred, whole))
