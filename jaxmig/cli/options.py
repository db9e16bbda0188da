"""Options that several commands have, and the types that check their values.

Nothing here or in `parsers` imports JAX, so that help and usage errors come at once.
"""

import argparse
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

from jaxmig.cli.errors import Parser, Usage, did_you_mean
from jaxmig.host import nodes
from jaxmig.host.naming import TargetError, kind_of
from jaxmig.host.terminal import FORMATS
from jaxmig.linux.releases import MODES, NR_MAX_BATCHED_MIGRATION, RELEASES, expand
from jaxmig.sources.scenario.words import BASE_PAGE, CALLER_MODES, ENGINE, size_of
from jaxmig.time import machines

MAX_INT: Final = 2**31 - 1
MAX_CPUS: Final = 8192
MAX_NODES: Final = 1024
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s)")
KERNELS: Final = "both (6.2 and 6.3, the default), latest"
COPY: Final = (
    "the CPU, or N kernel threads or DMA channels, which Linux does not use: cpu, "
    "threads:N or dma:N (cpu)"
)
_PERCENT: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?")
_NS: Final = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
_LONGEST: Final = 10**18  # ns: 31 years
_MOST_ORDER: Final = 8  # of --folio: the next order is a THP
TARGET: Final = (
    "a PID, a snapshot FILE.npz[:PID], trace:FILE, memhog:SIZE[,thp] or "
    "pmbench:setsize=SIZE,jobs=N"
)


def add_target(parser: Parser) -> None:
    """Add TARGET, FROM and TO."""
    parser.add_argument("target", type=target, metavar="TARGET", help=TARGET)
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
        type=whole("PID", 1, MAX_INT),
        help="which process of a snapshot or trace that holds several",
    )


def add_machine(parser: Parser, words: str = KERNELS, lazy: bool = True) -> None:
    """Add the kernels, which `words` name with their default, and the hardware.

    With `lazy` also its lazy CPUs.
    """
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--kernel",
        type=kernels,
        metavar="LIST",
        help=f"{words}, a range such as 6.1-7.3, or any of {' '.join(RELEASES)}",
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
    if lazy:
        group.add_argument(
            "--lazy",
            type=cpus,
            metavar="CPUS",
            help="idle CPUs that still hold the target's page table (none)",
        )


def add_call(parser: Parser, of: str = "") -> None:
    """Add the arguments of the call; `of`: which calls of a file take mode and caller."""
    mode, caller = (
        ("the caller's", "the system call") if not of else ("the file's",) * 2
    )
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
    group.add_argument("--copy", type=engine, metavar="ENGINE", help=COPY)
    group.add_argument(
        "--mode",
        choices=MODES,
        metavar="MODE",
        help=f"of migrate_pages(){of}: {', '.join(MODES)} ({mode})",
    )
    group.add_argument(
        "--caller",
        choices=tuple(CALLER_MODES),
        metavar="CALLER",
        help=f"who calls migrate_pages(){of}: {', '.join(CALLER_MODES)} ({caller})",
    )
    group.add_argument(
        "--seed",
        type=whole("seed", 0, MAX_INT),
        metavar="N",
        help="of the order of frames in memory (0)",
    )


def add_output(parser: Parser) -> None:
    """Add the files for results, and their formats."""
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
    add_report(group)
    group.add_argument(
        "--tree",
        action="store_true",
        help="also the parts of the modelled time, and its call trees",
    )
    group.add_argument(
        "--table",
        choices=FORMATS,
        default="simple",
        metavar="FORMAT",
        help=f"of the table: {', '.join(FORMATS)} (simple)",
    )


def add_report(group: Any) -> None:
    """Add the option for the HTML page."""
    group.add_argument(
        "--report",
        metavar="FILE.html",
        help="also as a page of its own: answer, tables, figures with their values",
    )


