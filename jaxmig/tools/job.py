"""One migration of one target on several kernels: build, migrate, verify, drop.

At most one machine is alive at a time, so that its contents fit into memory.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from jaxmig import report
from jaxmig.calls import callers, syscalls
from jaxmig.calls.syscalls import Session, SleepsForever
from jaxmig.calls.syscalls.session import LogTooLong
from jaxmig.calls.syscalls.space import Heads
from jaxmig.engine.migrate import Result, executable
from jaxmig.linux.folio import Fallback
from jaxmig.linux.releases import release
from jaxmig.linux.rules import Rules, rules
from jaxmig.report.timed import FIRST_PID, Addresses, Traced, tasks
from jaxmig.sources import footprint
from jaxmig.sources.targets import Setting, Target
from jaxmig.state import contents
from jaxmig.state.machine import Machine
from jaxmig.time import cost
from jaxmig.time.machines import Arch, Profile
from jaxmig.tools import verify

Tick = Callable[[str], None]
STEPS: Final = 3  # ticks for each kernel


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of the migration."""

    old: frozenset[int]
    new: frozenset[int]
    cpu: int = 0
    batch: int = 512
    copy: str = "cpu"
    privileged: bool = True
    caller: str | None = None  # None: migrate_pages(2)
    mode: str | None = None  # None: the caller's
    logs: bool = False  # for traces: slower, and needs room for two machines
    footprints: bool = False  # what the process maps before and after


@dataclasses.dataclass
class Outcome:
    """The results on one kernel."""

    record: report.records.Record
    cost: cost.Cost
    requested: int  # folios on the lists
    stayed: int  # base pages that were on none of the source nodes
    wrong: int | None  # base pages whose contents changed; None: not carried
    full: tuple[int, ...]  # destinations without a free page after failures
    traced: Traced | None = None  # its rows only with `Call.logs`
    before: footprint.Footprint | None = None
    after: footprint.Footprint | None = None


class Donating(Session):
    """A session that donates its machine to each call, and times the call alone."""

    def __init__(
        self,
        state: Machine,
        kernel: str,
        call: Call,
        arch: str,
    ) -> None:
        """A session for one kernel; `arch`: whose TLB maintenance is played."""
        how = {"cpu": call.cpu, "batch": call.batch, "keep_logs": call.logs}
        engine = call.copy.startswith(cost.ENGINE)
        super().__init__(state, kernel, arch=arch, engine=engine, **how)
        self.requested = 0

    def _run(
        self,
        rules: Rules,
        state: Machine,
        folios: Heads,
        node: int,
        limit: Any,
        fallback: Fallback | None = None,
    ) -> tuple[Machine, Result]:
        self.requested += len(folios)
        if self.logs is not None:
            return super()._run(rules, state, folios, node, limit, fallback)
        # A numpy view of a donated array would keep it alive.
        self.state, self._view = state, None
        args = self._arguments(state, folios, node, limit)
        start = time.perf_counter()
        program = executable(rules, True, *args, fallback=fallback)
        self.compile_s += time.perf_counter() - start
        return self._timed(program, args)


def run(
    target: Target,
    setting: Setting,
    profile: Profile,
    kernels: Sequence[str],
    call: Call,
    tick: Tick = lambda what: None,
) -> list[Outcome]:
    """Make the same call on each kernel, each on a fresh machine.

    Args:
      target: the memory that is migrated.
      setting: the hardware.
      profile: prices of the machine.
      call: the arguments of the migration.
      tick: called with what was done, STEPS times for each kernel.
    Returns:
      Results in the order of `kernels`.
    Raises:
      SleepsForever: where Linux would wait for something that never ends.
      NoSuchCaller: for a kernel that does not have the caller.
    """
    for kernel in kernels:
        callers.check(call.caller or "kernel", kernel)
    try:
        return [_one(target, setting, profile, k, call, tick) for k in kernels]
    finally:
        contents.leave(None)


