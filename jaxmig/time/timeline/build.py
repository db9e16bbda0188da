"""The first state of a timeline: cold TLBs, memory on one node, the migration due."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxmig.state.machine import NOWHERE
from jaxmig.time.access import (
    BINS,
    NEVER,
    Access,
    BlockTally,
    Costs,
    Cpu,
    CpuTlbs,
    FolioMemory,
    MigrationWindow,
    Shape,
)
from jaxmig.time.access.state import DIRTY, NO_WAY, PTE_SHIFT, YOUNG
from jaxmig.time.machines import Profile
from jaxmig.time.timeline.timetable import Timetable
from jaxmig.time.timeline.world import (
    IDLE,
    UNMAP,
    DeviceTimetable,
    Migrator,
    MigratorPrices,
    World,
)


def _i(value: object) -> jnp.ndarray:
    return jnp.asarray(value, jnp.int32)


def costs_of(profile: Profile, gen: int) -> Costs:
    """Times of an access on a machine; the program spends `gen` ns before each."""
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


def plan(table: Timetable, trips: int) -> DeviceTimetable:
    """The timetable on the device."""
    columns = (table.first, table.count, table.unit, table.kind, table.moved)
    n = len(table.first)
    rows = np.pad(np.stack(columns, 1), ((0, max(table.room[0] - n, 0)), (0, 0)))
    names = [f.name for f in dataclasses.fields(MigratorPrices)]
    prices = MigratorPrices(**{name: _i(getattr(table, name)) for name in names})
    numbers = (_i(trips), _i(table.folios), _i(table.pause), _i([0, 1]))
    return DeviceTimetable(_i(rows), _i(n), *numbers, prices)


def tally(cpus: int) -> BlockTally:
    """Counters at zero."""
    names = [f.name for f in dataclasses.fields(BlockTally)]
    zeros = {
        n: jnp.zeros(cpus, jnp.int32) for n in names if n not in ("latency", "waits")
    }
    latency = jnp.zeros(2 * BINS, jnp.int32)
    return BlockTally(**zeros, latency=latency, waits=jnp.zeros(BINS, jnp.int32))


def access(
    shape: Shape,
    nodes: Sequence[int],
    threads: int,
    touched: bool,
    room: int,
    check: int,
) -> Access:
    """The state before the first access: cold TLBs, CPUs about to run or idle for ever.

    Args:
      nodes: 0 or 1 for each CPU, its distance from the memory.
      threads: CPUs 0 ... threads - 1 run the program.
      touched: whether all pages have been written before.
      room: entries behind the last folio, for a window that ends there.
      check: accesses until a thread first reads the time.
    Returns:
      Time 0; all folios on their first node.
    """
    n = shape.cpus
    runs = np.arange(n) < threads

    def all_(value: int | np.integer) -> jnp.ndarray:
        return jnp.full(n, value, jnp.int32)

    asids = np.full((n, shape.asids), -1, np.int32)
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
        asid_gen=jnp.zeros((n, shape.asids), jnp.int32),
        flushed=jnp.zeros((n, shape.asids), jnp.int32),
    )
    pte = np.full(shape.folios + room, -1, np.int64)
    if touched:
        pte[: shape.folios] = np.arange(shape.folios) << PTE_SHIFT | YOUNG | DIRTY
    memory = None
    if shape.words:
        owner = np.full(2 * shape.folios, -1)
        owner[: shape.folios] = np.arange(shape.folios)
        memory = FolioMemory(
            jnp.zeros((2 * shape.folios, shape.words), jnp.uint32), _i(owner)
        )
    return Access(cpu, _tlb(shape), _i(pte), memory, tally(n), _i(1))


def _tlb(sizes: Shape) -> CpuTlbs:
    w = sizes.width
    age = np.zeros((sizes.cpus, sizes.rows, w), np.int32)
    # Ways that exist only for the other page size must never be chosen.
    age[:, : sizes.sets, sizes.ways :] = NO_WAY
    age[:, sizes.sets :, sizes.huge_ways :] = NO_WAY
    shape = (sizes.cpus * sizes.rows, w)
    tag = jnp.full(shape, -1, jnp.int32)
    return CpuTlbs(tag, _i(age.reshape(shape)), jnp.zeros(shape, jnp.int32))


def world(
    shape: Shape, access: Access, timetable: DeviceTimetable, window: int
) -> World:
    """The timeline at time 0: the migration has just begun, or none takes place.

    Args:
      window: the most folios between unmap and remap.
    Returns:
      Program and migration.
    """
    first, count, unit = (int(x) for x in np.asarray(timetable.rows)[0, :3])
    idle = int(timetable.trips) == 0
    count = 0 if idle else count
    j = np.arange(window)
    fresh, begin = j < count, int(timetable.prices.call)
    w = MigrationWindow(
        first=_i(first),
        unmap=_i(np.where(fresh, begin + (j + 1) * unit, NEVER)),
        remap=_i(np.where(fresh, NEVER, -NEVER)),
        start=_i(begin),
        unit=_i(unit),
        count=_i(count),
        gen=jnp.zeros(shape.mms, jnp.int32),
    )
    due = begin + count * unit
    zero = ("start_s", "start_ns", "flushes", "silent", "moved", "end_s", "end_ns")
    m = Migrator(
        phase=_i(IDLE if idle else UNMAP),
        segment=_i(0),
        trip=_i(0),
        due=_i(due),
        limit=jnp.full(shape.cpus, NEVER if idle else due, jnp.int32),
        told=jnp.zeros(shape.cpus, bool),
        **{name: _i(0) for name in zero},
    )
    return World(access, w, m)
