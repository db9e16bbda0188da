"""`jaxmig machines`: the cost profiles, and where each of their numbers comes from."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import FORMATS

EXAMPLES = """  jaxmig machines
  jaxmig machines xeon-2s
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument("name", nargs="?", type=options.machine, metavar="NAME")
    parser.add_argument(
        "--json", metavar="FILE", help="as JSON instead; - is standard output"
    )
    parser.add_argument("--table", choices=FORMATS, default="simple")
