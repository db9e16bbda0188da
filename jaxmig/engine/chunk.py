"""One window of a call: read its folios, work out outcomes, count, run the phases.

Source: migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.engine.apply import apply, prepare
from jaxmig.linux import outcomes as oc, tlb
from jaxmig.linux.batches import Cut
from jaxmig.linux.call import CallState, Stats
from jaxmig.linux.flush_requests import Walks, close_batches, walks_of
from jaxmig.linux.folio import SLEEPS, Where, drains, is_thp
from jaxmig.linux.mappings import FolioMaps, PageMaps, look, of_folios
from jaxmig.linux.phases.flush import CallFlushes
from jaxmig.linux.plan import Pages, Plan, of_pages, plan
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, xla
from jaxmig.state.events import Events
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

Index = Int32[Array, ""]


@pytree
class Carry:
    """What one window hands to the next."""

    call: CallState
    flushes: CallFlushes
    next: Index  # place on the list of the first folio that is left
    open: Index  # base pages of the batch that goes on
    flushed: Bool[Array, ""]  # whether others have flushed: freed pages, drivers' pages


def look_and_plan(
    rules: Rules,
    m: Machine,
    window: Window,
    put_off: Bool[Array, " mms"],
    passes: Index | int = oc.PASSES,
) -> tuple[PageMaps, FolioMaps, Plan]:
    """Read the page tables for a window, and work out the outcomes of its folios.

    Args:
      put_off: address spaces whose flushes are deferred (`tlb.should_defer`).
      passes: the most passes of a stage; 1: only what the first pass does.
    Returns:
      What the page tables say, by page and by folio; the outcomes by folio.
    Source: migrate_pages_batch() in mm/migrate.c.
    """
    seen = look(rules, m, window, put_off)
    mapped = of_folios(m, window, seen)
    return seen, mapped, plan(rules, m, window, mapped.maps, passes)


def migrate_window(
    rules: Rules,
    carry: Carry,
    window: Window,
    batches: tuple[Cut, Index],
    at: Where,
    passes: Index | int = oc.PASSES,
    upto: Index | None = None,
) -> Carry:
    """The four phases on the folios of a window, all of its batches at once.

    Args:
      carry: from the window before.
      batches: where they end; int32, the place on the list of the window's lane 0.
      at: the migrating CPU and the target node.
      passes: the most passes of a stage; 1: only what the first pass does.
      upto: int32, the number of the last phase that is run; None: all are.
    Returns:
      The carry for the next window; `next` is the caller's to move.
    Source: migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
    """
    k, m = carry.call, carry.call.m
    put_off = tlb.should_defer(rules, m.cpus, at.cpu)
    seen, mapped, p = look_and_plan(rules, m, window, put_off, passes)
    cut, place = batches
    pages = of_pages(window, p, cut.batch)
    # Flushes are counted before anything is written: they follow from the page tables.
    known = (seen, p, pages, cut, place)
    ev, flushes = k.ev, carry.flushes
    closed = close_batches(rules, ev, flushes, m, at.cpu, window, known, put_off)
    ev, flushes, asked = closed
    ev, stats = count_window(rules, ev, k.stats, window, (seen, mapped, p, pages))
    ev = ev.add(batches=jnp.where(rules.batched, cut.closed, 0))
    # XLA must not move the unmap phase's writes before these reads of the page tables.
    pending = asked.pending.astype(jnp.int32)
    read = jnp.int32(0)
    for what in (asked.one, asked.whole, pending, flushes.deferred, flushes.caught_up):
        read = xla.after(read, what)
    known = (seen, mapped, p, pages, asked, carry.flushes.emptied)
    m, b = prepare(m, window, known, at, read == 0, upto is not None)
    m = apply(rules, m, b, upto)
    movable = frame.kind(window.flags) == frame.MOVABLE_OPS
    stay = window.there & ~p.moved & ~p.gone
    left, sleeps, flushed = lanes.totals(stay, p.asleep, p.gone | (p.moved & movable))
    k = k.set(
        m=m,
        ev=ev,
        stats=stats,
        error=jnp.where(sleeps > 0, SLEEPS, k.error),
        remaining=k.remaining + left,
    )
    return dataclasses.replace(
        carry,
        call=k,
        flushes=flushes,
        open=cut.open,
        flushed=carry.flushed | (flushed > 0),
    )


def count_window(
    rules: Rules,
    ev: Events,
    stats: Stats,
    window: Window,
    known: tuple[PageMaps, FolioMaps, Plan, Pages],
) -> tuple[Events, Stats]:
    """Count what a window did (all sums are below 2^32: a window is small).

    Args:
      known: what the page tables say, by page and by folio; the plan, by folio and page.
    Returns:
      Events and statistics with those of the window.
    Source: struct migrate_pages_stats in mm/migrate.c.
    """
    seen, mapped, p, pages = known
    by_folio = _of_folios(rules, window, p, mapped.maps > 0)
    by_page = _of_entries(window, seen, walks_of(rules, window, pages))
    # All sums in one pass over the lanes.
    sums = {**by_folio, **by_page}
    names, totals = list(sums), lanes.totals(*sums.values())
    found = dict(zip(names, totals, strict=True))
    failed = {name: found.pop(name) for name in list(found) if name in _STATS}
    lost, by_cpu = _offloaded(rules, window, p)
    found |= {"copies_lost": lost, "pages_by_cpu": by_cpu}
    return ev.add(**found), stats.add(**failed)


def _offloaded(rules: Rules, window: Window, plan: Plan) -> tuple[Index, Index]:
    """Folios whose engine's copies were not used; base pages that the CPU copied."""
    hugetlb = frame.kind(window.flags) == frame.HUGETLB

    def count() -> tuple[Index, Index]:
        by_cpu = plan.moved & (((plan.ends & oc.BY_CPU) != 0) | hugetlb)
        lost, pages = lanes.totals(plan.wasted, by_cpu * window.pages)
        return lost, pages

    # One release has an engine: the others skip these sums.
    none = jnp.int32(0)
    return jax.lax.cond(rules.offloads, count, lambda: (none, none))


