"""After a flush: folios move, waiting threads get their wake time, a new segment starts.

Source: migrate_folio_move() in mm/migrate.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.state import xla
from jaxmig.state.machine import NOWHERE
from jaxmig.time.access import NEVER, Access, Costs, FolioMemory, Shape
from jaxmig.time.access.state import PTE_SHIFT, Cpu
from jaxmig.time.timeline import flush
from jaxmig.time.timeline.world import (
    IDLE,
    POISON,
    SECOND,
    UNMAP,
    DeviceTimetable,
    Number,
    World,
)


def arrive(
    shape: Shape, costs: Costs, timetable: DeviceTimetable, world: World
) -> World:
    """Once the flush has reached all CPUs: drop translations, move folios, go on.

    Args:
      costs: of accesses, for the wake-up of waiting threads.
    Returns:
      The world at the start of the next segment, which is the new zero of time.
    """
    m = world.migrator
    first, count, _, kind, moved = (timetable.rows[m.segment, i] for i in range(5))
    a = flush.interrupt(shape, timetable, world, kind)
    a = flush.broadcast(shape, a, world.window.gen[0], kind, first, count)
    start = first + count - moved
    remap, busy = _remap_times(shape, timetable, world, start, moved)
    a = _move(shape, timetable, a, m.trip, start, moved, remap.shape[0] // 2)
    a = dataclasses.replace(a, cpu=_resolve(costs, a.cpu, remap, start, moved))
    window = dataclasses.replace(
        world.window,
        first=jnp.where(moved > 0, start, world.window.first),
        unmap=jnp.where(moved > 0, -NEVER, world.window.unmap),
        remap=jnp.where(moved > 0, remap, world.window.remap),
    )
    done = dataclasses.replace(m, moved=m.moved + moved)
    return _next(timetable, World(a, window, done), busy, moved)


def _remap_times(
    shape: Shape, timetable: DeviceTimetable, world: World, start: Number, moved: Number
) -> tuple[Int32[Array, " window"], Number]:
    """The time at which each folio from `start` on is mapped again, and the total ns."""
    j = jnp.arange(world.window.remap.shape[0], dtype=jnp.int32)
    q, large = timetable.prices, start + j < shape.huge
    copy = jnp.where(large, q.engine_huge, q.engine_base)
    cost = jnp.where(large, q.move_huge, q.move_base)
    beyond = jnp.where(large, q.beyond_huge, q.beyond)
    cost += jnp.where(start + j >= q.fits, beyond, 0)
    cost += jnp.where(start + j == shape.huge, q.first_copy, 0)
    ends = jnp.cumsum(jnp.where(j < moved, cost, 0), dtype=jnp.int32)
    # An engine has copied all folios before the first one is mapped again.
    ends += jnp.where(j < moved, copy, 0).sum(dtype=jnp.int32)
    return jnp.where(j < moved, world.migrator.due + ends, -NEVER), ends[-1]


def _move(
    shape: Shape,
    timetable: DeviceTimetable,
    access: Access,
    trip: Number,
    start: Number,
    moved: Number,
    room: int,
) -> Access:
    """Change frames and contents at once: no thread can access them before the remap."""
    j = jnp.arange(room, dtype=jnp.int32)
    here = start + j
    old = xla.read(start, lambda: jax.lax.dynamic_slice_in_dim(access.pte, start, room))
    # Each trip has another order of frames, so that a stale frame is another folio's.
    node = timetable.nodes[(trip + 1) % 2]
    frame = node * shape.folios + (here + 7 * (trip + 1)) % timetable.folios
    move = (j < moved) & (old >= 0)
    bits = old & ((1 << PTE_SHIFT) - 1)
    new = jnp.where(move, (frame << PTE_SHIFT) | bits, old)
    pte = jax.lax.dynamic_update_slice_in_dim(access.pte, new, start, 0)
    if access.memory is None:
        return dataclasses.replace(access, pte=pte)
    source = jnp.where(move, old >> PTE_SHIFT, 0)
    rows = xla.read(source, lambda: access.memory.words[source])
    dst = jnp.where(move, frame, NOWHERE)
    src = jnp.where(move, source, NOWHERE)
    owner = (
        access.memory.owner.at[src].set(-1, mode="drop").at[dst].set(here, mode="drop")
    )
    words = access.memory.words.at[dst].set(rows, mode="drop")
    words = words.at[src].set(POISON, mode="drop")
    return dataclasses.replace(access, pte=pte, memory=FolioMemory(words, owner))


def _resolve(costs: Costs, cpu: Cpu, remap: Array, start: Number, moved: Number) -> Cpu:
    """Set the wake time of threads that wait for these folios."""
    near = cpu.wait - start
    known = (cpu.wait != NOWHERE) & (near >= 0) & (near < moved)
    until = remap[jnp.where(known, near, 0)]
    # Some folios are mapped again before their thread has gone to sleep.
    asleep = until > cpu.sleep
    clock = jnp.where(asleep, until + costs.wake, cpu.sleep)
    return dataclasses.replace(
        cpu,
        clock=jnp.where(known, clock, cpu.clock),
        asleep=jnp.where(known, asleep, cpu.asleep),
        wait=jnp.where(known, NOWHERE, cpu.wait),
    )


def _next(
    timetable: DeviceTimetable, world: World, busy: Number, moved: Number
) -> World:
    """Start the next segment, with a new zero of time."""
    m = world.migrator
    over = m.segment + 1 == timetable.segments
    segment = jnp.where(over, 0, m.segment + 1)
    trip = m.trip + over
    idle = trip == timetable.trips
    world = shift(world, m.due)
    m = world.migrator
    first, count, unit = (timetable.rows[segment, i] for i in range(3))
    count = jnp.where(idle, 0, count)
    keep = jnp.where(moved > 0, True, ~over & (world.window.unmap < NEVER).any())
    origin = jnp.where(keep, world.window.first, first)
    j = jnp.arange(world.window.unmap.shape[0], dtype=jnp.int32)
    new = origin + j - first
    fresh = (new >= 0) & (new < count)
    busy = jnp.where(over, timetable.pause + timetable.prices.call, busy)
    due = busy + count * unit
    window = dataclasses.replace(
        world.window,
        first=origin,
        unmap=jnp.where(
            fresh, busy + (new + 1) * unit, jnp.where(keep, world.window.unmap, NEVER)
        ),
        remap=jnp.where(fresh, NEVER, jnp.where(keep, world.window.remap, -NEVER)),
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
    return World(world.access, window, migrator)


def shift(world: World, by: Number) -> World:
    """The same world with the zero of time `by` ns later."""
    c, m, v = world.access.cpu, world.migrator, world.window

    def less(array: Array) -> Array:
        return jnp.where(
            jnp.abs(array) >= NEVER, array, jnp.maximum(array - by, 1 - NEVER)
        )

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
    return World(dataclasses.replace(world.access, cpu=cpu), window, migrator)
