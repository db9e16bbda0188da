"""Options of `run` that replace what the scenario file says."""

import argparse
from dataclasses import replace

from jaxmig.cli.errors import Usage
from jaxmig.scenario import CallSpec, MachineSpec, ProcessSpec, Scenario


def overridden(s: Scenario, args: argparse.Namespace) -> Scenario:
    """The scenario with the options that were given.

    Raises:
      Usage: an option that does not fit the rest of the file.
    """
    machine = _machine(s, args)
    processes = _processes(s, args, machine.cpus)
    calls = tuple(_call(c, args) for c in s.calls)
    bad = [c.cpu for c in calls if c.cpu >= machine.cpus]
    if bad:
        raise Usage(f"{s.path}: CPU {bad[0]} migrates, of {machine.cpus}; see --cpus")
    kernels = args.kernel or s.kernels
    return replace(
        s, kernels=kernels, machine=machine, processes=processes, calls=calls
    )


def _machine(s: Scenario, args: argparse.Namespace) -> MachineSpec:
    spec = s.machine
    if args.machine:
        spec = replace(spec, profile=args.machine)
    if args.cpus:
        spec = replace(spec, cpus=args.cpus)
    if args.batch is not None:
        spec = replace(spec, max_batch=args.batch)
    if args.copy:
        spec = replace(spec, copy=args.copy)
    if args.nodes:
        used = [r.node for r in s.regions] + [n for n, _ in spec.free]
        if max(used, default=0) >= args.nodes:
            raise Usage(
                f"{s.path}: uses node {max(used)}; --nodes {args.nodes} is too few"
            )
        sizes = spec.node_size[: args.nodes]
        more = sizes[-1:] * (args.nodes - len(sizes))
        spec = replace(spec, nodes=args.nodes, node_size=sizes + more)
    return spec


def _processes(
    s: Scenario, args: argparse.Namespace, cpus: int
) -> tuple[ProcessSpec, ...]:
    processes = s.processes
    if args.running is not None or args.lazy is not None:
        if len(processes) != 1:
            raise Usage(
                f"{s.path}: has {len(processes)} processes, --running and --lazy are "
                "for one; write them into the file"
            )
        running = processes[0].running if args.running is None else args.running
        lazy = processes[0].lazy if args.lazy is None else args.lazy
        if set(running) & set(lazy):
            both = min(set(running) & set(lazy))
            raise Usage(f"{s.path}: CPU {both} is both running and lazy; choose one")
        processes = (replace(processes[0], running=running, lazy=lazy),)
    bad = [c for p in processes for c in p.running + p.lazy if c >= cpus]
    if bad:
        raise Usage(f"{s.path}: CPU {bad[0]} holds a process, of {cpus}; see --cpus")
    return processes


def _call(c: CallSpec, args: argparse.Namespace) -> CallSpec:
    """Mode and caller are for calls of the kernel function itself."""
    if args.cpu is not None:
        c = replace(c, cpu=args.cpu)
    if c.syscall == "kernel":
        c = replace(c, mode=args.mode or c.mode, caller=args.caller or c.caller)
    return c
