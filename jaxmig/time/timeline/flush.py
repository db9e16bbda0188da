"""A flush on the timeline: the CPUs that it interrupts, at what time, and what they drop.

The interrupted CPUs are reached one after the other, and use their cached translations
until then.  A CPU whose thread sleeps is lazy: it takes no interrupt and flushes when it
wakes.

Source: flush_tlb_func(), arch_tlbbatch_flush() in arch/x86/mm/tlb.c, Linux 6.3.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array

from jaxmig.state import xla
from jaxmig.time.access import NEVER, Access, CpuTlbs, Shape
from jaxmig.time.access.lookup import row_of
from jaxmig.time.access.state import Lanes, Mask
from jaxmig.time.timeline.timetable import BROADCAST, BROADCAST_ALL, NONE, PAGE
from jaxmig.time.timeline.world import FLUSH, DeviceTimetable, Number, World


def send(shape: Shape, timetable: DeviceTimetable, world: World) -> World:
    """Send the flush of a segment to the CPUs that are awake, one after the other."""
    m, c = world.migrator, world.access.cpu
    kind = timetable.rows[m.segment, 3]
    at = m.due
    holds = c.mm == 0
    lazy = c.asleep & (c.sleep <= at)
    interrupts = (kind != NONE) & (kind < BROADCAST)
    told = holds & ~lazy & interrupts
    n = told.sum(dtype=jnp.int32)
    q = timetable.prices
    some = q.flush_first + q.flush_next * (n - 1)
    cost = jnp.where(n > 0, some, jnp.where(holds.any(), q.flush_lazy, 0))
    cost = jnp.where(kind == BROADCAST, q.broadcast, cost)
    cost = jnp.where(kind == BROADCAST_ALL, q.broadcast_all, cost)
    cost = jnp.where(kind == NONE, 0, cost)
    rank = jnp.cumsum(told, dtype=jnp.int32) - 1
    reach = jnp.where(told, q.flush_first + q.flush_next * rank, cost)
    window = dataclasses.replace(
        world.window,
        gen=world.window.gen.at[0].add(world.window.count),
        count=jnp.int32(0),
    )
    migrator = dataclasses.replace(
        m,
        phase=jnp.int32(FLUSH),
        due=at + cost,
        limit=at + reach,
        told=told,
        flushes=m.flushes + (interrupts & holds.any()),
        silent=m.silent + (interrupts & holds.any() & (n == 0)),
    )
    return World(world.access, window, migrator)


def interrupt(
    shape: Shape, timetable: DeviceTimetable, world: World, kind: Number
) -> Access:
    """Run the handlers on the interrupted CPUs.

    A CPU that has fallen asleep meanwhile flushes when it leaves lazy mode.

    Args:
      kind: of the flush: NONE ... BROADCAST_ALL of timetable.py.
    Returns:
      The CPUs without the dropped translations, and their lost time.
    """
    m, c, t = world.migrator, world.access.cpu, world.access.tally
    lazy = c.asleep & (c.sleep <= m.limit)
    here = jnp.arange(shape.asids) == c.asid[:, None]
    gen, now = jnp.where(here, c.asid_gen, 0).sum(1), world.window.gen[0]
    flush = m.told & ~lazy & (c.mm == 0) & (gen < now)
    single = flush & (kind == PAGE) & (gen + 1 == now)
    cost = jnp.where(
        kind == PAGE, timetable.prices.handler_page, timetable.prices.handler_full
    )
    cost = jnp.where(m.told & ~lazy, cost, 0)
    full = here & (flush & ~single)[:, None]
    cpu = dataclasses.replace(
        c,
        clock=jnp.where(c.asleep | (c.clock == NEVER), c.clock, c.clock + cost),
        sleep=jnp.where(c.asleep, c.sleep + cost, c.sleep),
        asid_gen=jnp.where(here & flush[:, None], now, c.asid_gen),
        flushed=jnp.where(full, world.access.age - 1, c.flushed),
    )
    tally = dataclasses.replace(t, ipis=t.ipis + m.told, ipi_ns=t.ipi_ns + cost)
    a = dataclasses.replace(world.access, cpu=cpu, tally=tally)
    return dataclasses.replace(
        a, tlb=_drop(shape, a.tlb, timetable.rows[m.segment, 0], single)
    )


def _drop(shape: Shape, tlb: CpuTlbs, folio: Number, single: Mask) -> CpuTlbs:
    """Drop one folio's entries on the CPUs `single`."""

    def drop(tlb: CpuTlbs) -> CpuTlbs:
        lane = jnp.arange(shape.cpus, dtype=jnp.int32)
        at = lane * shape.rows + row_of(shape, folio)
        tag, age = xla.read(at, lambda: (tlb.tag[at], tlb.age[at]))
        return _without(tlb, at, (tag == folio) & single[:, None], tag, age)

    return xla.when(single.any(), drop, tlb)


def _without(tlbs: CpuTlbs, at: Lanes, hit: Array, tag: Array, age: Array) -> CpuTlbs:
    """The TLBs without the entries of rows `at` that `hit` marks."""
    tag, age = jnp.where(hit, -1, tag), jnp.where(hit, 0, age)
    return dataclasses.replace(
        tlbs,
        tag=tlbs.tag.at[at].set(tag, unique_indices=True),
        age=tlbs.age.at[at].set(age, unique_indices=True),
    )


def broadcast(
    shape: Shape,
    access: Access,
    gen: Number,
    kind: Number,
    first: Number,
    count: Number,
) -> Access:
    """Drop the segment's folios, or everything, on every CPU: a broadcast in hardware.

    Args:
      gen: tlb_gen that every CPU has caught up with afterwards.
      kind: of the flush; nothing happens below BROADCAST.
      first, count: the segment's folios.
    Returns:
      The CPUs without the dropped translations.
    """
    c = access.cpu
    here = (c.asid_mm == 0) & (kind >= BROADCAST)
    every = here & (kind == BROADCAST_ALL)
    cpu = dataclasses.replace(
        c,
        asid_gen=jnp.where(here, gen, c.asid_gen),
        flushed=jnp.where(every, access.age - 1, c.flushed),
    )

    def drop(tlbs: CpuTlbs) -> CpuTlbs:
        hit = (tlbs.tag >= first) & (tlbs.tag < first + count)
        tag, age = jnp.where(hit, -1, tlbs.tag), jnp.where(hit, 0, tlbs.age)
        return dataclasses.replace(tlbs, tag=tag, age=age)

    # A single folio is in one row of each CPU, so that not all rows need be read.
    ranged = kind == BROADCAST
    tlb = _drop(
        shape, access.tlb, first, jnp.broadcast_to(ranged & (count == 1), c.mm.shape)
    )
    tlb = xla.when(ranged & (count > 1), drop, tlb)
    return dataclasses.replace(access, cpu=cpu, tlb=tlb)
