"""One migration of one target on several kernels: build, migrate, verify, drop.

At most one machine is alive at a time, so that its contents fit into memory.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmig import cost, report, walk
from jaxmig.cli.verify import mismatches
from jaxmig.events import COUNTERS
from jaxmig.machine import Machine
from jaxmig.machines import Profile
from jaxmig.migrate import compiled, limit_of
from jaxmig.releases import RELEASES
from jaxmig.rules import Rules
from jaxmig.targets import Setting, Target

SMALLEST_LIST = 512
Tick = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Call:
    """How the migration is asked for."""

    steps: tuple[tuple[int, int], ...]  # (source, destination) nodes, in order
    mode: str = "sync"
    reason: str = "syscall_or_cpuset"
    memalloc: bool = False
    cpu: int = 0
    batch: int = 512
    copy: str = "cpu"
    privileged: bool = True


@dataclasses.dataclass
class Outcome:
    """What one kernel did."""

    record: report.records.Record
    cost: cost.Cost
    requested: int  # folios on the lists
    wrong: int | None  # base pages whose contents changed; None: not carried
    sleeps: bool  # the caller waits for something that never ends


class _Totals:
    """Sums over the steps of a call."""

    def __init__(self, cpus: int) -> None:
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.ipis = np.zeros(cpus, np.int64)
        self.failed = self.requested = 0
        self.error: str | None = None
        self.sleeps = False
        self.wall_s = self.compile_s = 0.0

    def add(self, result: Any) -> None:
        """One list's result."""
        for name, count in result.events.counts().items():
            self.counts[name] += count
        self.ipis += np.asarray(result.events.ipis_per_cpu())
        self.failed += int(result.failed)
        self.error, self.sleeps = result.errno, result.sleeps


def run(
    target: Target,
    setting: Setting,
    profile: Profile,
    kernels: Sequence[str],
    call: Call,
    tick: Tick = lambda what: None,
) -> list[Outcome]:
    """The same call on each kernel, each on a fresh machine.

    Args:
      tick: told what was done, four times a kernel.
    """
    return [_one(target, setting, profile, kernel, call, tick) for kernel in kernels]


def _one(
    target: Target,
    setting: Setting,
    profile: Profile,
    kernel: str,
    call: Call,
    tick: Tick,
) -> Outcome:
    release = RELEASES[kernel]
    rules = Rules(release, call.mode, call.reason, profile.arch, call.memalloc)
    state = target.build(setting)
    tick(f"{kernel}: built")
    before = walk.frames(state)
    total = _Totals(setting.cpus)
    programs: dict[int, Any] = {}
    for source, to in call.steps:
        heads = walk.heads(state, target.mm, source, call.privileged)
        if heads.size and not total.error and not total.sleeps:
            state = _step(state, heads, to, call, rules, total, programs)
    tick(f"{kernel}: migrated")
    after = walk.frames(state)
    wrong = mismatches(state, before, after) if setting.content else None
    nodes = walk.nodes_of(state, target.mm)
    tick(f"{kernel}: verified")
    policy: cost.Policy = "batched" if release.batched else "serial"
    priced = cost.price(total.counts, profile, copy=call.copy, policy=policy)
    made = report.record(
        kernel=kernel,
        policy=policy,
        syscall="migrate_pages",
        ret=-12 if total.error else total.failed,
        counts=total.counts,
        ipis_per_cpu=total.ipis.tolist(),
        nodes_after=nodes,
        cost=priced,
        wall_s=total.wall_s,
        compile_s=total.compile_s,
        requested=total.requested,
        contents_wrong=wrong,
    )
    return Outcome(made, priced, total.requested, wrong, total.sleeps)


def _step(
    state: Machine,
    heads: np.ndarray,
    to: int,
    call: Call,
    rules: Rules,
    total: _Totals,
    programs: dict[int, Any],
) -> Machine:
    """One list to one node; compiling is timed apart."""
    # Lists of similar length share a program.
    room = max(SMALLEST_LIST, 1 << (heads.size - 1).bit_length())
    padded = np.zeros(room, np.int32)
    padded[: heads.size] = heads
    numbers = (jnp.int32(heads.size), jnp.int32(to), jnp.int32(call.cpu))
    args = (state, jnp.asarray(padded), *numbers, limit_of(call.batch))
    start = time.perf_counter()
    if room not in programs:
        programs[room] = compiled(rules, True).lower(*args).compile()
    jax.block_until_ready(args)
    ready = time.perf_counter()
    state, result = jax.block_until_ready(programs[room](*args))
    total.wall_s += time.perf_counter() - ready
    total.compile_s += ready - start
    total.requested += heads.size
    total.add(result)
    return state
