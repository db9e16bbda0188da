"""`jaxmig migspeed`: times one mbind(2) of a process's own pages."""

import argparse

from jaxmig import machines
from jaxmig.build import FIRST_ADDRESS
from jaxmig.cli import options
from jaxmig.cli.errors import Parser, Usage
from jaxmig.releases import BOTH, release
from jaxmig.workloads import migspeed

EXAMPLES = """  jaxmig migspeed 0 1
  jaxmig migspeed -p 262144 0 1 --machine zen3-2s
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "migspeed on the modelled machine: pages of its own, moved by mbind"
    p = options.add_parser(commands, "migspeed", summary, EXAMPLES, run)
    p.add_argument("-p", type=options.whole("pages", 1, options.MAX_INT), default=1000)
    p.add_argument("-v", action="store_true", help="say what is done")
    p.add_argument("from_", metavar="FROM", type=options.whole("node", 0, 1))
    p.add_argument("to", metavar="TO", type=options.whole("node", 0, 1))
    p.add_argument("--kernel", type=options.kernels, metavar="LIST")
    p.add_argument("--machine", type=options.machine, default="xeon-2s")


def run(args: argparse.Namespace) -> int:
    """The tool's lines, once a kernel."""
    if args.from_ == args.to:
        raise Usage(f"{args.from_} {args.to}: nothing to migrate; name two nodes")
    profile = machines.load(args.machine)
    for kernel in args.kernel or BOTH:
        policy = "batched" if release(kernel).batched else "serial"
        ns = migspeed.call_ns(profile, 0, args.p, "cpu", policy)
        if args.v:
            print(f"kernel {kernel}, {args.p} pages from {args.from_} to {args.to}")
        print(*migspeed.lines(args.p, ns, args.from_, args.to, FIRST_ADDRESS), sep="\n")
    return 0
