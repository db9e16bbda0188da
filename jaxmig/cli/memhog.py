"""`jaxmig memhog`: the tool's own options and dots, while its memory migrates."""

import argparse
import re
import sys

from jaxmig.cli import runtime
from jaxmig.cli.errors import Failure, Usage
from jaxmig.cli.parsers.memhog import POLICIES
from jaxmig.cli.room import check_timeline
from jaxmig.host import nodes
from jaxmig.linux.releases import BOTH
from jaxmig.programs.workloads import memhog
from jaxmig.report.units import count, duration, rate
from jaxmig.sources.scenario.words import size_of
from jaxmig.state.machine import PAGE_BYTES
from jaxmig.time import machines

DOTS = 1 << 16  # written at a time
SPREAD = ("interleave", "weighted-interleave")
USAGE = """memhog [-fFILE] [-rNUM] [-H] size[kmg] [policy [nodeset]]
-f mmap is backed by FILE
-rNUM repeat memset NUM times
-H disable transparent hugepages
Policies: """ + ", ".join(POLICIES)


def run(args: argparse.Namespace) -> int:
    """Print the dots, then the migration's time and what the writing thread lost."""
    given = args.size or ""
    size = None if given[-1:] in ("t", "T") else size_of(given)  # the tool knows none
    repeated = args.r.isascii() and args.r.isdigit() and 0 < int(args.r) < 10**7
    known = args.policy is None or args.policy in POLICIES
    if not size or size < PAGE_BYTES or not repeated or not known:
        # What the tool prints, where it prints it.
        print(USAGE)
        return 1
    if args.migrate is not None and not re.fullmatch("0:1|1:0", args.migrate):
        raise Usage(f"--migrate {args.migrate}: write 0:1 or 1:0")
    _placed(args)
    runtime.prepare()
    profile = machines.load(args.machine)
    profile.copy_speedups(args.copy)
    if args.migrate is not None:
        pages = size // PAGE_BYTES
        check_timeline(f"memhog {args.size}", pages, "give a smaller size")
    for _ in range(int(args.r)):
        # A size of the tool may be all that 64 bits count.
        for at in range(0, memhog.dots(size), DOTS):
            sys.stdout.write("." * min(DOTS, memhog.dots(size) - at))
        sys.stdout.write("\n")
    if args.migrate is None:
        return 0
    lines = []
    for kernel in args.kernel or BOTH:
        thp = args.thp and not args.H
        h = memhog.run(
            size,
            int(args.r),
            profile,
            kernel,
            thp=thp,
            batch=args.batch,
            copy=args.copy,
        )
        t = h.totals
        lines += [
            f"kernel {kernel}: {count(h.table.pages)} pages in {duration(h.trip_ns)}, "
            f"{rate(h.table.pages * 1e9 / h.trip_ns)} pages/s; "
            f"{count(int(t.ipis.sum()))} TLB shootdown interrupts",
            f"  memhog: {duration(h.ran_ns)} after the first pass; waited "
            f"{count(int(t.stalls.sum()))} times, {duration(int(t.stall_ns.sum()))} in "
            f"all, at most {duration(int(t.stall_max.max()))}",
        ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _placed(args: argparse.Namespace) -> None:
    """Refuse a policy that places memory elsewhere than on the node that is emptied."""
    if not args.policy:
        return
    chosen = nodes.parse(args.nodeset or "", 2)
    bound = args.policy not in ("local", "default")
    if bound and not chosen:
        raise Usage(f"{args.policy}: name its nodes, 0 or 1")
    if args.migrate is None or not bound:
        return
    if args.policy in SPREAD and len(chosen) > 1:
        line = "its pages lie on both nodes; play it with `jaxmig run`"
        raise Failure(f"{args.policy} {args.nodeset}: {line}")
    if str(chosen[0]) != args.migrate[0]:
        line = f"{args.policy} puts the memory on node {chosen[0]}"
        raise Failure(f"--migrate {args.migrate}: {line}; write {chosen[0]}:..")
