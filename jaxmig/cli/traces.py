"""Files that show a call step by step: traces and stacks."""

import argparse
from collections.abc import Sequence
from typing import Final

from jaxmig import __version__, report
from jaxmig.cli import output
from jaxmig.cli.errors import Usage, say
from jaxmig.report import folded, perfetto, tracefs
from jaxmig.report.timed import Traced

MOST_LOGGED: Final = 1 << 16  # base pages of a call that a report shows step by step
NAMES: Final = ("trace", "tracefs", "folded", "speedscope")


def files(args: argparse.Namespace) -> list[str]:
    """The files that the options name.

    Raises:
      Usage: one of them is standard output.
    """
    for name in NAMES:
        if getattr(args, name) == "-":
            raise Usage(f"--{name} -: a trace needs a file")
    return [getattr(args, name) for name in NAMES if getattr(args, name)]


def wanted(args: argparse.Namespace) -> bool:
    """Whether the options name any of these files."""
    return any(getattr(args, name, None) for name in NAMES)


def step_by_step(args: argparse.Namespace, pages: int, cpus: int) -> bool:
    """Whether one of them, or a report of a call that is not too large, needs its log."""
    rows = pages * -(-cpus // 128)  # a flush has a row for some of the CPUs
    asked = any(getattr(args, name, None) for name in ("trace", "tracefs"))
    return asked or (args.report is not None and rows <= MOST_LOGGED)


def write(args: argparse.Namespace, traced: Sequence[Traced]) -> None:
    """Write all files that the options name."""
    if args.trace:
        drawn = perfetto.trace(traced)
        if drawn.aggregated:
            say(f"{args.trace}: many folios: drawn together, not one by one")
        output.write(args.trace, report.to_json(drawn.document) + "\n")
    if args.tracefs:
        output.write(args.tracefs, "".join(tracefs.text(traced)))
    priced = [(t.record, t.cost) for t in traced]
    if args.folded:
        output.write(args.folded, folded.folded(priced))
    if args.speedscope:
        document = folded.speedscope(priced, __version__)
        output.write(args.speedscope, report.to_json(document) + "\n")
