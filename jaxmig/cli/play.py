"""`jaxmig run`: plays scenario files."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from jaxmig import __version__, machines, report, scenario
from jaxmig.cli import options
from jaxmig.cli.errors import Failure, Parser, say
from jaxmig.cli.output import alone, check, write

EXAMPLES = """  jaxmig run node-full.toml
  jaxmig run *.toml --json results.jsonl
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "play scenario files: a machine, its pages, and the calls that move them"
    parser = options.add_parser(commands, "run", summary, EXAMPLES, run)
    parser.add_argument("scenario", nargs="+", metavar="SCENARIO.toml")
    options.add_machine(parser)
    options.add_call(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Play each file; one that fails does not stop the others."""
    raise Failure("not yet")
