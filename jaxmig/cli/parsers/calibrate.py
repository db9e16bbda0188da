"""`jaxmig calibrate`: a machine profile from a user's own measurements."""

import argparse

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION

EXAMPLES = """  jaxmig calibrate perf.txt --pages 262144 --elapsed 2.068s -o mine.toml
  jaxmig calibrate run1.txt run2.txt --pages 16384 --elapsed 37ms,41ms -o mine.toml
  jaxmig calibrate before.vmstat after.vmstat --elapsed 2.068s -o mine.toml
  jaxmig calibrate --measure -o rows.json
  jaxmig calibrate perf.txt --pages 262144 --elapsed 2s --micro rows.json -o mine.toml
  jaxmig migratepages memhog:1g 0 1 --machine mine.toml
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="`perf report --stdio` of a migration, one or several of the same, or two "
        "copies of /proc/vmstat (with /proc/interrupts behind it, if you like)",
    )
    text = "time mprotect, copies and wake-ups on this machine; needs no privilege"
    parser.add_argument("--measure", action="store_true", help=text)
    parser.add_argument(
        "--micro", metavar="FILE.json", help="timings that --measure -o FILE.json wrote"
    )
    parser.add_argument(
        "--elapsed",
        type=_durations,
        metavar="TIME",
        help="what the percentages are of, without perf, like 2.068s; one for each "
        "report or one for all",
    )
    parser.add_argument(
        "--share",
        type=_share,
        metavar="S",
        help="part of the elapsed time that migrate_pages() took (as the report tells)",
    )
    parser.add_argument(
        "--pages",
        type=options.whole("base pages", 1, options.MAX_INT),
        metavar="N",
        help="base pages that the profiled migration moved",
    )
    parser.add_argument(
        "--calls",
        type=options.whole("calls", 1, options.MAX_INT),
        metavar="N",
        help="calls of migrate_pages() that moved them (1, or as the caller makes them "
        "that the report shows)",
    )
    parser.add_argument(
        "--kernel",
        type=_kernel,
        metavar="K",
        help="release that was measured (as its functions tell)",
    )
    parser.add_argument(
        "--flushes",
        type=options.whole("flushes", 0, options.MAX_INT),
        metavar="N",
        help="flushes of the whole run that interrupted another CPU (those that the "
        "release makes of so many pages)",
    )
    parser.add_argument(
        "--targets",
        type=options.whole("CPUs", 1, options.MAX_CPUS),
        metavar="N",
        help="CPUs that one of them interrupted (1, and cost.flush_next is left alone)",
    )
    parser.add_argument(
        "--batch",
        type=options.whole("base pages", 0, options.MAX_INT),
        default=NR_MAX_BATCHED_MIGRATION,
        metavar="PAGES",
        help=f"base pages of a batch; 0: no limit ({NR_MAX_BATCHED_MIGRATION})",
    )
    # Elsewhere --running is a list of CPUs, and this was a count.
    parser.add_argument("--running", help=argparse.SUPPRESS)
    parser.add_argument(
        "--base",
        type=options.machine,
        default="xeon-2s",
        metavar="NAME",
        help="profile with everything that was not measured (xeon-2s)",
    )
    parser.add_argument("--title", help="of the profile")
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="FILE.toml; with --measure alone also FILE.json, for --micro "
        "(standard output)",
    )


def _durations(text: str) -> list[int]:
    return [options.duration(part) for part in text.split(",")]


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give one like 0.77")
    return share


def _kernel(text: str) -> str:
    found = options.kernels(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} names several; give one release")
    return found[0]
