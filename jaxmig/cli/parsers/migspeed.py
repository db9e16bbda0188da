"""`jaxmig migspeed`: times one mbind(2) of a process's own pages."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser

EXAMPLES = """  jaxmig migspeed 0 1
  jaxmig migspeed -p 262144 0 1 --machine zen3-2s
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "-p", type=options.whole("pages", 1, options.MAX_INT), default=1000
    )
    parser.add_argument("-v", action="store_true", help="say what is done")
    parser.add_argument("from_", metavar="FROM", type=options.whole("node", 0, 1))
    parser.add_argument("to", metavar="TO", type=options.whole("node", 0, 1))
    parser.add_argument("--kernel", type=options.kernels, metavar="LIST")
    parser.add_argument("--machine", type=options.machine, default="xeon-2s")