def add_what_if(parser: Parser, thp: bool = True) -> None:
    """Add the changes to a target: page sizes, pins, node; with `thp` also its THPs."""
    group = parser.add_argument_group("what if")
    if thp:
        group.add_argument(
            "--thp",
            type=whole("percent", 0, 100),
            metavar="PERCENT",
            help="so many of the pages in THPs, promoted or split (as it is)",
        )
    group.add_argument(
        "--folio",
        type=folio,
        metavar="SIZE",
        help="of private anonymous memory outside THPs, 8k to 1m (as it is)",
    )
    group.add_argument(
        "--pinned",
        type=percent,
        default=0,
        metavar="PERCENT",
        help="so many of the folios pinned, evenly spread, like 5 or 0.01 (none)",
    )
    group.add_argument(
        "--place",
        type=whole("node", 0, MAX_NODES - 1),
        metavar="NODE",
        help="where all pages are before (as it is; of workloads FROM)",
    )
    group.add_argument(
        "--threads",
        type=whole("threads", 1, MAX_CPUS),
        metavar="N",
        help="spread it over so many CPUs: those it ran on, then the lowest free ones",
    )


def add_traces(parser: Parser) -> None:
    """Add the files that show a call step by step."""
    group = parser.add_argument_group(
        "traces", "With --trace or --tracefs folios are worked one by one: slower."
    )
    for name, what in (
        ("trace", "Chrome trace events of every CPU, for ui.perfetto.dev"),
        ("tracefs", "the kernel's trace points, as its trace file shows them"),
        ("folded", "folded stacks of the modelled time, for flamegraph tools"),
        ("speedscope", "the same for speedscope.app"),
    ):
        group.add_argument(f"--{name}", metavar="FILE", help=what)


def target(text: str) -> str:
    """Text that may name a target, which is read later."""
    try:
        kind_of(text)
    except TargetError as error:
        raise Usage(str(error)) from None  # argparse would name the argument before it
    return text


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


def engine(text: str) -> str:
    """A copy engine, which a profile may still lack."""
    if not ENGINE.fullmatch(text):
        line = f"{text!r}: use cpu, threads:N or dma:N, N >= 1"
        raise argparse.ArgumentTypeError(line)
    return text


def pages(text: str) -> int:
    """A size as base pages."""
    size = size_of(text)
    if size is None or size > MAX_INT * BASE_PAGE:
        line = f"{text!r} is no size; give one like 512m"
        raise argparse.ArgumentTypeError(line)
    return size // BASE_PAGE


def duration(text: str) -> int:
    """A time with its unit, as whole ns."""
    found = _DURATION.fullmatch(text)
    # Digits as they stand: a float would lose the last of a long run's.
    ns = round(Fraction(found[1]) * _NS[found[2]]) if found and len(text) < 64 else 0
    if not 0 < ns <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give one like 200us")
    return ns


def folio(text: str) -> int:
    """The order of a size between that of a base page and that of a THP."""
    size = size_of(text) or 0
    order = size.bit_length() - 13
    if size != BASE_PAGE << max(order, 0) or not 1 <= order <= _MOST_ORDER:
        line = f"{text!r}: give 8k, 16k ... 1m; for 2m say --thp 100"
        raise argparse.ArgumentTypeError(line)
    return order


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


def percent(text: str) -> float:
    """A percentage with up to four decimals."""
    if not (_PERCENT.fullmatch(text) and float(text) <= 100):
        line = f"{text!r}: give a percentage from 0 to 100, like 5 or 0.01"
        raise argparse.ArgumentTypeError(line)
    return float(text)


def whole(what: str, least: int, most: int) -> Callable[[str], int]:
    """A type for whole numbers from `least` to `most`."""

    def number(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 12:
            value = int(text)
            if least <= value <= most:
                return value
        line = f"{text!r}: give a whole number from {least} to {most} ({what})"
        raise argparse.ArgumentTypeError(line)

    return number
