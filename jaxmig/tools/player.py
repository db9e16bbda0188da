"""Play a scenario: build its machine, make its calls on each kernel, write records.

load(path) --> build() --> for each kernel: call by call on one state --> RECORD
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.calls import callers, syscalls
from jaxmig.calls.syscalls import Session, Space, parse_nodes
from jaxmig.linux.releases import release
from jaxmig.report.records import Record, record
from jaxmig.report.timed import FIRST_PID, Addresses, Traced, tasks
from jaxmig.sources.scenario import CallSpec, Scenario, ScenarioError
from jaxmig.state.machine import Machine
from jaxmig.time import cost, machines
from jaxmig.tools.world import Layout, build

__all__ = ["Layout", "build", "play"]

SLEEPABLE: Final = ("locked", "writeback", "buffers_locked")


@dataclasses.dataclass(frozen=True)
class _Options:
    batch: int
    arch: machines.Arch | None
    copy: str
    profile: machines.Profile
    trace: Callable[[Traced], None] | None = None
    logs: bool = False
    seed: int = 0


def play(
    scenario: Scenario,
    *,
    kernels: Sequence[str] | None = None,
    batch: int | None = None,
    arch: machines.Arch | None = None,
    profile: machines.Profile | None = None,
    copy: str | None = None,
    content: bool = False,
    seed: int | None = None,
    trace: Callable[[Traced], None] | None = None,
    logs: bool = False,
    tick: Callable[[str, float], None] = lambda what, share: None,
) -> list[Record]:
    """Records of all calls, kernel by kernel, each kernel from a fresh state.

    Args:
      scenario: from `load`.
      kernels: instead of those that the scenario names.
      batch: base pages that close a batch, instead of the file's; 0: no limit.
      arch: instead of the profile's.
      profile: instead of the one that the scenario names.
      copy: the copy engine that is priced, "cpu", "threads:N" or "dma:N", instead of
        the file's.
      content, seed: as for `world.build`.
      trace: called with what traces of each call need.
      logs: whether that includes the call's log, which makes calls slower.
      tick: called after each call with what was done and its share of the whole.
    Returns:
      A record for each call, all calls of a kernel together.
    Raises:
      ScenarioError: for a profile that does not exist, or a call that would sleep for
        ever.
      ValueError: for a release, architecture or copy engine that is not modelled.
    """
    p = profile or _profile(scenario)
    batch = scenario.machine.max_batch if batch is None else batch
    copy = scenario.machine.copy if copy is None else copy
    options = _Options(batch, arch, copy, p, trace, logs, seed or 0)
    kernels = kernels or scenario.kernels
    _check_callers(scenario, kernels)
    fresh, layout = build(scenario, content=content, seed=seed, share_programs=True)
    records: list[Record] = []
    share = 1 / max(len(kernels) * len(scenario.calls), 1)
    for kernel in kernels:
        state = start(scenario, fresh, kernel)
        for number in range(len(scenario.calls)):
            state, made = _call(scenario, layout, state, kernel, number, options)
            records.append(made)
            tick(f"{kernel}: {made['syscall']}", share)
    return records


def start(scenario: Scenario, fresh: Machine, kernel: str) -> Machine:
    """The built machine as a release has it before the first call.

    Since 6.14 a CPU that has switched to another process stays in the mask; before, it
    left the mask with the switch.
    """
    cpus = fresh.cpus
    left = [(mm, c) for mm, p in enumerate(scenario.processes) for c in p.left]
    if not left or not release(kernel).keeps_mask:
        return fresh
    mask = cpus.mask.at[tuple(np.transpose(left))].set(True)
    return dataclasses.replace(fresh, cpus=dataclasses.replace(cpus, mask=mask))


def _profile(scenario: Scenario) -> machines.Profile:
    name = scenario.machine.profile
    try:
        return machines.load(name)
    except machines.ProfileError as error:
        raise scenario.error(("machine", "profile"), f'"{name}"', str(error)) from None


def _call(
    scenario: Scenario,
    layout: Layout,
    state: Machine,
    kernel: str,
    number: int,
    options: _Options,
) -> tuple[Machine, Record]:
    """One call and its record."""
    c = scenario.calls[number]
    arch = options.arch or options.profile.arch
    s = Session(
        state,
        kernel,
        cpu=c.cpu,
        batch=options.batch,
        arch=arch,
        nodes=scenario.machine.nodes,
        cpus=scenario.machine.cpus,
        memory=layout.memory,
        engine=options.copy.startswith(cost.ENGINE),
        keep_logs=options.logs,
    )
    try:
        ret, extra = _make(scenario, s, layout.spaces[c.process], c)
    except syscalls.SleepsForever:
        raise _endless(scenario, c, number) from None
    except callers.NoSuchCaller as problem:
        raise _no_caller(scenario, number, problem) from None
    except syscalls.NotModelled as problem:
        where = ("call", number, "syscall")
        raise scenario.error(
            where, f'"{c.syscall}"', f"not modelled: {problem}"
        ) from None
    policy: cost.Policy = "batched" if release(kernel).batched else "serial"
    # Releases without support for INVLPGB send IPIs on such a CPU too.
    if arch == "x86-invlpgb" and not release(kernel).invlpgb:
        arch = "x86"
    folios = cost.folios_a_batch(s.counts)
    copy = cost.channels(options.copy, folios, release(kernel).offloads)
    options = dataclasses.replace(options, copy=copy)
    priced = cost.price(
        s.counts,
        options.profile,
        copy=copy,
        policy=policy,
        arch=arch,
        seed=options.seed,
    )
    nodes = syscalls.pages_by_node(s.view(), layout.spaces[c.process], s.nodes)
    made = record(
        kernel=kernel,
        policy=policy,
        syscall=c.syscall,
        ret=ret,
        counts=s.counts,
        ipis_per_cpu=s.ipis,
        nodes_after={str(n): pages for n, pages in enumerate(nodes)},
        cost=priced,
        wall_s=s.wall_s,
        batch=options.batch,
        compile_s=s.compile_s,
        **extra,
    )
    if options.trace is not None:
        options.trace(_traced(scenario, layout, s, made, priced, number, options, arch))
    return s.state, made


def _traced(
    scenario: Scenario,
    layout: Layout,
    session: Session,
    record: Record,
    priced: cost.Cost,
    number: int,
    options: _Options,
    arch: machines.Arch,
) -> Traced:
    """The record with everything that traces of one call need."""
    c = scenario.calls[number]
    names = {mm: (p.name, FIRST_PID + mm) for mm, p in enumerate(scenario.processes)}
    loaded = np.asarray(session.state.cpus.mm)[: len(session.ipis)].tolist()
    who = c.caller or c.syscall
    return Traced.of(
        options.profile,
        priced,
        record,
        copy=options.copy,
        arch=arch,
        title=f"{session.kernel}: call {number + 1}: {c.syscall}, process {c.process}",
        calls=tuple(session.logs or ()),
        cpu=c.cpu,
        places=Addresses(a for space in layout.spaces.values() for a in space.areas),
        tasks=tasks(len(loaded), loaded, names, c.cpu, who),
        counts_splits=session.release.counts_nr_split,
        full=[n for n in range(session.nodes) if not session.free(n)],
    )


def _make(
    scenario: Scenario, session: Session, space: Space, spec: CallSpec
) -> tuple[int, dict[str, Any]]:
    """The return value of the call, and fields that only its record has."""
    match spec.syscall:
        case "migrate_pages":
            ret = _migrate_pages(session, space, spec)
            stay = {} if spec.privileged else {"shared_stay": session.shared_stay}
            return ret, stay
        case "move_pages":
            ret, status = _move_pages(scenario, session, space, spec)
            return ret, {"status": status}
        case "mbind":
            return _mbind(scenario, session, space, spec), {}
    old, new = (parse_nodes(text, session.nodes) for text in (spec.from_, spec.to))
    node = min(new, default=0)
    if spec.caller is None:
        return callers.call(session, space, old, node, mode=spec.mode).ret, {}
    done = callers.call(
        session,
        space,
        old,
        node,
        caller=spec.caller,
        mode=spec.mode,
        order=spec.order,
        direct=spec.direct,
        lru_gen=scenario.machine.lru_gen,
        compact_unevictable=scenario.machine.compact_unevictable,
        tier=frozenset(new),
    )
    return done.ret, done.fields(spec.caller)


def _cpuset(session: Session, text: str | None) -> frozenset[int] | None:
    return None if text is None else parse_nodes(text, session.nodes)


def _migrate_pages(session: Session, space: Space, spec: CallSpec) -> int:
    return syscalls.migrate_pages(
        session,
        space,
        parse_nodes(spec.from_, session.nodes),
        parse_nodes(spec.to, session.nodes),
        privileged=spec.privileged,
        pid=spec.pid,
        cpuset=_cpuset(session, spec.cpuset),
        caller_cpuset=_cpuset(session, spec.caller_cpuset),
        maxnode=spec.maxnode,
        fault_at=spec.fault_at,
    )


def _move_pages(
    scenario: Scenario, session: Session, space: Space, spec: CallSpec
) -> tuple[int, list[int | None]]:
    if isinstance(spec.nodes, str):
        raise TypeError("move_pages takes no node string")
    return syscalls.move_pages(
        session,
        space,
        scenario.addresses(spec),
        spec.nodes,
        syscalls.MOVE if spec.flags is None else spec.flags,
        privileged=spec.privileged,
        pid=spec.pid,
        cpuset=_cpuset(session, spec.cpuset),
        fault_at=spec.fault_at,
    )


def _mbind(scenario: Scenario, session: Session, space: Space, spec: CallSpec) -> int:
    if isinstance(spec.pages, str):
        region = scenario.region(spec.pages)
        start, length = region.start, region.size
    else:
        start, length = scenario.address(spec.start or 0), spec.length or 0
    if isinstance(spec.nodes, tuple):
        nodes = frozenset(spec.nodes)
    else:
        nodes = (
            frozenset()
            if spec.nodes is None
            else parse_nodes(spec.nodes, session.nodes)
        )
    return syscalls.mbind(
        session,
        space,
        start,
        length,
        "bind" if spec.policy is None else spec.policy,
        nodes,
        spec.flags or 0,
        home=scenario.machine.node_of_cpu(spec.cpu),
        privileged=spec.privileged,
        caller_cpuset=_cpuset(session, spec.caller_cpuset),
        maxnode=spec.maxnode,
        fault_at=spec.fault_at,
    )


def _check_callers(scenario: Scenario, kernels: Sequence[str]) -> None:
    """Refuse callers that a release lacks, before anything is played."""
    for number, c in enumerate(scenario.calls):
        for kernel in kernels:
            try:
                callers.check(c.caller or "kernel", kernel)
            except callers.NoSuchCaller as problem:
                raise _no_caller(scenario, number, problem) from None


def _no_caller(scenario: Scenario, number: int, problem: Exception) -> ScenarioError:
    caller = scenario.calls[number].caller
    return scenario.error(("call", number, "caller"), f'"{caller}"', str(problem))


def _endless(scenario: Scenario, spec: CallSpec, number: int) -> ScenarioError:
    """The error for a call that would never return, at the condition it waits for."""
    problem = 'the call would sleep for ever; write until = "waited" or "attempt:n"'
    for i, condition in enumerate(scenario.conditions):
        mapped = spec.process in scenario.region(condition.region).processes
        waits = condition.state in SLEEPABLE and condition.until == "forever"
        if mapped and waits:
            where = ("condition", i, "state")
            return scenario.error(where, f'"{condition.state}"', problem)
    return scenario.error(("call", number, "syscall"), f'"{spec.syscall}"', problem)
