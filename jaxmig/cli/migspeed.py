"""`jaxmig migspeed`: times one mbind(2) of a process's own pages."""

import argparse

from jaxmig.cli.errors import Usage
from jaxmig.linux.releases import BOTH, release
from jaxmig.programs.workloads import migspeed
from jaxmig.sources.builder import FIRST_ADDRESS
from jaxmig.time import machines


def run(args: argparse.Namespace) -> int:
    """Print the tool's lines for each kernel."""
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
