"""Runs a program on a timeline, block by block, with totals on the host.

A block ends when a stream is used up.  Between blocks the host adds up the counters,
refills the streams and reduces the ages in the TLBs, so that the device needs no 64-bit
integers however long the run is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmig.time.access import AGE_LIMIT, BINS, NEVER, Access, Costs, Shape, Stream
from jaxmig.time.timeline import build
from jaxmig.time.timeline.advance import compiled
from jaxmig.time.timeline.build import costs_of
from jaxmig.time.timeline.timetable import Timetable
from jaxmig.time.timeline.world import IDLE, World

COUNTED: Final = ("walks", "faults", "stalls", "stall_ns", "ipis", "ipi_ns")
COUNTERS: Final = ("hits", *COUNTED)
SECOND: Final = 10**9
FOREVER: Final = 1 << 30  # accesses
SHORT: Final = 1 << 16  # accesses that take less time than a better program to compile
Tick = Callable[[int], None]


class AccessSource(Protocol):
    """The source of all threads' accesses."""

    block: int

    def next(self, used: np.ndarray) -> np.ndarray:
        """int32[cpus, block, 2], the next block after `used[cpus]` of the last one."""


@dataclasses.dataclass
class Totals:
    """Counters of a run, by CPU; times in ns."""

    hits: np.ndarray
    walks: np.ndarray
    faults: np.ndarray
    stalls: np.ndarray
    stall_ns: np.ndarray
    stall_max: np.ndarray
    ipis: np.ndarray
    ipi_ns: np.ndarray
    wrong: int
    latency: np.ndarray  # int64[2, BINS]: loads, stores
    waits: np.ndarray  # int64[BINS]
    flushes: int = 0
    silent: int = 0
    folios: int = 0
    trips_ns: int = 0  # from the run's start to the end of its last whole trip

    @property
    def accesses(self) -> np.ndarray:
        """Loads and stores done, by CPU."""
        return self.hits + self.walks


def none(cpus: int) -> Totals:
    """Totals of nothing."""
    zeros: dict[str, Any] = {
        name: np.zeros(cpus, np.int64) for name in (*COUNTERS, "stall_max")
    }
    latency, waits = np.zeros((2, BINS), np.int64), np.zeros(BINS, np.int64)
    return Totals(**zeros, wrong=0, latency=latency, waits=waits)


def no_migration(table: Timetable) -> tuple[Timetable, int]:
    """A timetable with no trips, so that no migration takes place."""
    return table, 0


