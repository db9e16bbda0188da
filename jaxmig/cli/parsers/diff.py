"""`jaxmig diff`: what changed between two results, and why."""

from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import FORMATS

EXAMPLES = """  jaxmig diff before.json after.json
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    for name, which in (("before", "A.json"), ("after", "B.json")):
        text = f"result {which[0]}, as --json of migratepages or run writes it"
        parser.add_argument(name, metavar=which, help=text)
    parser.add_argument("--table", choices=FORMATS, default="simple")
