"""Options that several commands have, and the types that check their values."""

import argparse
from collections.abc import Callable
from typing import Final

from jaxmig import machines, nodes, report
from jaxmig.cli import htmlreport
from jaxmig.cli.errors import Parser, did_you_mean
from jaxmig.machine import PAGE_BYTES
from jaxmig.migrate import NR_MAX_BATCHED_MIGRATION
from jaxmig.releases import RELEASES, expand
from jaxmig.rules import MODES
from jaxmig.scenario.words import CALLER_MODES, size_of

MAX_INT: Final = 2**31 - 1
MAX_CPUS: Final = 8192
MAX_NODES: Final = 1024


def add_parser(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    summary: str,
    examples: str,
    run: Callable[[argparse.Namespace], int],
) -> Parser:
    """A command's parser; its help opens with an example."""
    made = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
    )
    made.example = examples
    made.set_defaults(run=run)
    return made


def add_machine(parser: Parser) -> None:
    """Which kernels, on what hardware."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--kernel",
        type=kernels,
        metavar="LIST",
        help=f"both (6.2 and 6.3, the default), latest, a range such as 6.1-7.3, or any of "
        f"{' '.join(RELEASES)}",
    )
    group.add_argument(
        "--machine",
        type=machine,
        metavar="NAME",
        help="cost profile: a name of `jaxmig machines` or a .toml file (xeon-2s)",
    )
    group.add_argument(
        "--nodes",
        type=whole("nodes", 1, MAX_NODES),
        metavar="N",
        help="memory nodes (2, or what the target needs)",
    )
    group.add_argument(
        "--cpus",
        type=whole("CPUs", 1, MAX_CPUS),
        metavar="N",
        help="CPUs (the profile's)",
    )
    group.add_argument(
        "--running",
        type=cpus,
        metavar="CPUS",
        help="CPUs that run the target, like 1-3,7, or none (memhog: 5 as published; "
        "pmbench: its threads; a PID: where its threads last ran)",
    )
    group.add_argument(
        "--lazy",
        type=cpus,
        metavar="CPUS",
        help="idle CPUs that still hold the target's page table (none)",
    )


def add_call(parser: Parser) -> None:
    """How the migration is called."""
    group = parser.add_argument_group("call")
    group.add_argument(
        "--cpu",
        type=whole("CPU", 0, MAX_CPUS - 1),
        metavar="N",
        help="the CPU that migrates (0)",
    )
    group.add_argument(
        "--batch",
        type=whole("base pages", 0, MAX_INT),
        metavar="PAGES",
        help=f"base pages a batch; 0: no limit ({NR_MAX_BATCHED_MIGRATION})",
    )
    group.add_argument(
        "--content",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="carry and check the 4 KiB of every page (yes)",
    )
    group.add_argument("--copy", metavar="ENGINE", help="cpu, threads:N or dma:N (cpu)")
    group.add_argument(
        "--mode",
        choices=MODES,
        metavar="MODE",
        help=f"of migrate_pages(): {', '.join(MODES)} (the caller's)",
    )
    group.add_argument(
        "--caller",
        choices=tuple(CALLER_MODES),
        metavar="CALLER",
        help=f"who calls migrate_pages(): {', '.join(CALLER_MODES)} (the system call)",
    )
    group.add_argument(
        "--seed",
        type=whole("seed", 0, MAX_INT),
        metavar="N",
        help="of the order of frames in memory (0)",
    )


def add_output(parser: Parser) -> None:
    """Where results go, and how they look."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", metavar="FILE", help="also as JSON; - is standard output, alone"
    )
    group.add_argument(
        "--csv", metavar="FILE", help="also as CSV; - is standard output, alone"
    )
    group.add_argument(
        "--plot",
        metavar="FILE",
        help="also as a picture, .png or .svg: time by phase, call trees",
    )
    htmlreport.add(group)
    group.add_argument(
        "--tree",
        action="store_true",
        help="also the parts of the modelled time, and its call trees",
    )
    group.add_argument(
        "--table",
        choices=report.FORMATS,
        default="simple",
        metavar="FORMAT",
        help=f"of the table: {', '.join(report.FORMATS)} (simple)",
    )


def kernels(text: str) -> tuple[str, ...]:
    """`both`, `all`, or releases and ranges of them separated by commas."""
    if text == "all":
        return tuple(RELEASES)
    try:
        return expand(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def machine(text: str) -> str:
    """The name of a profile, or a file."""
    if not text.endswith(".toml") and text not in machines.names():
        known = ", ".join(machines.names())
        near = did_you_mean(text, machines.names())
        line = f"{text!r} is no machine; use a .toml file or one of {known}{near}"
        raise argparse.ArgumentTypeError(line)
    return text


def cpus(text: str) -> tuple[int, ...]:
    """A list of CPUs."""
    try:
        return nodes.parse_cpus(text)
    except nodes.NodeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def pages(text: str) -> int:
    """A size as base pages."""
    size = size_of(text)
    if size is None or size > MAX_INT * PAGE_BYTES:
        line = f"{text!r} is no size; give one like 512m"
        raise argparse.ArgumentTypeError(line)
    return size // PAGE_BYTES


def free(text: str) -> dict[int, int]:
    """`NODE=SIZE,...`: base pages free by node."""
    found = {}
    for part in text.split(","):
        node, _, size = part.partition("=")
        if not (node.isascii() and node.isdigit() and int(node) < MAX_NODES):
            line = f"{part!r}: write NODE=SIZE, like 1=512m"
            raise argparse.ArgumentTypeError(line)
        found[int(node)] = pages(size)
    return found


def whole(what: str, least: int, most: int) -> Callable[[str], int]:
    """A type for whole numbers from `least` to `most`."""

    def number(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 12:
            value = int(text)
            if least <= value <= most:
                return value
        line = f"{text!r}: give a number from {least} to {most} ({what})"
        raise argparse.ArgumentTypeError(line)

    return number