_STATS = ("failed", "failed_pages", "thp_failed")


def _of_folios(
    rules: Rules, window: Window, plan: Plan, mapped: Mask
) -> dict[str, Lanes | Mask]:
    flags, pages = window.flags, window.pages
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    hugetlb = frame.kind(flags) == frame.HUGETLB
    done, stay = plan.moved | plan.gone, window.there & ~plan.moved & ~plan.gone
    tries = plan.number(oc.TRIES, 0) + plan.number(oc.TRIES, 1)
    looks = plan.number(oc.LOOKS, 0) + plan.number(oc.LOOKS, 1)
    # With batch copying the copy precedes the reference check: a move that fails wastes it.
    alone = movable | hugetlb | ~rules.batched
    wasted = jnp.where(alone, 0, plan.unmaps - plan.moved)
    wasted = jnp.where(rules.offloads, plan.wasted, wasted)
    sums: dict[str, Lanes | Mask] = {
        "pgmigrate_success": done * pages,
        "failed": stay,
        "failed_pages": stay * pages,
        "allocs": tries,
        "alloc_pages": tries * pages,
        "moves": looks,
        "folios_moved": plan.moved,
        "folios_cached": plan.moved & frame.in_page_cache(flags),
        "pages_copied": plan.moved * pages,
        "copies_wasted": wasted * pages,
        "lru_drains": plan.moved & drains(rules, flags, mapped),
    }
    if window.large:
        thp = is_thp(rules, flags)
        huge = frame.order(flags) == frame.PMD_ORDER
        sums |= {
            "thp_migration_success": done & thp,
            "thp_failed": stay & thp,
            "pages_copied": jnp.where(huge, 0, plan.moved * pages),
            "pages_copied_huge": jnp.where(huge, plan.moved * pages, 0),
        }
    return {**sums, "tries": sums["allocs"]}


def _of_entries(window: Window, seen: PageMaps, walks: Walks) -> dict[str, Lanes]:
    unmaps = walks.unmaps + walks.again
    refusals = (walks.refusals + walks.again_refused) * (seen.maps > 0)
    waits = jnp.where(walks.at_once, 0, walks.unmaps + walks.refusals)
    sums = {"ptes_deferred": waits * seen.counted}
    if not window.large:
        set_ = unmaps * seen.maps
        return {"ptes_cleared": set_ + refusals, "ptes_set": set_, **sums}
    pmd = seen.pmds > 0
    ptes, pmds = unmaps * (seen.maps - seen.pmds), unmaps * seen.pmds
    return {
        "ptes_cleared": ptes + jnp.where(pmd, 0, refusals),
        "pmds_cleared": pmds + jnp.where(pmd, refusals, 0),
        "ptes_set": ptes,
        "pmds_set": pmds,
        **sums,
    }
