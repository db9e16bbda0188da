"""`jaxmig explain`: a small migration, phase by phase, as text."""

import argparse
import os
import shutil
import sys

from jaxmig import report
from jaxmig.cli import runtime
from jaxmig.tools import explain

WIDTH = 80  # of a file or a pipe


def run(args: argparse.Namespace) -> int:
    """Print each step as it is made."""
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