def _one(
    target: Target,
    setting: Setting,
    profile: Profile,
    kernel: str,
    call: Call,
    tick: Tick,
) -> Outcome:
    state, space = target.build(setting)
    s = Donating(state, kernel, call, profile.arch)
    del state
    tick(f"{kernel}: built")
    mapped = footprint.of(s.view(), space) if call.footprints else None
    before = verify.frames(s.state)
    on_nodes = syscalls.pages_by_node(s.view(), space, s.nodes)
    ret, extra = _migrate(s, space, call)
    tick(f"{kernel}: migrated")
    wrong = verify.mismatches(s.state, before) if setting.content else None
    tick(f"{kernel}: verified")
    folios = cost.folios_a_batch(s.counts)
    copy = cost.channels(call.copy, folios, release(kernel).offloads)
    call = dataclasses.replace(call, copy=copy)
    priced, policy = _price(s, profile, kernel, copy, setting.seed)
    after = syscalls.pages_by_node(s.view(), space, s.nodes)
    made = report.record(
        kernel=kernel,
        policy=policy,
        syscall="migrate_pages" if _is_syscall(call) else "kernel",
        ret=ret,
        counts=s.counts,
        ipis_per_cpu=s.ipis,
        nodes_after={str(n): pages for n, pages in enumerate(after)},
        cost=priced,
        wall_s=s.wall_s,
        batch=call.batch,
        compile_s=s.compile_s,
        requested=s.requested,
        contents_wrong=wrong,
        **extra,
    )
    outcome = Outcome(
        record=made,
        cost=priced,
        requested=s.requested,
        stayed=sum(n for i, n in enumerate(on_nodes) if i not in call.old),
        wrong=wrong,
        full=tuple(n for n in sorted(call.new) if ret and not s.free(n)),
        before=mapped,
        after=footprint.of(s.view(), space) if call.footprints else None,
    )
    if not call.logs:
        contents.leave(s.state.memory)
    outcome.traced = _traced(target, s, space, profile, call, outcome)
    return outcome


def _traced(
    target: Target,
    session: Session,
    space: syscalls.Space,
    profile: Profile,
    call: Call,
    outcome: Outcome,
) -> Traced:
    """The record with everything that traces of the call need."""
    live = target.name.isdigit()
    task = ("target" if live else target.name.partition(":")[0], FIRST_PID)
    names = {mm: task for mm in range(session.state.cpus.mask.shape[0])}
    if live:
        names = dict.fromkeys(names, ("target", int(target.name)))
    loaded = np.asarray(session.state.cpus.mm).tolist()
    who = call.caller or "migratepages"
    return Traced.of(
        profile,
        outcome.cost,
        outcome.record,
        copy=call.copy,
        arch=_arch(profile, session.kernel),
        title=f"{session.kernel}: {who}, {target.name}",
        calls=tuple(session.logs or ()),
        cpu=call.cpu,
        places=Addresses(space.areas),
        tasks=tasks(len(loaded), loaded, names, call.cpu, who),
        counts_splits=session.release.counts_nr_split,
    )


def _is_syscall(call: Call) -> bool:
    return call.caller is None and call.mode in (None, "sync")


def _migrate(
    session: Session, space: syscalls.Space, call: Call
) -> tuple[int, dict[str, Any]]:
    """The return value of the call, and the record's fields about a caller."""
    if _is_syscall(call):
        ret = syscalls.migrate_pages(
            session, space, call.old, call.new, privileged=call.privileged
        )
        stay = {} if call.privileged else {"shared_stay": session.shared_stay}
        return ret, stay
    caller = call.caller or "kernel"
    node = min(call.new)
    done = callers.call(session, space, call.old, node, caller=caller, mode=call.mode)
    return done.ret, done.fields(caller) if call.caller else {}


def _price(
    session: Session, profile: Profile, kernel: str, copy: str, seed: int
) -> tuple[cost.Cost, cost.Policy]:
    policy: cost.Policy = "batched" if release(kernel).batched else "serial"
    arch = _arch(profile, kernel)
    how = {"copy": copy, "policy": policy, "arch": arch, "seed": seed}
    return cost.price(session.counts, profile, **how), policy


def _arch(profile: Profile, kernel: str) -> Arch:
    # Releases without support for INVLPGB send IPIs on such a CPU too.
    if profile.arch == "x86-invlpgb" and not rules(kernel, arch=profile.arch).invlpgb:
        return "x86"
    return profile.arch


__all__ = ["Call", "LogTooLong", "Outcome", "SleepsForever", "run"]
