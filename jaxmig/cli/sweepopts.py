"""Options of `sweep`, and the sweep that they describe."""

import argparse
import hashlib

from jaxmig import machines, nodes
from jaxmig.cli import named
from jaxmig.cli.errors import Failure, Usage
from jaxmig.sweep import Grid, Sweep
from jaxmig.sweep.memory import Memory
from jaxmig.targets import file_of


def sweep_of(args: argparse.Namespace) -> Sweep:
    """The sweep; Usage or Failure where options do not fit together."""
    profiles = {name: machines.load(name) for name in args.machine}
    for profile in profiles.values():
        for copy in args.copy:
            profile.copy_speedups(copy)  # refuses an engine that the machine lacks
    target = named.target(args.target, args.pid)
    n = max(2, target.nodes)
    old, new = (nodes_of(*pair, n) for pair in (("FROM", args.from_), ("TO", args.to)))
    if args.mode != ("sync",) and len(new) > 1:
        raise Usage(f"{args.to!r}: only the system call takes several nodes; name one")
    cpus = args.cpus or (next(iter(profiles.values())).cpus,)
    memory = Memory(target, n, min(old), max(cpus), args.running == "all")
    if args.thp and memory.own_sizes:
        raise Failure(f"{target.name}: has page sizes of its own; leave out --thp")
    thp = args.thp or (100 if target.name.endswith(",thp") else 0,)
    axes = (thp, args.kernel, args.mode, cpus, args.batch, args.machine, args.copy)
    return Sweep(
        memory=memory,
        old=old,
        new=new,
        grid=Grid(*axes),
        profiles=profiles,
        samples=args.samples,
        seed=args.seed,
        digest=digest(args.target),
    )


def digest(target: str) -> str:
    """A hash of the file that a target is read from, nothing if it is none."""
    name = file_of(target)
    if not name:
        return ""
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def nodes_of(name: str, text: str, n: int) -> frozenset[int]:
    """The nodes of one argument; Usage for none or for one that the machine lacks."""
    try:
        found = nodes.parse(text, n)
    except nodes.NodeError as error:
        raise Usage(f"{name}: {error}") from None
    if not found:
        raise Usage(f"{name}: {text!r} names none of the nodes 0-{n - 1}; name one")
    return frozenset(found)
