"""`jaxmig replay`: a recorded trace on the modelled machine, or in another format."""

import argparse
import os
import re

from jaxmig.cli import output, replayed, runtime
from jaxmig.cli.errors import Usage, say
from jaxmig.cli.progress import amount
from jaxmig.cli.room import check_room
from jaxmig.host.terminal import printable
from jaxmig.linux.releases import BOTH
from jaxmig.programs.traces import Reading, native, table
from jaxmig.programs.workloads import replay, trace
from jaxmig.time import machines

ENDS = (".npz", ".csv")


def run(args: argparse.Namespace) -> int:
    """Convert the trace, or play it: without a migration, then on each kernel."""
    output.check(args.json, args.csv, args.output)
    if args.output is not None:
        return _convert(args)
    if args.trace == "-":
        raise Usage("-: standard input is read once; convert it first with -o FILE.npz")
    if args.migrate is None and (args.kernel or args.trips > 1):
        raise Usage("--kernel and --trips need --migrate 0:1")
    if args.migrate is not None and not re.fullmatch("0:1|1:0", args.migrate):
        raise Usage(f"--migrate {args.migrate}: write 0:1 or 1:0")
    runtime.prepare()
    profile = machines.load(args.machine)
    profile.copy_speedups(args.copy)
    with amount(_size(args.trace), f"reading {args.trace}") as done:
        t = trace.load(
            args.trace, args.format, pid=args.pid, skip=args.skip or 0,
            most=args.accesses, tick=done,
        )  # fmt: skip
    _left_out(args.trace, t.notes)
    for line in t.assumed:
        say(f"{args.trace}: assumed: {line}")
    check_running(args, t)
    check_room(args.trace, t.base_pages, 2, False, 2)
    kernels = (None, *((args.kernel or BOTH) if args.migrate else ()))
    runs = [_play(args, t, profile, kernel) for kernel in kernels]
    replayed.show(args, t, profile, runs)
    return 0


def check_running(args: argparse.Namespace, recorded: trace.Trace) -> None:
    """Raise Usage unless every thread has its own CPU."""
    n, lanes = len(args.running or recorded.lanes), len(recorded.lanes)
    if n != lanes:
        raise Usage(f"--running: {n} CPUs for {lanes} threads; name one a thread")


def _play(
    args: argparse.Namespace,
    recorded: trace.Trace,
    profile: machines.Profile,
    kernel: str | None,
) -> replay.Replayed:
    title = f"playing, {kernel}" if kernel else "playing, no migration"
    with amount(sum(recorded.accesses), title) as done:
        return replay.run(
            recorded, profile, kernel, batch=args.batch, copy=args.copy, gap_ns=args.gap,
            trips=args.trips, source=int((args.migrate or "0")[0]),
            cpus=args.running, tick=done,
        )  # fmt: skip


def _convert(args: argparse.Namespace) -> int:
    """Write the trace, or the part that the options choose, as another file."""
    if not args.output.endswith(ENDS):
        raise Usage(f"-o {args.output}: its name ends in {' or '.join(ENDS)}")
    if args.migrate or args.json or args.csv:
        raise Usage("-o only converts; play the file that it writes")
    with amount(_size(args.trace), f"converting {args.trace}") as done:
        reading = Reading(args.trace, args.format, done)
        kept = trace.chosen(reading, args.pid, args.skip or 0, args.accesses)
        with output.drafted(args.output) as file:
            if args.output.endswith(".npz"):
                n = native.write(kept, file)
            else:
                n = table.write(kept, lambda text: file.write(text.encode()))
    _left_out(args.trace, reading.notes)
    for line in reading.assumed:
        say(f"{args.trace}: assumed: {line}")
    print(printable(f"{args.output}: {n:,} accesses from {reading.title}"))
    return 0


def _left_out(name: str, notes: dict[str, int]) -> None:
    for what, n in notes.items():
        say(f"{name}: left out {n:,} {what}")


def _size(path: str) -> int:
    """Bytes of a file; 0 where that is not known."""
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0  # standard input; what is wrong with a file its reader says
