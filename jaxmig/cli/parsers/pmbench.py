"""`jaxmig pmbench`: the benchmark's own options and report, while pages migrate."""

import argparse

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.programs.workloads.patterns import PATTERNS
from jaxmig.programs.workloads.version import VERSION

EXAMPLES = """  jaxmig pmbench -j 5 -s 128 1 --migrate 0:1
  jaxmig pmbench -p normal -e 2000 1 --migrate 0:1 --kernel 6.3 --batch 64
  jaxmig pmbench -j 4 1 --migrate 0:1 --limits 1,8,64,512,4096
"""


SLICE_MS = 100


def fill(parser: Parser) -> None:
    """The options of the command; -h is pmbench's --threshold, as in the original."""
    parser.example = EXAMPLES
    parser.add_argument("duration", type=int, metavar="DURATION", help="seconds")
    _add_own(parser)
    group = parser.add_argument_group("migration")
    group.add_argument("--migrate", metavar="FROM:TO", help="back and forth meanwhile")
    group.add_argument("--kernel", type=options.kernels, metavar="LIST")
    group.add_argument("--machine", type=options.machine, default="xeon-2s")
    group.add_argument(
        "--batch", type=options.whole("base pages", 0, 1 << 20), default=512
    )
    group.add_argument(
        "--copy",
        type=options.engine,
        default="cpu",
        help="cpu, threads:N or dma:N (cpu)",
    )
    group.add_argument(
        "--limits", metavar="LIST", help="a table of batch limits, or all: 1 ... 8192"
    )
    group.add_argument("--plot", metavar="FILE", help="of --limits, .png or .svg")
    group.add_argument(
        "--modelled",
        type=options.whole("ms", 1, 10**7),
        metavar="MS",
        help=f"how much of DURATION is modelled, ms ({SLICE_MS})",
    )


class _Usage(argparse.Action):
    """argp's --usage: print the short form and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.print_usage()
        parser.exit()


def _add_own(parser: Parser) -> None:
    """Add the options of the original's argp table."""
    parser.add_argument("-?", "--help", action="help", help="show this help and exit")
    parser.add_argument("--usage", action=_Usage, nargs=0, help="show the short form")
    version = f"{VERSION} (jaxmig)"
    parser.add_argument("-V", "--version", action="version", version=version)
    numbers = (
        ("-m", "--mapsize", 256, "mmap size, MiB"),
        ("-s", "--setsize", 128, "working set, MiB"),
        ("-d", "--delay", 0, "clock cycles between accesses; used above 10"),
        ("-r", "--ratio", 50, "percent of reads"),
        ("-o", "--offset", -1, "word inside the page, 0 to 1023 (random)"),
        ("-h", "--threshold", 0, "ns; longer accesses leave a marker in the original"),
    )
    for short, name, value, text in numbers:
        parser.add_argument(
            short, name, type=int, default=value, help=f"{text} ({value})"
        )
    parser.add_argument(
        "-e", "--shape", type=float, default=1.00001, help="of the pattern"
    )
    parser.add_argument("-p", "--pattern", default="uniform", help=", ".join(PATTERNS))
    parser.add_argument(
        "-a", "--access", default="histo", help="touch or histo (histo)"
    )
    parser.add_argument("-t", "--timestamp", default="rdtscp", help="rdtsc or rdtscp")
    parser.add_argument("-j", "--jobs", type=int, metavar="N", help="threads (1)")
    parser.add_argument(
        "-y", "--affinityset", action="append", default=[], metavar="CPUSTR[:THREADS]",
        help="threads on these CPUs with a map of their own; may repeat, excludes -j",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--file", metavar="FILE",
        help="the report as XML, too; with several kernels FILE-KERNEL",
    )  # fmt: skip
    parser.add_argument(
        "--trace", metavar="FILE", help="accesses of a file, as `jaxmig replay` reads"
    )
    flags = ("-q --quiet", "-c --cold", "-i --initialize", "-z --wrneedsrd")
    for flag in flags:
        parser.add_argument(*flag.split(), action="store_true")
