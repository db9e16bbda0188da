"""`jaxmig run`: plays scenario files."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser

EXAMPLES = """  jaxmig run full-node.toml
  jaxmig run *.toml --json results.jsonl
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument("scenario", nargs="+", metavar="SCENARIO.toml")
    options.add_machine(parser)
    options.add_call(parser, " in calls of `kernel`")
    options.add_output(parser)
    options.add_traces(parser)
