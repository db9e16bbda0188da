"""`jaxmig snapshot`: the page table of a live process, kept in a file."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser

EXAMPLES = """  jaxmig snapshot 4711 -o app.npz
  jaxmig snapshot 4711 -o app.npz --plot app.svg     and a picture of its memory
  jaxmig snapshot --all -o machine.npz      as root: shared pages are seen by their PFN
  jaxmig migratepages machine.npz:4711 0 1  one of them, sharing pages with the others
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    pid = options.whole("PID", 1, options.MAX_INT)
    parser.add_argument("pid", nargs="*", type=pid, metavar="PID")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE.npz", help="where to save it"
    )
    parser.add_argument(
        "--plot",
        metavar="FILE",
        help="a picture of one process's memory, .png or .svg: page sizes, nodes, sharing",
    )
    parser.add_argument("--all", action="store_true", help="every process")
