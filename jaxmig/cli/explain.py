"""`jaxmig explain`: a small migration, phase by phase, as text."""

import argparse
import os
import shutil
import sys

from jaxmig import explain, report
from jaxmig.cli import options, runtime
from jaxmig.cli.errors import Parser
from jaxmig.releases import BOTH

EXAMPLES = """  jaxmig explain
  jaxmig explain --kernel 6.3 --pages 12 --batch 4
"""
WIDTH = 80  # of a file or a pipe


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "show a small migration phase by phase: page table, TLBs, memory"
    parser = options.add_parser(commands, "explain", summary, EXAMPLES, run)
    parser.add_argument(
        "--kernel",
        type=options.kernels,
        default=BOTH,
        metavar="LIST",
        help="both (6.2 and 6.3, the default), or others separated by commas",
    )
    parser.add_argument(
        "--pages",
        type=options.whole("pages", 1, explain.MAX_PAGES),
        default=16,
        metavar="N",
        help="pages to move (16)",
    )
    parser.add_argument(
        "--batch",
        type=options.whole("base pages", 1, explain.MAX_PAGES),
        default=8,
        metavar="PAGES",
        help="base pages a batch; Linux has 512 (8)",
    )


def run(args: argparse.Namespace) -> int:
    """Print step after step."""
    runtime.prepare()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    told = explain.explain(
        args.kernel,
        pages=args.pages,
        batch=args.batch,
        width=width,
        color=report.wants_color(sys.stdout, os.environ),
    )
    for i, part in enumerate(told):
        print(("\n" if i else "") + part, flush=True)
    return 0
