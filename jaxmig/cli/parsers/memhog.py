"""`jaxmig memhog`: the tool's own options and dots, while its memory migrates."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser

EXAMPLES = """  jaxmig memhog -r10 64m --migrate 0:1
  jaxmig memhog -r10 1g --migrate 0:1 --machine arm64-2n128c --kernel 6.2,6.6
"""


POLICIES = (
    *("preferred-many", "local", "interleave", "membind", "preferred", "default"),
    "weighted-interleave",
)


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "-f", metavar="FILE", help="mmap is backed by FILE (no effect here)"
    )
    parser.add_argument(
        "-r", metavar="NUM", default="1", help="repeat memset NUM times"
    )
    parser.add_argument("-H", action="store_true", help="disable transparent hugepages")
    parser.add_argument("size", metavar="SIZE", nargs="?", help="bytes, with k, m or g")
    parser.add_argument("policy", nargs="?", help=", ".join(POLICIES))
    parser.add_argument("nodeset", nargs="?", help="nodes of the policy")
    parser.add_argument("--thp", action="store_true", help="2 MiB pages, unless -H")
    group = parser.add_argument_group("migration")
    group.add_argument(
        "--migrate", metavar="FROM:TO", help="once, from the second pass"
    )
    group.add_argument("--kernel", type=options.kernels, metavar="LIST")
    group.add_argument("--machine", type=options.machine, default="xeon-2s")
    group.add_argument(
        "--copy",
        type=options.engine,
        default="cpu",
        help="cpu, threads:N or dma:N (cpu)",
    )
    group.add_argument(
        "--batch", type=options.whole("base pages", 0, 1 << 20), default=512
    )
