"""Options of `run` that replace values of the scenario file."""

import argparse
import tomllib
from dataclasses import replace

from jaxmig.cli.errors import Usage
from jaxmig.sources.scenario import CallSpec, MachineSpec, ProcessSpec, Scenario
from jaxmig.sources.scenario.calls import misfit
from jaxmig.sources.scenario.words import CALLER_MODES


def overridden(scenario: Scenario, args: argparse.Namespace) -> Scenario:
    """The scenario with the options that were given.

    Raises:
      Usage: an option that does not fit the rest of the file.
    """
    machine = _machine(scenario, args)
    processes = _processes(scenario, args, machine.cpus)
    for name in ("mode", "caller"):
        given = getattr(args, name) is not None
        if given and all(c.syscall != "kernel" for c in scenario.calls):
            raise Usage(
                f"{scenario.path}: no call is `kernel`, and others have no {name}; leave "
                f'out --{name}, or write syscall = "kernel"'
            )
    calls = tuple(
        _call(scenario, number, args) for number in range(len(scenario.calls))
    )
    for number, c in enumerate(calls, 1):
        wrong = misfit(c.caller, c.mode, c.order, c.direct)
        if wrong:
            raise Usage(f"{scenario.path}: {wrong[0]} of call {number}: {wrong[1]}")
    bad = [c.cpu for c in calls if c.cpu >= machine.cpus]
    if bad:
        raise Usage(
            f"{scenario.path}: CPU {bad[0]} migrates, of {machine.cpus}; see --cpus"
        )
    kernels = args.kernel or scenario.kernels
    return replace(
        scenario, kernels=kernels, machine=machine, processes=processes, calls=calls
    )


def _machine(scenario: Scenario, args: argparse.Namespace) -> MachineSpec:
    spec = scenario.machine
    if args.machine:
        spec = replace(spec, profile=args.machine)
    if args.cpus:
        spec = replace(spec, cpus=args.cpus)
    if args.batch is not None:
        spec = replace(spec, max_batch=args.batch)
    if args.copy:
        spec = replace(spec, copy=args.copy)
    if args.nodes:
        used = [r.node for r in scenario.regions] + [n for n, _ in spec.free]
        if max(used, default=0) >= args.nodes:
            raise Usage(
                f"{scenario.path}: uses node {max(used)}; --nodes {args.nodes} is too few"
            )
        sizes = spec.node_size[: args.nodes]
        more = sizes[-1:] * (args.nodes - len(sizes))
        spec = replace(spec, nodes=args.nodes, node_size=sizes + more)
    return spec


def _processes(
    scenario: Scenario, args: argparse.Namespace, cpus: int
) -> tuple[ProcessSpec, ...]:
    processes = scenario.processes
    if args.running is not None or args.lazy is not None:
        if len(processes) != 1:
            raise Usage(
                f"{scenario.path}: has {len(processes)} processes, --running and --lazy "
                "are for one; write them into the file"
            )
        running = processes[0].running if args.running is None else args.running
        lazy = processes[0].lazy if args.lazy is None else args.lazy
        processes = (replace(processes[0], running=running, lazy=lazy),)
    for process in processes:
        _check_cpus(scenario.path, process, cpus)
    return processes


def _check_cpus(path: str, process: ProcessSpec, count: int) -> None:
    """Refuse what a file may not say: a CPU in two lists, or none of the machine's."""
    found: dict[int, str] = {}
    for name, does in (("running", "holds"), ("lazy", "holds"), ("left", "has left")):
        for cpu in sorted(getattr(process, name)):
            if cpu in found:
                both = f"CPU {cpu} is both {found[cpu]} and {name}"
                raise Usage(f"{path}: {both}; choose one")
            if cpu >= count:
                what = f"CPU {cpu} {does} a process, of {count}"
                raise Usage(f"{path}: {what}; see --cpus")
            found[cpu] = name


def _call(scenario: Scenario, number: int, args: argparse.Namespace) -> CallSpec:
    """The call with --mode and --caller, if it is of the kernel function itself."""
    spec = scenario.calls[number]
    if args.cpu is not None:
        spec = replace(spec, cpu=args.cpu)
    if spec.syscall == "kernel":
        mode = spec.mode
        # A call whose file gives no mode has that of its caller, also of another one.
        if args.caller and "mode" not in tomllib.loads(scenario.source)["call"][number]:
            mode = CALLER_MODES[args.caller]
        caller = args.caller or spec.caller
        spec = replace(spec, mode=args.mode or mode, caller=caller)
    return spec
