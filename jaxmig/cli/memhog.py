"""`jaxmig memhog`: the tool's own options and dots, while its memory migrates."""

import argparse
import re
import sys

from jaxmig import machines
from jaxmig.cli import options, runtime
from jaxmig.cli.errors import Parser, Usage
from jaxmig.machine import PAGE_BYTES
from jaxmig.releases import BOTH
from jaxmig.report.units import count, duration, rate
from jaxmig.scenario.words import size_of
from jaxmig.workloads import memhog

EXAMPLES = """  jaxmig memhog -r10 64m --migrate 0:1
  jaxmig memhog -r10 1g --migrate 0:1 --machine arm64-2n128c --kernel 6.2,6.6
"""
POLICIES = (
    *("preferred-many", "local", "interleave", "membind", "preferred", "default"),
    "weighted-interleave",
)
USAGE = "memhog [-fFILE] [-rNUM] [-H] size[kmg] [policy [nodeset]]"


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "memhog on the modelled machine, with its memory migrating"
    p = options.add_parser(commands, "memhog", summary, EXAMPLES, run)
    p.add_argument("-f", metavar="FILE", help="mmap is backed by FILE (no effect here)")
    p.add_argument("-r", metavar="NUM", default="1", help="repeat memset NUM times")
    p.add_argument("-H", action="store_true", help="disable transparent hugepages")
    p.add_argument("size", metavar="SIZE", help="bytes, with k, m or g")
    p.add_argument("policy", nargs="?", choices=POLICIES, help=", ".join(POLICIES))
    p.add_argument("nodeset", nargs="?")
    p.add_argument("--thp", action="store_true", help="2 MiB pages, unless -H")
    group = p.add_argument_group("migration")
    group.add_argument(
        "--migrate", metavar="FROM:TO", help="once, from the second pass"
    )
    group.add_argument("--kernel", type=options.kernels, metavar="LIST")
    group.add_argument("--machine", type=options.machine, default="xeon-2s")
    group.add_argument("--copy", default="cpu", help="cpu, threads:N or dma:N (cpu)")
    group.add_argument(
        "--batch", type=options.whole("base pages", 0, 1 << 20), default=512
    )


def run(args: argparse.Namespace) -> int:
    """Dots, then what the migration took and what it cost the writer."""
    size = size_of(args.size)
    if not size or size < PAGE_BYTES:
        raise Usage(f"{args.size!r} is no size; {USAGE}")
    if not (args.r.isascii() and args.r.isdigit() and 0 < int(args.r) < 10**7):
        raise Usage(f"-r{args.r}: give a number of repeats")
    if args.migrate is not None and not re.fullmatch("0:1|1:0", args.migrate):
        raise Usage(f"--migrate {args.migrate}: write 0:1 or 1:0")
    runtime.prepare()
    profile = machines.load(args.machine)
    profile.copy_speedups(args.copy)
    repeats = int(args.r)
    if args.migrate is None:
        print("\n".join(["." * memhog.dots(size)] * repeats))
        return 0
    lines = ["." * memhog.dots(size)] * repeats
    for kernel in args.kernel or BOTH:
        thp = args.thp and not args.H
        h = memhog.run(
            size,
            repeats,
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