class Run:
    """A program's threads on CPUs 0 ..., with or without a migration of their memory.

    Args:
      shape, costs: of the machine and its accesses.
      source: the threads' accesses.
      table: the migration.
      trips: how often all the memory goes to the other node; there and back is two.
      nodes: the node of each CPU; None: all near the memory.
      threads: CPUs that run the program; the others stay idle.
      touched: whether all the memory has been written before.
    """

    def __init__(
        self,
        shape: Shape,
        costs: Costs,
        source: AccessSource,
        table: Timetable,
        *,
        trips: int = 0,
        nodes: Sequence[int] | None = None,
        threads: int | None = None,
        touched: bool = True,
    ) -> None:
        self.shape, self.costs, self.source, self.table = shape, costs, source, table
        self.plan = build.plan(table, trips)
        self.threads = shape.cpus if threads is None else threads
        where = [0] * shape.cpus if nodes is None else nodes
        window = table.window
        a = build.access(shape, where, self.threads, touched, window, FOREVER)
        self.world = build.world(shape, a, self.plan, window)
        self.ended_ns = np.zeros(shape.cpus, np.int64)
        self._ops: np.ndarray | None = None
        self._used = np.zeros(shape.cpus, np.int64)
        self._done = 0

    def again(self, trips: int) -> None:
        """Start all threads and a migration anew at time 0, with TLBs and memory kept."""
        self.plan = build.plan(self.table, trips)
        w = self.world
        new = build.access(
            self.shape, np.asarray(w.access.cpu.node).tolist(), self.threads, True, 1, 1
        ).cpu
        old = w.access.cpu
        kept = ("asid", "next_asid", "asid_mm", "flushed", "mm")
        cpu = dataclasses.replace(new, **{name: getattr(old, name) for name in kept})
        a = dataclasses.replace(w.access, cpu=cpu)
        self.world = build.world(self.shape, a, self.plan, self.table.window)

    def go(
        self,
        *,
        duration_ns: int | None = None,
        check: int = 10_000,
        accesses: int | Sequence[int] | None = None,
        tick: Tick = lambda accesses: None,
    ) -> Totals:
        """Continue to the end of the program, or of the migration if that has none.

        Args:
          duration_ns: a thread ends when it reads a later time than this.
          check: accesses between two readings of the time.
          accesses: a thread ends after so many; a list has a number above 0 for each.
          tick: called with the accesses done, block by block.
        Returns:
          Counters since the last call, times in ns.
        """
        if accesses is not None:
            duration_ns, check = 0, int(np.max(accesses))
        to_end = jnp.asarray(duration_ns is None)
        every = jnp.int32(FOREVER if duration_ns is None else check)
        self._restart(every if accesses is None else accesses)
        totals = none(self.shape.cpus)
        while True:
            run = compiled(self.shape, self._done < SHORT)
            self._refill()
            goal = NEVER if duration_ns is None else self._rest(duration_ns)
            stream = Stream(jnp.asarray(self._ops))
            args = (self.costs, self.plan, self.world, stream, jnp.int32(goal))
            self.world = jax.block_until_ready(run(*args, every, to_end))
            block = self._collect(totals)
            self._done += block
            tick(block)
            if self._over(bool(to_end)):
                return totals

    def finish(self, totals: Totals) -> Totals:
        """Finish a migration that takes longer than the program.

        Args:
          totals: the program's.
        Returns:
          The program's counters, with those of the migration for the whole run.
        """
        if int(self.world.migrator.phase) == IDLE:
            return totals
        rest = self.go()
        names = ("flushes", "silent", "folios", "trips_ns")
        return dataclasses.replace(totals, **{n: getattr(rest, n) for n in names})

    def _restart(self, check: Any) -> None:
        a = self.world.access
        left = np.full(self.shape.cpus, FOREVER, np.int32)
        left[: self.threads] = check
        cpu = dataclasses.replace(a.cpu, left=jnp.asarray(left))
        self._put(dataclasses.replace(a, cpu=cpu))

    def _put(self, access: Access) -> None:
        self.world = World(access, self.world.window, self.world.migrator)

    def _refill(self) -> None:
        if self._ops is None or self._used.any():
            self._ops = self.source.next(self._used)
            self._used = np.zeros(self.shape.cpus, np.int64)

    def _zero_ns(self) -> int:
        m = self.world.migrator
        return int(m.start_s) * SECOND + int(m.start_ns)

    def _rest(self, duration_ns: int) -> int:
        """The goal on the lanes' clocks, within their range."""
        rest = duration_ns - self._zero_ns()
        return int(np.clip(rest, 1 - int(NEVER), int(NEVER) - 1))

    def _collect(self, totals: Totals) -> int:
        """Add the block's counters to the totals; returns the block's accesses."""
        a = self.world.access
        made: dict[str, Any] = {
            name: np.asarray(getattr(a.tally, name), np.int64) for name in COUNTED
        }
        made["hits"] = np.asarray(a.cpu.pos, np.int64) - made["walks"]
        for name, value in made.items():
            setattr(totals, name, getattr(totals, name) + value)
        totals.stall_max = np.maximum(totals.stall_max, np.asarray(a.tally.stall_max))
        totals.wrong += int(np.asarray(a.tally.wrong).sum())
        totals.latency += np.asarray(a.tally.latency, np.int64).reshape(2, BINS)
        totals.waits += np.asarray(a.tally.waits, np.int64)
        m = self.world.migrator
        totals.flushes, totals.silent = int(m.flushes), int(m.silent)
        totals.folios, totals.trips_ns = (
            int(m.moved),
            int(m.end_s) * SECOND + int(m.end_ns),
        )
        running = np.asarray(a.cpu.clock) < NEVER
        ends = self._zero_ns() + np.asarray(a.cpu.begin, np.int64)
        fresh = np.asarray(a.cpu.pos) > 0
        self.ended_ns = np.where(running | fresh, ends, self.ended_ns)
        self._used = np.asarray(a.cpu.pos, np.int64)
        self._clean(a)
        return int(made["hits"].sum() + made["walks"].sum())

    def _clean(self, access: Access) -> None:
        """Reset counters and stream positions, and reduce ages before they overflow."""
        pos = jnp.zeros_like(access.cpu.pos)
        cpu = dataclasses.replace(access.cpu, pos=pos)
        access = dataclasses.replace(
            access, cpu=cpu, tally=build.tally(self.shape.cpus)
        )
        if int(access.age) > AGE_LIMIT:
            access = _younger(self.shape, access, AGE_LIMIT // 2)
        self._put(access)

    def _over(self, to_end: bool) -> bool:
        if to_end:
            return int(self.world.migrator.phase) == IDLE
        cpu = self.world.access.cpu
        waits = np.asarray(cpu.wait) < NEVER
        return not ((np.asarray(cpu.clock) < NEVER) | waits).any()


def _younger(shape: Shape, access: Access, by: int) -> Access:
    """Reduce all ages by `by`; older entries get age 0 and count as flushed."""
    age = access.tlb.age
    real = age < AGE_LIMIT * 2 - 1
    less = jnp.where(real, jnp.maximum(age - by, 0), age)
    flushed = jnp.maximum(access.cpu.flushed - by, 0)
    return dataclasses.replace(
        access,
        tlb=dataclasses.replace(access.tlb, age=less),
        cpu=dataclasses.replace(access.cpu, flushed=flushed),
        age=access.age - by,
    )


__all__ = ["AccessSource", "Run", "Totals", "costs_of", "no_migration"]
