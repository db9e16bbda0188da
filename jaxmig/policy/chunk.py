"""One window of a call: its folios looked at, decided, counted and migrated.

Source: migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, tlb, xla
from jaxmig.events import Events
from jaxmig.machine import Machine
from jaxmig.phases import lanes
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.phases.window import Window
from jaxmig.policy import outcomes as oc
from jaxmig.policy.apply import apply, prepare
from jaxmig.policy.batches import Cut
from jaxmig.policy.call import Call, Stats
from jaxmig.policy.folio import SLEEPS, Where, drains, is_thp
from jaxmig.policy.look import Mapped, Seen, look, of_folios
from jaxmig.policy.plan import Pages, Plan, of_pages, plan
from jaxmig.policy.rounds import Walks, settle, walks_of
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@pytree
class Carry:
    """What one window hands to the next."""

    k: Call
    owed: Owed
    next: Index  # the first folio of the list that is not worked yet
    open: Index  # base pages of the batch that goes on
    flushed: Bool[Array, ""]  # by others: what was let go, what drivers moved


def look_and_plan(
    r: Rules,
    m: Machine,
    w: Window,
    put_off: Bool[Array, " mms"],
    passes: int = oc.PASSES,
) -> tuple[Seen, Mapped, Plan]:
    """What the page tables say of a window, by page and by folio; what becomes of it."""
    seen = look(r, m, w, put_off)
    mapped = of_folios(m, w, seen)
    return seen, mapped, plan(r, m, w, mapped.maps, passes)


def migrate_window(
    r: Rules,
    c: Carry,
    w: Window,
    batches: tuple[Cut, Index],
    at: Where,
    passes: int = oc.PASSES,
    upto: Index | None = None,
) -> Carry:
    """The four phases on the folios of a window, all of its batches at once.

    Args:
      batches: where they end, and the place in the list of the window's first lane.
      passes: of a stage at most; 1: what the first pass of all does.
      upto: the number of the last phase that is done; None: all are.
    """
    k, m = c.k, c.k.m
    put_off = tlb.should_defer(r, m.cpus, at.cpu)
    seen, mapped, p = look_and_plan(r, m, w, put_off, passes)
    cut, place = batches
    pages = of_pages(w, p, cut.batch)
    known = (seen, p, pages, cut, place)
    ev, owed, asked = settle(r, k.ev, c.owed, m, at.cpu, w, known, put_off)
    ev, stats = book(r, ev, k.stats, w, (seen, mapped, p, pages))
    if r.batched:
        ev = ev.add(batches=cut.closed)
    # The page tables have been read already: unmap must not overtake that.
    pending = asked.pending.astype(jnp.int32)
    read = jnp.int32(0)
    for what in (asked.one, asked.whole, pending, owed.deferred, owed.caught_up):
        read = xla.after(read, what)
    known = (seen, mapped, p, pages, asked, c.owed.emptied)
    m, b = prepare(m, w, known, at, read == 0, upto is not None)
    m = apply(r, m, b, upto)
    movable = frame.kind(w.flags) == frame.MOVABLE_OPS
    stay = w.there & ~p.moved & ~p.gone
    left, sleeps, flushed = lanes.totals(stay, p.asleep, p.gone | (p.moved & movable))
    k = k.set(
        m=m,
        ev=ev,
        stats=stats,
        error=jnp.where(sleeps > 0, SLEEPS, k.error),
        remaining=k.remaining + left,
    )
    return dataclasses.replace(
        c, k=k, owed=owed, open=cut.open, flushed=c.flushed | (flushed > 0)
    )


def book(
    r: Rules,
    ev: Events,
    stats: Stats,
    w: Window,
    known: tuple[Seen, Mapped, Plan, Pages],
) -> tuple[Events, Stats]:
    """Count what a window did (all sums are below 2^32: a window is small).

    Args:
      known: what the page tables say, by page and by folio; the plan, by folio and page.
    """
    seen, mapped, p, pages = known
    by_folio = _of_folios(r, w, p, mapped.maps > 0)
    by_page = _of_entries(w, seen, walks_of(r, w, pages))
    sums = {**by_folio, **by_page}
    names, totals = list(sums), lanes.totals(*sums.values())
    found = dict(zip(names, totals, strict=True))
    failed = {name: found.pop(name) for name in list(found) if name in _STATS}
    lost, by_cpu = _offloaded(r, w, p)
    found |= {"copies_lost": lost, "pages_by_cpu": by_cpu}
    return ev.add(**found), stats.add(**failed)


def _offloaded(r: Rules, w: Window, p: Plan) -> tuple[Index, Index]:
    """Copies of an engine that were for nothing; base pages that the CPU copied."""
    hugetlb = frame.kind(w.flags) == frame.HUGETLB

    def count() -> tuple[Index, Index]:
        by_cpu = p.moved & (((p.ends & oc.BY_CPU) != 0) | hugetlb)
        lost, pages = lanes.totals(p.wasted, by_cpu * w.pages)
        return lost, pages

    none = jnp.int32(0)
    return jax.lax.cond(r.offloads, count, lambda: (none, none))


_STATS = ("failed", "failed_pages", "thp_failed")


def _of_folios(r: Rules, w: Window, p: Plan, mapped: Mask) -> dict[str, Lanes | Mask]:
    flags, pages = w.flags, w.pages
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    hugetlb = frame.kind(flags) == frame.HUGETLB
    done, stay = p.moved | p.gone, w.there & ~p.moved & ~p.gone
    tries, looks = (
        p.number(what, 0) + p.number(what, 1) for what in (oc.TRIES, oc.LOOKS)
    )
    # A copy engine has copied by the time that a batch's references are looked at.
    wasted = jnp.where(movable | hugetlb | (not r.batched), 0, p.unmaps - p.moved)
    wasted = jnp.where(r.offloads, p.wasted, wasted)
    sums: dict[str, Lanes | Mask] = {
        "pgmigrate_success": done * pages,
        "failed": stay,
        "failed_pages": stay * pages,
        "allocs": tries,
        "alloc_pages": tries * pages,
        "moves": looks,
        "folios_moved": p.moved,
        "folios_cached": p.moved & frame.in_page_cache(flags),
        "pages_copied": p.moved * pages,
        "copies_wasted": wasted * pages,
        "lru_drains": p.moved & drains(r, flags, mapped),
    }
    if w.large:
        thp = is_thp(r, flags)
        huge = frame.order(flags) == frame.PMD_ORDER
        sums |= {
            "thp_migration_success": done & thp,
            "thp_failed": stay & thp,
            "pages_copied": jnp.where(huge, 0, p.moved * pages),
            "pages_copied_huge": jnp.where(huge, p.moved * pages, 0),
        }
    return {**sums, "tries": sums["allocs"]}


def _of_entries(w: Window, seen: Seen, walks: Walks) -> dict[str, Lanes]:
    unmaps = walks.unmaps + walks.again
    refusals = (walks.refusals + walks.again_refused) * (seen.maps > 0)
    waits = jnp.where(walks.at_once, 0, walks.unmaps + walks.refusals)
    sums = {"ptes_deferred": waits * seen.counted}
    if not w.large:
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
