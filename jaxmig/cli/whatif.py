"""Options that ask what would be if: other page sizes, pins, another node, more threads."""

import argparse
import dataclasses
from typing import Final

from jaxmig import nodes
from jaxmig.cli import options
from jaxmig.cli.errors import Parser, Usage
from jaxmig.scenario.words import size_of
from jaxmig.targets import Target, WhatIf

MOST_ORDER: Final = 8  # of --folio: the next order is a THP


def add(parser: Parser, thp: bool = True) -> None:
    """The options; `thp`: also a share of THPs, where that is no axis."""
    group = parser.add_argument_group("what if")
    if thp:
        group.add_argument(
            "--thp",
            type=options.whole("percent", 0, 100),
            metavar="PERCENT",
            help="of the pages in THPs, promoted or split (as it is)",
        )
    group.add_argument(
        "--folio",
        type=_order,
        metavar="SIZE",
        help="of private anonymous memory outside THPs, 8k to 1m (as it is)",
    )
    group.add_argument(
        "--pinned",
        type=options.whole("percent", 0, 100),
        default=0,
        metavar="PERCENT",
        help="of the folios are pinned, evenly spread (none)",
    )
    group.add_argument(
        "--place",
        type=options.whole("node", 0, options.MAX_NODES - 1),
        metavar="NODE",
        help="where all pages are before (as it is; of workloads FROM)",
    )
    group.add_argument(
        "--threads",
        type=options.whole("threads", 1, options.MAX_CPUS),
        metavar="N",
        help="it runs on so many CPUs: where it ran, then the lowest others",
    )


def target(args: argparse.Namespace, found: Target, cpus: int, cpu: int = 0) -> Target:
    """The target as it would be on a machine of `cpus`, of which `cpu` migrates.

    Raises:
      Usage: options that do not fit together.
    """
    thp = args.thp if isinstance(args.thp, int) else None
    w = WhatIf(thp=thp, folio=args.folio, pinned=args.pinned, place=args.place)
    made = found.what_if(w)
    if args.threads is None:
        return made
    if args.running not in (None, "target"):
        raise Usage("--threads and --running both say where it runs; choose one")
    ran = [c for c in nodes.fold(found.running, cpus) if c != cpu]
    others = [c for c in range(cpus) if c != cpu and c not in ran]
    running = tuple(sorted([*ran, *others][: args.threads]))
    if len(running) < args.threads:
        n = len(running)
        raise Usage(
            f"--threads {args.threads}: {n} CPUs are free of {cpus}; see --cpus"
        )
    return dataclasses.replace(made, running=running)


def _order(text: str) -> int:
    size = size_of(text) or 0
    order = size.bit_length() - 13
    if size != 4096 << max(order, 0) or not 1 <= order <= MOST_ORDER:
        line = f"{text!r}: give 8k, 16k ... 1m; for 2m say --thp 100"
        raise argparse.ArgumentTypeError(line)
    return order
