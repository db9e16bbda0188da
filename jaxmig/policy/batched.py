"""migrate_pages() since 6.3 for base pages, all batches of a call at once.

With nobody else running, nothing couples two batches of base pages but free memory, and
that only when it ends.  So a call is data-parallel over its pages: the number of a
batch is a segment id, its flush a reduction over the segment.  A loop over chunks keeps
the arrays of one trip in the cache; where a chunk ends has nothing to do with batches.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, xla
from jaxmig.events import Events
from jaxmig.frame import FLAGS
from jaxmig.machine import NOWHERE
from jaxmig.phases import flush, lanes
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import CHUNK, Known, Lanes, Mask
from jaxmig.policy.apply import apply
from jaxmig.policy.call import Call, Stats
from jaxmig.policy.folio import SLEEPS, Where
from jaxmig.policy.look import Seen, look
from jaxmig.policy.plan import Listed, Plan, plan
from jaxmig.policy.rounds import Span, settle
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]


def book(
    ev: Events,
    stats: Stats,
    seen: Seen,
    p: Plan,
    drained: Mask,
    f: Listed,
) -> tuple[Events, Stats]:
    """Count what a chunk did (all sums are below 2^32: a chunk is small)."""
    a, y = p.first, p.second
    arrived = p.moved & ~p.released

    def both(name: str) -> Lanes:
        return getattr(a, name) + (0 if y is None else getattr(y, name))

    walks = a.unmapped.astype(jnp.int32) + (0 if y is None else y.unmapped)
    # A copy engine has copied by the time that a batch's references are looked at.
    wasted = jnp.where(f.movable, 0, walks - p.moved)
    success, failed, tries, set_, pins, late, looks, moved, drains, lost = lanes.totals(
        p.moved | p.freed,
        f.live & ~p.moved,
        both("tries"),
        seen.maps * walks,
        both("pin_tries"),
        (a.unmapped + a.pin_tries) * seen.counted,
        both("looks"),
        arrived,
        p.moved & drained,
        wasted,
    )
    ev = ev.add(
        pgmigrate_success=success,
        allocs=tries,
        alloc_pages=tries,
        tries=tries,
        ptes_cleared=set_ + pins,
        ptes_deferred=late,
        moves=looks,
        folios_moved=moved,
        pages_copied=moved,
        copies_wasted=lost,
        ptes_set=set_,
        lru_drains=drains,
    )
    return ev, stats.add(failed=failed, failed_pages=failed)


@pytree
class Carry:
    """What one chunk hands to the next."""

    k: Call
    owed: Owed
    marked: Bool[Array, ""]
    flushed: Bool[Array, ""]  # by others: what was let go, what drivers moved


def chunk_of(size: int, chunk: int) -> int:
    """Lanes a trip: no more than the list has room for."""
    return min(chunk, size)


def migrate_chunk(
    rules: Rules, c: Carry, i: Index, at: Where, limit: Index, safe: Index, width: int
) -> Carry:
    """Pages i * width ... of the list, as far as they are below `safe`."""
    k, owed = c.k, c.owed
    m = k.m
    start = i * width
    folios = k.todo.folios
    # The last slice of a list that chunks do not fill begins earlier: slices clamp.
    first = jnp.minimum(start, folios.shape[0] - width)
    index = first + jnp.arange(width, dtype=jnp.int32)
    src = xla.read(i, lambda: jax.lax.dynamic_slice_in_dim(folios, first, width))
    src = jnp.where((index >= start) & (index < safe), src, NOWHERE)
    put_off = flush.deferrable(rules, m.cpus, at.cpu)
    row, seen = look(rules, m, src, put_off)
    p, f = plan(rules, m, src, row, seen)
    span = Span(start, jnp.minimum(start + width, safe), index, limit)
    ev, owed, read = settle(
        rules, k.ev, owed, m, at.cpu, span, (src, row, seen, p), put_off
    )
    live = f.live
    mlocked = frame.has(row[:, FLAGS], frame.MLOCKED)
    drained = mlocked if rules.drains_mlocked else seen.maps > 0
    ev, stats = book(ev, k.stats, seen, p, drained, f)
    # The page tables have been read already: unmap must not overtake that.
    p = dataclasses.replace(p, unmapped=p.unmapped & read)
    again = live & ~p.moved & p.unmapped & ~f.movable
    again &= ~put_off[seen.mm] | _second_unmapped(p)
    m = apply(m, src, Known(row, seen.words), p, f, at, again)
    left, sleeps, marked, flushed = lanes.totals(
        live & ~p.moved, p.first.asleep, again, p.freed | (p.moved & f.movable)
    )
    k = k.set(
        m=m,
        ev=ev,
        stats=stats,
        error=jnp.where(sleeps > 0, SLEEPS, k.error),
        remaining=k.remaining + left,
    )
    return Carry(k, owed, c.marked | (marked > 0), c.flushed | (flushed > 0))


def _second_unmapped(p: Plan) -> Mask:
    return p.first.unmapped & False if p.second is None else p.second.unmapped


def _chunks(
    rules: Rules, c: Carry, at: Where, limit: Index, safe: Index, width: int
) -> Carry:
    """The first `safe` pages of the list, `width` a trip."""

    def body(s: tuple[Index, Carry]) -> tuple[Index, Carry]:
        i, c = s
        return i + 1, migrate_chunk(rules, c, i, at, limit, safe, width)

    return jax.lax.while_loop(lambda s: s[0] * width < safe, body, (jnp.int32(0), c))[1]


def _any_at_home(k: Call, at: Where, safe: Index) -> Bool[Array, ""]:
    """Whether one of the first `safe` pages lies on the target node already."""
    folios = k.todo.folios
    listed = jnp.arange(folios.shape[0]) < safe
    return (listed & (k.m.node_of(folios) == at.node)).any()


def migrate_batched(
    rules: Rules, k: Call, at: Where, limit: Index, safe: Index, chunk: int
) -> Call:
    """Migrate the first `safe` folios of `k.todo`, a whole number of batches or all."""
    width = chunk_of(k.todo.folios.shape[0], chunk)
    no = jnp.asarray(False)
    c = Carry(k, flush.nothing_owed(k.m.cpus), no, no)
    go = functools.partial(_chunks, rules, at=at, limit=limit)
    if width <= CHUNK:
        c = go(c, safe=safe, width=width)
    else:
        # A chunk's frames go back at its end, and pages bound for their own node would
        # get them: what a page gets must not depend on the device.
        apart = ~_any_at_home(k, at, safe)
        c = go(c, safe=jnp.where(apart, safe, 0), width=width)
        c = go(c, safe=jnp.where(apart, 0, safe), width=CHUNK)
    k, owed = c.k, c.owed
    live = jnp.ones(1, bool)
    ev, owed = flush.close(rules, k.ev, owed, k.m.cpus, at.cpu, owed.open[None], live)
    ev = flush.count_immediate(rules, ev, owed, k.m.cpus, at.cpu)
    m = flush.catch_up(rules, k.m, owed, at.cpu)
    if m.conditions is not None:
        m = flush.forget(m, c.flushed)
    # Only after the last look at the marks: else XLA would clear them in a copy.
    m = flush.unmark(m, c.marked & (m.tlb.entry[0, 0] >= 0))
    ev = ev.add(batches=-(-safe // limit))
    return k.set(m=m, ev=ev)
