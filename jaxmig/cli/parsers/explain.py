"""`jaxmig explain`: a small migration, phase by phase, as text."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.linux.releases import BOTH
from jaxmig.tools.sentences import MAX_PAGES

EXAMPLES = """  jaxmig explain
  jaxmig explain --kernel 6.3 --pages 12 --batch 4
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "--kernel",
        type=options.kernels,
        default=BOTH,
        metavar="LIST",
        help="both (6.2 and 6.3, the default), or others separated by commas",
    )
    parser.add_argument(
        "--pages",
        type=options.whole("pages", 1, MAX_PAGES),
        default=16,
        metavar="N",
        help="pages to move (16)",
    )
    parser.add_argument(
        "--batch",
        type=options.whole("base pages", 1, MAX_PAGES),
        default=8,
        metavar="PAGES",
        help="base pages a batch; Linux has 512 (8)",
    )
