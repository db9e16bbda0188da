"""After a flush: folios move, waiters learn when to wake, the next segment starts.

Source: migrate_folio_move() in mm/migrate.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import xla
from jaxmig.access import NEVER, Access, Costs, Memory, Shape
from jaxmig.access.state import PTE_SHIFT, Cpu
from jaxmig.machine import NOWHERE
from jaxmig.timeline import flush
from jaxmig.timeline.state import (
    IDLE,
    POISON,
    SECOND,
    UNMAP,
    Number,
    Plan,
    World,
)


def arrive(s: Shape, k: Costs, p: Plan, w: World) -> World:
    """The flush has reached everybody: translations die, folios move, next segment."""
    m = w.migrator
    first, count, _, kind, moved = (p.rows[m.segment, i] for i in range(5))
    a = flush.interrupt(s, p, w, kind)
    a = flush.broadcast(s, a, w.window.gen[0], kind, first, count)
    start = first + count - moved
    remap, busy = _remap_times(s, p, w, start, moved)
    a = _move(s, p, a, m.trip, start, moved, remap.shape[0] // 2)
    a = dataclasses.replace(a, cpu=_resolve(k, a.cpu, remap, start, moved))
    window = dataclasses.replace(
        w.window,
        first=jnp.where(moved > 0, start, w.window.first),
        unmap=jnp.where(moved > 0, -NEVER, w.window.unmap),
        remap=jnp.where(moved > 0, remap, w.window.remap),
    )
    done = dataclasses.replace(m, moved=m.moved + moved)
    return _next(p, World(a, window, done), busy, moved)


def _remap_times(
    s: Shape, p: Plan, w: World, start: Number, moved: Number
) -> tuple[Int32[Array, " window"], Number]:
    """When each folio from `start` is mapped again, and how long all of it takes."""
    j = jnp.arange(w.window.remap.shape[0], dtype=jnp.int32)
    q, large = p.prices, start + j < s.huge
    copy = jnp.where(large, q.engine_huge, q.engine_base)
    cost = jnp.where(large, q.move_huge, q.move_base)
    beyond = jnp.where(large, q.beyond_huge, q.beyond)
    cost += jnp.where(start + j >= q.fits, beyond, 0)
    cost += jnp.where(start + j == s.huge, q.first_copy, 0)
    ends = jnp.cumsum(jnp.where(j < moved, cost, 0), dtype=jnp.int32)
    # Whatever an engine copies is there before the first folio is mapped again.
    ends += jnp.where(j < moved, copy, 0).sum(dtype=jnp.int32)
    return jnp.where(j < moved, w.migrator.due + ends, -NEVER), ends[-1]


def _move(
    s: Shape,
    p: Plan,
    a: Access,
    trip: Number,
    start: Number,
    moved: Number,
    room: int,
) -> Access:
    """Frames and contents change; nobody can look before the remap times."""
    j = jnp.arange(room, dtype=jnp.int32)
    here = start + j
    old = xla.read(start, lambda: jax.lax.dynamic_slice_in_dim(a.pte, start, room))
    # Another order of frames each trip, so that a stale frame is somebody else's.
    node = p.nodes[(trip + 1) % 2]
    frame = node * s.folios + (here + 7 * (trip + 1)) % p.folios
    move = (j < moved) & (old >= 0)
    bits = old & ((1 << PTE_SHIFT) - 1)
    new = jnp.where(move, (frame << PTE_SHIFT) | bits, old)
    pte = jax.lax.dynamic_update_slice_in_dim(a.pte, new, start, 0)
    if a.memory is None:
        return dataclasses.replace(a, pte=pte)
    source = jnp.where(move, old >> PTE_SHIFT, 0)
    rows = xla.read(source, lambda: a.memory.words[source])
    dst = jnp.where(move, frame, NOWHERE)
    src = jnp.where(move, source, NOWHERE)
    owner = a.memory.owner.at[src].set(-1, mode="drop").at[dst].set(here, mode="drop")
    words = a.memory.words.at[dst].set(rows, mode="drop")
    words = words.at[src].set(POISON, mode="drop")
    return dataclasses.replace(a, pte=pte, memory=Memory(words, owner))


def _resolve(k: Costs, c: Cpu, remap: Array, start: Number, moved: Number) -> Cpu:
    """Threads that wait for a folio learn when it will be there."""
    near = c.wait - start
    known = (c.wait != NOWHERE) & (near >= 0) & (near < moved)
    until = remap[jnp.where(known, near, 0)]
    # Some had not gone to sleep yet.
    asleep = until > c.sleep
    clock = jnp.where(asleep, until + k.wake, c.sleep)
    return dataclasses.replace(
        c,
        clock=jnp.where(known, clock, c.clock),
        asleep=jnp.where(known, asleep, c.asleep),
        wait=jnp.where(known, NOWHERE, c.wait),
    )


def _next(p: Plan, w: World, busy: Number, moved: Number) -> World:
    """Go on with the next segment, from a new zero of time."""
    m = w.migrator
    over = m.segment + 1 == p.segments
    segment = jnp.where(over, 0, m.segment + 1)
    trip = m.trip + over
    idle = trip == p.trips
    w = shift(w, m.due)
    m = w.migrator
    first, count, unit = (p.rows[segment, i] for i in range(3))
    count = jnp.where(idle, 0, count)
    keep = jnp.where(moved > 0, True, ~over & (w.window.unmap < NEVER).any())
    origin = jnp.where(keep, w.window.first, first)
    j = jnp.arange(w.window.unmap.shape[0], dtype=jnp.int32)
    new = origin + j - first
    fresh = (new >= 0) & (new < count)
    busy = jnp.where(over, p.pause + p.prices.call, busy)
    due = busy + count * unit
    window = dataclasses.replace(
        w.window,
        first=origin,
        unmap=jnp.where(
            fresh, busy + (new + 1) * unit, jnp.where(keep, w.window.unmap, NEVER)
        ),
        remap=jnp.where(fresh, NEVER, jnp.where(keep, w.window.remap, -NEVER)),
        start=busy,
        unit=unit,
        count=count,
    )
    migrator = dataclasses.replace(
        m,
        phase=jnp.where(idle, IDLE, UNMAP).astype(jnp.int32),
        segment=segment,
        trip=trip,
        due=due,
        limit=jnp.broadcast_to(jnp.where(idle, NEVER, due), m.limit.shape),
        told=m.told & False,
        end_s=jnp.where(over, m.start_s, m.end_s),
        end_ns=jnp.where(over, m.start_ns, m.end_ns),
    )
    return World(w.access, window, migrator)


def shift(w: World, by: Number) -> World:
    """The same world with `by` ns later as time 0."""
    c, m, v = w.access.cpu, w.migrator, w.window

    def less(t: Array) -> Array:
        return jnp.where(jnp.abs(t) >= NEVER, t, jnp.maximum(t - by, 1 - NEVER))

    cpu = dataclasses.replace(
        c,
        clock=less(c.clock),
        begin=less(c.begin),
        sleep=less(c.sleep),
        since=less(c.since),
    )
    ns = m.start_ns + by
    migrator = dataclasses.replace(
        m,
        due=m.due - by,
        limit=less(m.limit),
        start_s=m.start_s + ns // SECOND,
        start_ns=ns % SECOND,
    )
    window = dataclasses.replace(
        v, unmap=less(v.unmap), remap=less(v.remap), start=v.start - by
    )
    return World(dataclasses.replace(w.access, cpu=cpu), window, migrator)
