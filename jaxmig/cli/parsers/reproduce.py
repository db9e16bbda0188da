"""`jaxmig reproduce`: every published figure beside the prediction."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import FORMATS

EXAMPLES = """  jaxmig reproduce
  jaxmig reproduce --json rows.json
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "--json", metavar="FILE", help="also as JSON; - is stdout alone"
    )
    options.add_report(parser)
    parser.add_argument("--table", choices=FORMATS, default="simple")
    parser.add_argument(
        "--inputs", action="store_true", help="list every number used and its source"
    )
