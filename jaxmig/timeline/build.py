"""The first state of a timeline: cold TLBs, memory on one node, the migration due."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxmig.access import (
    BINS,
    NEVER,
    Access,
    Costs,
    Cpu,
    Memory,
    Shape,
    Tally,
    Tlb,
    Window,
)
from jaxmig.access.state import DIRTY, NO_WAY, PTE_SHIFT, YOUNG
from jaxmig.machine import NOWHERE
from jaxmig.machines import Profile
from jaxmig.timeline.state import IDLE, UNMAP, Migrator, Plan, Prices, World
from jaxmig.timeline.timetable import Timetable


def _i(x: object) -> jnp.ndarray:
    return jnp.asarray(x, jnp.int32)


def costs_of(profile: Profile, gen: int) -> Costs:
    """Times of an access on a machine; the program itself spends `gen` ns on each."""
    p = {k: round(v) for k, v in profile.values("access.").items()}
    return Costs(
        gen=_i(gen),
        hit=_i(p["access.tlb_hit"]),
        walk=_i(p["access.walk"]),
        local=_i(max(p["access.memory_local"], 1)),
        remote=_i(max(p["access.memory_remote"], 1)),
        fault=_i(p["access.fault"]),
        wake=_i(p["access.wake"]),
        switch=_i(0),
    )


def plan(table: Timetable, trips: int) -> Plan:
    """The timetable on the device."""
    columns = (table.first, table.count, table.unit, table.kind, table.moved)
    n = len(table.first)
    rows = np.pad(np.stack(columns, 1), ((0, max(table.room[0] - n, 0)), (0, 0)))
    names = [f.name for f in dataclasses.fields(Prices)]
    prices = Prices(**{name: _i(getattr(table, name)) for name in names})
    numbers = (_i(trips), _i(table.folios), _i(table.pause), _i([0, 1]))
    return Plan(_i(rows), _i(n), *numbers, prices)


def tally(cpus: int) -> Tally:
    """Counters at zero."""
    names = [f.name for f in dataclasses.fields(Tally)]
    zeros = {
        n: jnp.zeros(cpus, jnp.int32) for n in names if n not in ("latency", "waits")
    }
    latency = jnp.zeros(2 * BINS, jnp.int32)
    return Tally(**zeros, latency=latency, waits=jnp.zeros(BINS, jnp.int32))


def access(
    s: Shape, nodes: Sequence[int], threads: int, touched: bool, room: int, check: int
) -> Access:
    """CPUs 0 ... threads - 1 about to run; the others idle for ever."""
    n = s.cpus
    runs = np.arange(n) < threads

    def all_(value: int | np.integer) -> jnp.ndarray:
        return jnp.full(n, value, jnp.int32)

    asids = np.full((n, s.asids), -1, np.int32)
    asids[:, 0] = np.where(runs, 0, -1)
    cpu = Cpu(
        clock=_i(np.where(runs, 0, NEVER)),
        begin=all_(0),
        pos=all_(0),
        left=all_(check),
        asleep=jnp.asarray(~runs),
        sleep=_i(np.where(runs, 0, -NEVER)),
        wait=all_(NOWHERE),
        since=all_(NEVER),
        stalled=jnp.zeros(n, bool),
        node=_i(nodes),
        mm=_i(np.where(runs, 0, -1)),
        asid=all_(0),
        next_asid=all_(1),
        asid_mm=_i(asids),
        asid_gen=jnp.zeros((n, s.asids), jnp.int32),
        flushed=jnp.zeros((n, s.asids), jnp.int32),
    )
    pte = np.full(s.folios + room, -1, np.int64)
    if touched:
        pte[: s.folios] = np.arange(s.folios) << PTE_SHIFT | YOUNG | DIRTY
    memory = None
    if s.words:
        owner = np.full(2 * s.folios, -1)
        owner[: s.folios] = np.arange(s.folios)
        memory = Memory(jnp.zeros((2 * s.folios, s.words), jnp.uint32), _i(owner))
    return Access(cpu, _tlb(s), _i(pte), memory, tally(n), _i(1))


def _tlb(s: Shape) -> Tlb:
    w = s.width
    age = np.zeros((s.cpus, s.rows, w), np.int32)
    # Ways that only the other size has are never the least recently used.
    age[:, : s.sets, s.ways :] = NO_WAY
    age[:, s.sets :, s.huge_ways :] = NO_WAY
    shape = (s.cpus * s.rows, w)
    tag = jnp.full(shape, -1, jnp.int32)
    return Tlb(tag, _i(age.reshape(shape)), jnp.zeros(shape, jnp.int32))


def world(s: Shape, a: Access, p: Plan, window: int) -> World:
    """The timeline at 0: the migration has just begun, or none takes place."""
    first, count, unit = (int(x) for x in np.asarray(p.rows)[0, :3])
    idle = int(p.trips) == 0
    count = 0 if idle else count
    j = np.arange(window)
    fresh, begin = j < count, int(p.prices.call)
    w = Window(
        first=_i(first),
        unmap=_i(np.where(fresh, begin + (j + 1) * unit, NEVER)),
        remap=_i(np.where(fresh, NEVER, -NEVER)),
        start=_i(begin),
        unit=_i(unit),
        count=_i(count),
        gen=jnp.zeros(s.mms, jnp.int32),
    )
    due = begin + count * unit
    zero = ("start_s", "start_ns", "flushes", "silent", "moved", "end_s", "end_ns")
    m = Migrator(
        phase=_i(IDLE if idle else UNMAP),
        segment=_i(0),
        trip=_i(0),
        due=_i(due),
        limit=jnp.full(s.cpus, NEVER if idle else due, jnp.int32),
        told=jnp.zeros(s.cpus, bool),
        **{name: _i(0) for name in zero},
    )
    return World(a, w, m)
