"""Options of `sweep`, and the sweep that they describe."""

import argparse
import hashlib
from collections.abc import Sequence

from jaxmig import report
from jaxmig.cli import named, shape, whatif
from jaxmig.cli.errors import Usage, say
from jaxmig.host.terminal import printable
from jaxmig.sources.targets import file_of
from jaxmig.time import machines
from jaxmig.tools.sweep import Grid, Sweep
from jaxmig.tools.sweep.memory import Memory


def sweep_of(args: argparse.Namespace) -> Sweep:
    """The sweep.

    Raises:
      Usage, Failure: options that do not fit together.
    """
    profiles = {name: machines.load(name) for name in args.machine}
    for profile in profiles.values():
        for copy in args.copy:
            profile.copy_speedups(copy)  # refuses an engine that the machine lacks
    cpus = args.cpus or (next(iter(profiles.values())).cpus,)
    target = whatif.target(args, named.target(args.target, args.pid), max(cpus))
    n = max(2, target.nodes)
    old, new = (
        shape.nodes_of(*pair, n) for pair in (("FROM", args.from_), ("TO", args.to))
    )
    if args.mode != ("sync",) and len(new) > 1:
        raise Usage(f"{args.to!r}: only the system call takes several nodes; name one")
    given = args.running if isinstance(args.running, tuple) else None
    check_running(given, max(cpus))
    everywhere = args.running == "all"
    memory = Memory(target, n, min(old), max(cpus), everywhere, given=given)
    thp = args.thp or (target.thp,)
    if args.thp:
        # The axis has the shares that were reached, not those that were asked for.
        shaped = [memory.shaped(percent) for percent in args.thp]
        thp = tuple(dict.fromkeys(one.thp for one in shaped))
        for percent, one in zip(args.thp, shaped, strict=True):
            if target.own_sizes and one is not target:
                say(f"--thp {percent}: {one.assumed[0]}")
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


def check_running(given: tuple[int, ...] | None, cpus: int) -> None:
    """Raise Usage for a CPU that a machine of `cpus` lacks."""
    if max(given or (0,)) >= cpus:
        bad = next(c for c in given or () if c >= cpus)
        raise Usage(f"--running: CPU {bad}: the machine has CPUs 0-{cpus - 1}")


def assumed(sweep: Sweep, found_out: Sequence[str] = ()) -> str:
    """The machine and the state of all rows, in one line like other commands'.

    Args:
      found_out: axes whose values the command chooses itself.
    """
    g, memory = sweep.grid, sweep.memory
    several = [name for name, values in g.axes.items() if len(values) > 1]
    varied = [name for name in g.axes if name in (*several, *found_out)]
    return report.assumed_line(
        next(iter(sweep.profiles.values())),
        running=memory.running(memory.cpus),
        ran=memory.target.ran if memory.given is None and not memory.everywhere else "",
        cpus=memory.cpus,
        nodes=memory.nodes,
        batch=None if "batch" in varied else g.batch[0],
        copy=None if "copy" in varied else g.copy[0],
        content=False,
        varied=varied,
    )


def remarks(sweep: Sweep, copies: Sequence[str]) -> list[str]:
    """Lines about what is not known of the target, and what was assumed.

    Args:
      sweep: of the target.
      copies: the engines whose rates are explained.
    """
    t = sweep.memory.target
    lines = [f"Not known: {line}." for line in t.missing]
    lines += [f"Assumed: {line}." for line in t.assumed]
    rates = [p.copy_assumed(c) for p in sweep.profiles.values() for c in copies]
    lines += [f"Assumed: {line}." for line in rates if line]
    return [printable(line) for line in lines]


def digest(target: str) -> str:
    """A hash of the file that a target is read from, "" if there is none."""
    name = file_of(target)
    if not name:
        return ""
    with open(name, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
