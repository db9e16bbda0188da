"""`jaxmig migratepages`: one target from nodes to nodes, serial and batched."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser

EXAMPLES = """  jaxmig migratepages memhog:64m 0 1
  jaxmig migratepages 4711 0 1 --cpus 4 --running 1-3
  jaxmig migratepages app.npz 0 1 --kernel 6.2,6.18 --json result.json
  jaxmig migratepages app.npz 0 1 --plot-map map.svg     its memory before and after
  jaxmig migratepages 4711 0 1 --thp 100 --pinned 5      as it would be with THPs and pins
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.add_argument(
        "target", type=options.target, metavar="TARGET", help=options.TARGET
    )
    parser.add_argument("from_", metavar="FROM", help="nodes: 0 or 0,1 or 0-3 or all")
    parser.add_argument("to", metavar="TO", help="nodes, written the same way")
    parser.add_argument(
        "--pid",
        type=options.whole("PID", 1, options.MAX_INT),
        help="which process of a snapshot or trace that holds several",
    )
    parser.add_argument(
        "--unprivileged",
        action="store_true",
        help="without CAP_SYS_NICE: pages mapped more than once stay",
    )
    parser.add_argument(
        "--plot-map",
        metavar="FILE",
        help="the target's memory before and after, .png or .svg: page sizes, nodes, "
        "sharing, what may not move",
    )
    parser.add_argument(
        "--explain-time",
        action="store_true",
        help="say which costs make most of the range of the modelled time",
    )
    options.add_machine(parser)
    options.add_what_if(parser)
    _add_memory(parser)
    options.add_call(parser)
    options.add_output(parser)
    options.add_traces(parser)


def _add_memory(parser: Parser) -> None:
    """How much memory nodes have."""
    group = parser.add_argument_group("memory")
    group.add_argument(
        "--node-size",
        type=options.pages,
        metavar="SIZE",
        help="memory of each node (as much as the target needs)",
    )
    group.add_argument(
        "--free",
        type=options.free,
        metavar="NODE=SIZE",
        help="how much of a node is free before the call; several with commas",
    )
