"""Options of `run` that replace values of the scenario file."""

import argparse
from dataclasses import replace

from jaxmig.cli.errors import Usage
from jaxmig.sources.scenario import CallSpec, MachineSpec, ProcessSpec, Scenario


def overridden(scenario: Scenario, args: argparse.Namespace) -> Scenario:
    """The scenario with the options that were given.

    Raises:
      Usage: an option that does not fit the rest of the file.
    """
    machine = _machine(scenario, args)
    processes = _processes(scenario, args, machine.cpus)
    calls = tuple(_call(c, args) for c in scenario.calls)
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
        if set(running) & set(lazy):
            both = min(set(running) & set(lazy))
            raise Usage(
                f"{scenario.path}: CPU {both} is both running and lazy; choose one"
            )
        processes = (replace(processes[0], running=running, lazy=lazy),)
    bad = [c for p in processes for c in p.running + p.lazy if c >= cpus]
    if bad:
        raise Usage(
            f"{scenario.path}: CPU {bad[0]} holds a process, of {cpus}; see --cpus"
        )
    return processes


def _call(spec: CallSpec, args: argparse.Namespace) -> CallSpec:
    """The call with --mode and --caller, if it is of the kernel function itself."""
    if args.cpu is not None:
        spec = replace(spec, cpu=args.cpu)
    if spec.syscall == "kernel":
        spec = replace(
            spec, mode=args.mode or spec.mode, caller=args.caller or spec.caller
        )
    return spec
