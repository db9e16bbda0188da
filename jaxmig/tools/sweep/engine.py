"""Counts of many calls: every distinct call runs on the engine, each once.

Calls that differ in batch limit and CPUs only share one compiled program for all of
them (`program.py`), and one machine in memory: what they differ in is data.

A call of several lists (more than one source node) goes through the system call itself.
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
from jaxmig.linux.rules import Rules, rules, structure, word
from jaxmig.state.machine import Cpus, Machine
from jaxmig.time.cost import ENGINE
from jaxmig.tools.sweep.axes import Configuration
from jaxmig.tools.sweep.counts import countable
from jaxmig.tools.sweep.memory import Memory
from jaxmig.tools.sweep.program import SLOTS, local_mesh, mapped, program_of


@dataclasses.dataclass(frozen=True)
class SweptCall:
    """What tells two calls apart: one Run is one call of the engine."""

    thp: int
    kernel: str
    mode: str
    arch: str
    cpus: int
    batch: int  # 0: no limit, and for serial releases, which have none
    engine: bool  # asks a copy engine


@dataclasses.dataclass(frozen=True)
class CallTally:
    """What a call returned and counted."""

    ret: int
    errno: str | None
    counts: dict[str, int]
    ipis: int
    ipis_most: int  # of one CPU
    mapped: tuple[int, ...]  # base pages that entries map on each node afterwards


def run_of(config: Configuration, arch: str) -> SweptCall:
    """The call of a configuration, without what makes no difference to it."""
    kernel, row = config.kernel, release(config.kernel)
    # Releases that do not know the broadcast instruction interrupt on such a CPU too.
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
        """The calls, which may differ in CPUs and batch limit only, at most SLOTS.

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
        # Before 6.7 nobody counted what could not be isolated.
        left = unisolated if release(first.kernel).counts_unisolated else 0
        return [_tally(f, left) for f in found]

    def _machine(self, thp: int) -> tuple[Machine, Space]:
        if self._built is None or self._built[0] != thp:
            self._built = None  # two machines at a time need not fit into memory
            self._built = (thp, *self.memory.build(thp))
        return self._built[1], self._built[2]

    def _masks(self, cpus: int) -> Cpus:
        if cpus not in self._cpus:
            self._cpus[cpus] = jax.tree.map(np.asarray, self.memory.cpus_of(cpus))
        return self._cpus[cpus]

    def _lists(
        self, m: Machine, space: Space, run: SweptCall
    ) -> tuple[list[tuple[Heads, int]], int]:
        """Lists of a call with their nodes, and how many folios nobody could isolate.

        What a second list holds depends on how the first one went; so the lists are
        those of a call that moves everything, which is only right for the first.
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
        program = program_of(structure(rules), counts, self.mesh)
        rest = (some, stack, jnp.int32(n), jnp.asarray(word(rules)))
        out = program(m, jnp.asarray(room), *numbers, *rest)
        rows = jax.tree.map(np.asarray, out)
        return [jax.tree.map(lambda a, i=i: a[i], rows) for i in range(n)]

    def _one(self, m: Machine, space: Space, run: SweptCall) -> CallTally:
        """The system call as it is, on a machine of its own."""
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
    """Notes the lists that a system call hands over, and moves nothing."""

    def __init__(self, state: Machine, kernel: str) -> None:
        super().__init__(state, kernel)
        self.lists: list[tuple[Heads, int]] = []

    def migrate(self, folios: Heads, node: int, **how: Any) -> int:
        """Nothing fails."""
        del how
        if len(folios):
            # A folio that two areas map is isolated once.
            first = np.sort(np.unique(folios, return_index=True)[1])
            self.lists.append((folios[first], node))
        return 0


def _rules(run: SweptCall) -> Rules:
    return rules(run.kernel, run.mode, arch=run.arch, engine=run.engine)


def _tally(found: tuple[Any, ...], unisolated: int) -> CallTally:
    ev, failed, error, there = found
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
