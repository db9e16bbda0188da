"""Counts of many calls: every distinct call runs on the engine, each once.

Calls that differ only in batch limit and CPUs share a compiled program (`program.py`) and
a machine in memory; limits and CPUs are its arguments.

A call with several lists (more than one source node) is made by the system call itself.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmig.calls.syscalls import Session, SleepsForever, kernel_list, migrate_pages
from jaxmig.calls.syscalls.space import Heads, Space
from jaxmig.engine.migrate import limit_of, listed
from jaxmig.linux.folio import ENOMEM, SLEEPS
from jaxmig.linux.releases import release
from jaxmig.linux.rules import Rules, rules, word
from jaxmig.state.machine import Cpus, Machine
from jaxmig.time.cost import ENGINE
from jaxmig.tools.sweep.axes import Configuration
from jaxmig.tools.sweep.counts import countable
from jaxmig.tools.sweep.memory import Memory
from jaxmig.tools.sweep.program import SLOTS, local_mesh, mapped, program_of


@dataclasses.dataclass(frozen=True)
class SweptCall:
    """The settings in which calls differ; equal ones are one call of the engine."""

    thp: int
    kernel: str
    mode: str
    arch: str
    cpus: int
    batch: int  # 0: no limit, also for serial releases
    engine: bool  # whether it uses a copy engine


@dataclasses.dataclass(frozen=True)
class CallTally:
    """The return value and the counts of a call."""

    ret: int
    errno: str | None
    counts: dict[str, int]
    ipis: int
    ipis_most: int  # the most that one CPU took
    mapped: tuple[int, ...]  # base pages that entries map on each node afterwards


def run_of(config: Configuration, arch: str) -> SweptCall:
    """The call of a configuration, without settings that do not affect it."""
    kernel, row = config.kernel, release(config.kernel)
    # Releases without support for INVLPGB send IPIs on such a CPU too.
    if arch == "x86-invlpgb" and not rules(kernel, arch=arch).invlpgb:
        arch = "x86"
    limit = config.batch if row.batched else 0
    engine = row.offloads and config.copy.startswith(ENGINE)
    return SweptCall(config.thp, kernel, config.mode, arch, config.cpus, limit, engine)


class CallRunner:
    """Runs calls from `old` to `new` nodes on the machines of one target."""

    def __init__(
        self, memory: Memory, old: frozenset[int], new: frozenset[int]
    ) -> None:
        self.memory, self.old, self.new = memory, old, new
        self.mesh = local_mesh()
        self._built: tuple[int, Machine, Space] | None = None
        self._cpus: dict[int, Cpus] = {}

    def tallies(self, runs: Sequence[SweptCall]) -> list[CallTally]:
        """Run calls that differ only in CPUs and batch limit, at most SLOTS of them.

        Raises:
          SleepsForever: where Linux would wait for something that never ends.
        """
        first = runs[0]
        m, space = self._machine(first.thp)
        lists, unisolated = self._lists(m, space, first)
        if len(lists) != 1:
            return [self._one(m, space, run) for run in runs]
        heads, node = lists[0]
        masks = [self._masks(run.cpus) for run in runs]
        limits = [int(limit_of(run.batch)) for run in runs]
        found = self._many(m, _rules(first), heads, node, limits, masks)
        # Before 6.7 a folio that could not be isolated was no failure.
        left = unisolated if release(first.kernel).counts_unisolated else 0
        return [_tally(f, left) for f in found]

    def _machine(self, thp: int) -> tuple[Machine, Space]:
        if self._built is None or self._built[0] != thp:
            self._built = None  # first, as two machines may not fit into memory
            self._built = (thp, *self.memory.build(thp))
        return self._built[1], self._built[2]

    def _masks(self, cpus: int) -> Cpus:
        if cpus not in self._cpus:
            self._cpus[cpus] = jax.tree.map(np.asarray, self.memory.cpus_of(cpus))
        return self._cpus[cpus]

    def _lists(
        self, m: Machine, space: Space, run: SweptCall
    ) -> tuple[list[tuple[Heads, int]], int]:
        """Lists of a call with their nodes, and the folios that could not be isolated.

        A second list depends on the result of the first.  The lists here are those of a
        call that moves everything, so that only the first one is right.
        """
        if run.mode != "sync":
            s = Session(m, run.kernel)
            return [(kernel_list(s.view(), space, self.old), min(self.new))], 0
        asked = _Asked(m, run.kernel)
        left = migrate_pages(asked, space, self.old, self.new)
        return asked.lists, left

    def _many(
        self,
        m: Machine,
        rules: Rules,
        heads: Heads,
        node: int,
        limits: list[int],
        masks: list[Cpus],
    ) -> list[tuple[Any, ...]]:
        n = len(limits)
        spare = SLOTS - n
        room, size = listed(heads)
        numbers = (jnp.int32(size), jnp.int32(node), jnp.int32(self.memory.cpu))
        counts = countable(rules, m, len(heads), node)
        stack = jax.tree.map(
            lambda *a: jnp.asarray(np.stack([*a, *a[:1] * spare])), *masks
        )
        some = jnp.asarray([*limits, *limits[:1] * spare], jnp.int32)
        program = program_of(rules.defers, counts, self.mesh)
        rest = (some, stack, jnp.int32(n), jnp.asarray(word(rules)))
        out = program(m, jnp.asarray(room), *numbers, *rest)
        rows = jax.tree.map(np.asarray, out)
        return [jax.tree.map(lambda a, i=i: a[i], rows) for i in range(n)]

    def _one(self, m: Machine, space: Space, run: SweptCall) -> CallTally:
        """Make the whole system call, on a copy of the machine."""
        cpus = jax.tree.map(jnp.asarray, self._masks(run.cpus))
        s = Session(
            dataclasses.replace(m, cpus=cpus),
            run.kernel,
            cpu=self.memory.cpu,
            batch=run.batch,
            arch=run.arch,
            engine=run.engine,
        )
        ret = migrate_pages(s, space, self.old, self.new)
        there = tuple(int(n) for n in mapped(s.state))
        errno = "ENOMEM" if ret < 0 else None
        return CallTally(max(ret, -1), errno, s.counts, sum(s.ipis), max(s.ipis), there)


class _Asked(Session):
    """Records the lists of a system call, and moves nothing."""

    def __init__(self, state: Machine, kernel: str) -> None:
        super().__init__(state, kernel)
        self.lists: list[tuple[Heads, int]] = []

    def migrate(self, folios: Heads, node: int, **how: Any) -> int:
        """Record a list; returns 0, as if all of it had moved."""
        del how
        if len(folios):
            # A folio that two areas map is isolated once.
            first = np.sort(np.unique(folios, return_index=True)[1])
            self.lists.append((folios[first], node))
        return 0


def _rules(run: SweptCall) -> Rules:
    return rules(run.kernel, run.mode, arch=run.arch, engine=run.engine)


def _tally(counted: tuple[Any, ...], unisolated: int) -> CallTally:
    ev, failed, error, there = counted
    if int(error) == SLEEPS:
        raise SleepsForever
    short = int(error) == ENOMEM
    ipis = ev.ipis_per_cpu()
    return CallTally(
        ret=-1 if short else int(failed) + unisolated,
        errno="ENOMEM" if short else None,
        counts=ev.counts(),
        ipis=sum(ipis),
        ipis_most=max(ipis),
        mapped=tuple(int(n) for n in there),
    )
