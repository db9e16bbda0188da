"""`jaxmig advise`: the fastest migration within a stall budget."""

from jaxmig.cli import options
from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import FORMATS
from jaxmig.linux.releases import LATEST

EXAMPLES = """  jaxmig advise memhog:64m --p99 200us
  jaxmig advise app.npz 0 1 --p99 1ms --machine zen3-2s --kernel 6.18
  jaxmig advise memhog:1g --p99 1ms --engines      with threads and DMA channels, too
"""


def fill(parser: Parser) -> None:
    """The options of the command."""
    parser.example = EXAMPLES
    parser.instead = {
        "--copy": "see --engines",
        "--batch": "advise looks for the limit",
        "--mode": "advise tries every mode",
        "--lazy": "only CPUs that run the target count here",
    }
    options.add_target(parser)
    options.add_what_if(parser)
    group = parser.add_argument_group("budget, how long a page may be away")
    one = group.add_mutually_exclusive_group(required=True)
    for name, who in (
        ("p99", "99 of 100 pages"),
        ("p50", "half of them"),
        ("max", "all"),
    ):
        text = f"for {who}, like 200us or 1.5ms"
        one.add_argument(f"--{name}", type=options.duration, metavar="TIME", help=text)
    options.add_machine(
        parser, f"latest ({LATEST}, the default), both (6.2 and 6.3)", False
    )
    parser.add_argument(
        "--engines",
        action="store_true",
        help="also copy engines that Linux does not have: threads:N (kernel threads) and "
        "dma:N (DMA channels), every published N",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--json", metavar="FILE", help="also as JSON; - is stdout, alone"
    )
    group.add_argument("--csv", metavar="FILE", help="also as CSV; - is stdout, alone")
    options.add_report(group)
    group.add_argument("--table", choices=FORMATS, default="simple")
