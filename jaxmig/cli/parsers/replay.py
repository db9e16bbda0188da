"""`jaxmig replay`: a recorded trace on the modelled machine, or in another format."""

import argparse

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import FORMATS as TABLES
from jaxmig.programs.traces import FORMATS
from jaxmig.programs.traces.accesses import GAP_NS, MAX_GAP_NS

EXAMPLES = """  jaxmig replay app.txt --migrate 0:1    its memory moves, serial and batched
  jaxmig replay perf.txt --pid 4711 --migrate 0:1 --kernel 6.3 --batch 64 --json out.json
  jaxmig replay big.champsimtrace.xz --accesses 1000000 -o small.npz       converts
  valgrind --tool=lackey --trace-mem=yes --log-file=app.txt ./app   records app.txt
"""


MOST = 10**11 - 1


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(_recording())
    parser.add_argument(
        "trace",
        metavar="TRACE",
        help="a file, also .gz, .xz or .zst; - is standard input",
    )
    _add_reading(parser.add_argument_group("reading"))
    _add_playing(parser.add_argument_group("playing"))
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o", "--output", metavar="FILE", help="only convert, to a .npz or .csv file"
    )
    _add_results(group)


def _recording() -> list[str]:
    """The command that records each format, a line each."""
    lines = ["formats, and how to record them:"]
    for f in FORMATS.values():
        lines.append(f"  {f.name:<9} {f.title}")
        lines += [f"{'':<12}{part}" for part in f.recording.split("; ")]
    lines.append("  .npz      jaxmig's own, the fastest to read: see -o")
    return lines


def _add_reading(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--format", choices=tuple(FORMATS), metavar="NAME",
        help="of the trace, listed below (found out from its name and first lines)",
    )  # fmt: skip
    group.add_argument(
        "--pid", type=options.whole("PID", 0, options.MAX_INT), metavar="PID",
        help="only the accesses of this process or thread",
    )  # fmt: skip
    for name, text in (
        ("skip", "accesses left out first (0)"),
        ("accesses", "then so many (all)"),
    ):
        group.add_argument(
            f"--{name}", type=options.whole("accesses", name == "accesses", MOST),
            metavar="N", help=text,
        )  # fmt: skip


def _add_playing(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--migrate", metavar="FROM:TO", help="all pages of the trace, from its start on"
    )
    group.add_argument(
        "--trips", type=options.whole("trips", 1, 10_000), default=1, metavar="N",
        help="there, back, there ... counted singly (1)",
    )  # fmt: skip
    group.add_argument("--kernel", type=options.kernels, metavar="LIST",
                       help="releases that migrate (6.2 and 6.3)")  # fmt: skip
    group.add_argument("--machine", type=options.machine, default="xeon-2s",
                       metavar="NAME", help="cost profile (xeon-2s)")  # fmt: skip
    group.add_argument(
        "--batch", type=options.whole("base pages", 0, 1 << 20), default=512,
        metavar="PAGES", help="base pages a batch; 0: no limit (512)",
    )  # fmt: skip
    group.add_argument("--running", type=options.cpus, metavar="CPUS",
                       help="CPUs of the trace's threads, one each (the trace's; "
                       "where it has none, 1, 2 ...)")  # fmt: skip
    group.add_argument("--copy", type=options.engine, default="cpu", metavar="ENGINE",
                       help="cpu, threads:N or dma:N (cpu)")  # fmt: skip
    group.add_argument(
        "--gap", type=options.whole("ns", 0, MAX_GAP_NS), metavar="NS",
        help="between two accesses of a thread, beside what they take "
        f"(the trace's mean, or {GAP_NS} if it has no times)",
    )  # fmt: skip


def _add_results(group: "argparse._ArgumentGroup") -> None:
    """Add the files for results, and their formats."""
    for name in ("json", "csv"):
        text = f"also as {name.upper()}; - is standard output, alone"
        group.add_argument(f"--{name}", metavar="FILE", help=text)
    group.add_argument(
        "--table", choices=TABLES, default="simple", metavar="FORMAT",
        help=f"of the table: {', '.join(TABLES)} (simple)",
    )  # fmt: skip
