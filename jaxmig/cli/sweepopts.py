"""Options of `sweep`, and the sweep that they describe."""

import argparse
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from jaxmig import machines, nodes, report
from jaxmig.cli import htmlreport, named, options, whatif
from jaxmig.cli.errors import Parser, Usage, say
from jaxmig.migrate import NR_MAX_BATCHED_MIGRATION
from jaxmig.releases import BOTH
from jaxmig.rules import MODES
from jaxmig.sweep import AxisError, Grid, Sweep, values
from jaxmig.sweep.memory import Memory
from jaxmig.targets import file_of

MAX_SAMPLES: Final = 10_000_000


def add(parser: Parser) -> None:
    """Everything after `jaxmig sweep`."""
    add_target(parser)
    _add_axes(
        parser.add_argument_group("axes, each one value, a list, A:B:STEP, A:B:2x")
    )
    whatif.add(parser, thp=False)
    _add_sample(parser.add_argument_group("sample"))
    _add_file(parser.add_argument_group("file"))
    group = parser.add_argument_group("many processes, each with a part of the rows")
    group.add_argument(
        "--processes", type=options.whole("processes", 1, 100_000), default=1,
        metavar="N", help="how many there are (1)",
    )  # fmt: skip
    group.add_argument(
        "--process-id", type=options.whole("process", 0, 99_999), default=0,
        metavar="I", help="which one this is, from 0; whoever ends last merges",
    )  # fmt: skip
    group.add_argument(
        "--coordinator", metavar="HOST:PORT",
        help="process 0's address: parts come over the network, not a shared directory",
    )  # fmt: skip


def add_target(parser: Parser) -> None:
    """What moves, and from where to where."""
    parser.add_argument("target", metavar="TARGET", help=named.TARGET)
    for name, node in (("from_", "0"), ("to", "1")):
        parser.add_argument(
            name,
            metavar=name.strip("_").upper(),
            nargs="?",
            default=node,
            help=f"nodes ({node})",
        )
    parser.add_argument(
        "--pid",
        type=options.whole("PID", 1, options.MAX_INT),
        help="which process of a snapshot or trace that holds several",
    )


def _add_axes(group: Any) -> None:
    group.add_argument(
        "--batch", type=_axis("base pages", 0, options.MAX_INT),
        default=(NR_MAX_BATCHED_MIGRATION,), metavar="PAGES",
        help="base pages at which a batch is closed; 0: no limit (512)",
    )  # fmt: skip
    group.add_argument(
        "--cpus", type=_axis("CPUs", 1, options.MAX_CPUS), metavar="N",
        help="CPUs of the machine (the first profile's)",
    )  # fmt: skip
    group.add_argument(
        "--thp", type=_axis("percent", 0, 100), metavar="PERCENT",
        help="share of the pages in THPs, as near as can be (the target's)",
    )  # fmt: skip
    group.add_argument(
        "--kernel", type=options.kernels, default=BOTH, metavar="LIST",
        help="both (6.2 and 6.3), or any releases",
    )  # fmt: skip
    group.add_argument(
        "--machine", type=_names, default=("xeon-2s",), metavar="LIST",
        help="cost profiles: names of `jaxmig machines`, .toml files, or all",
    )  # fmt: skip
    group.add_argument(
        "--copy", type=_once, default=("cpu",), metavar="LIST",
        help="copy engines: cpu, threads:N, dma:N (cpu)",
    )  # fmt: skip
    group.add_argument(
        "--mode", type=_modes, default=("sync",), metavar="LIST",
        help=f"of migrate_pages(): {', '.join(MODES)} (sync, by the system call)",
    )  # fmt: skip
    group.add_argument(
        "--running", type=_running, default="target", metavar="CPUS",
        help="CPUs that run the target, like 1-3,7 (those that a machine has), all but "
        "the migrating one, or target: where it ran, as in migratepages (target)",
    )  # fmt: skip


def _add_sample(group: Any) -> None:
    group.add_argument(
        "--samples", type=options.whole("samples", 1, MAX_SAMPLES), metavar="N",
        help="so many points of the grid, drawn at random, instead of all",
    )  # fmt: skip
    group.add_argument(
        "--seed", type=options.whole("seed", 0, options.MAX_INT), default=0,
        metavar="N", help="of the drawing (0)",
    )  # fmt: skip


def _add_file(group: Any) -> None:
    group.add_argument(
        "-o", "--output", metavar="FILE",
        help=".csv or .parquet; standard output if left out",
    )  # fmt: skip
    group.add_argument("--plot", metavar="FILE", help="a picture, .png or .svg")
    htmlreport.add(group)
    group.add_argument(
        "--resume", action="store_true", help="go on where the file ends"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="begin again if the file exists"
    )


def sweep_of(args: argparse.Namespace) -> Sweep:
    """The sweep; Usage or Failure where options do not fit together."""
    profiles = {name: machines.load(name) for name in args.machine}
    for profile in profiles.values():
        for copy in args.copy:
            profile.copy_speedups(copy)  # refuses an engine that the machine lacks
    cpus = args.cpus or (next(iter(profiles.values())).cpus,)
    target = whatif.target(args, named.target(args.target, args.pid), max(cpus))
    n = max(2, target.nodes)
    old, new = (nodes_of(*pair, n) for pair in (("FROM", args.from_), ("TO", args.to)))
    if args.mode != ("sync",) and len(new) > 1:
        raise Usage(f"{args.to!r}: only the system call takes several nodes; name one")
    given = args.running if isinstance(args.running, tuple) else None
    check_running(given, max(cpus))
    everywhere = args.running == "all"
    memory = Memory(target, n, min(old), max(cpus), everywhere, given=given)
    thp = args.thp or (target.thp,)
    if args.thp:
        # What cannot be reached is no value of the axis: rows say what is there.
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
    """Raises Usage for a CPU that a machine of `cpus` lacks."""
    if max(given or (0,)) >= cpus:
        bad = next(c for c in given or () if c >= cpus)
        raise Usage(f"--running: CPU {bad}: the machine has CPUs 0-{cpus - 1}")


def assumed(s: Sweep, found_out: Sequence[str] = ()) -> str:
    """What holds for all rows, as every command says it.

    Args:
      found_out: axes whose values the command chooses itself.
    """
    g, memory = s.grid, s.memory
    several = [name for name, values in g.axes.items() if len(values) > 1]
    varied = [name for name in g.axes if name in (*several, *found_out)]
    return report.assumed_line(
        next(iter(s.profiles.values())),
        running=memory.running(memory.cpus),
        cpus=memory.cpus,
        nodes=memory.nodes,
        batch=None if "batch" in varied else g.batch[0],
        copy=None if "copy" in varied else g.copy[0],
        content=False,
        varied=varied,
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


def _axis(what: str, least: int, most: int) -> Callable[[str], tuple[int, ...]]:
    def axis(text: str) -> tuple[int, ...]:
        try:
            return values(text, what, least, most)
        except AxisError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return axis


def _running(text: str) -> str | tuple[int, ...]:
    return text if text in ("all", "target") else options.cpus(text)


def _once(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    if text == "all":
        return tuple(machines.names())
    return tuple(dict.fromkeys(options.machine(name) for name in text.split(",")))


def _modes(text: str) -> tuple[str, ...]:
    chosen = _once(text)
    for mode in chosen:
        if mode not in MODES:
            line = f"{mode!r} is no mode; use {', '.join(MODES)}"
            raise argparse.ArgumentTypeError(line)
    return chosen
