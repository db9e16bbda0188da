"""`jaxmig replay`: a recorded trace on the modelled machine, or in another format."""

import argparse
import os
import re

from jaxmig import machines
from jaxmig.cli import options, output, replayed, runtime
from jaxmig.cli.errors import Parser, Usage, say
from jaxmig.cli.progress import amount
from jaxmig.cli.room import check_room
from jaxmig.releases import BOTH
from jaxmig.terminal import printable
from jaxmig.traces import FORMATS, Reading, native, table
from jaxmig.workloads import replay, trace

EXAMPLES = """  jaxmig replay app.txt --migrate 0:1    its memory moves, serial and batched
  jaxmig replay perf.txt --pid 4711 --migrate 0:1 --kernel 6.3 --batch 64 --json out.json
  jaxmig replay big.champsimtrace.xz --accesses 1000000 -o small.npz       converts
  valgrind --tool=lackey --trace-mem=yes --log-file=app.txt ./app   records app.txt
"""
MOST = 10**11 - 1
ENDS = (".npz", ".csv")


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "play a recorded trace of addresses, with its memory migrating"
    p = options.add_parser(commands, "replay", summary, EXAMPLES, run)
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.epilog = "\n".join(_recording())
    p.add_argument(
        "trace",
        metavar="TRACE",
        help="a file, also .gz, .xz or .zst; - is standard input",
    )
    _add_reading(p.add_argument_group("reading"))
    _add_playing(p.add_argument_group("playing"))
    group = p.add_argument_group("output")
    group.add_argument(
        "-o", "--output", metavar="FILE", help="only convert, to a .npz or .csv file"
    )
    replayed.add(group)


def _recording() -> list[str]:
    """How each format is recorded."""
    lines = ["formats, and how to record them:"]
    for f in FORMATS.values():
        lines.append(f"  {f.name:<9} {f.title}")
        lines += [f"{'':<12}{part}" for part in f.recording.split("; ")]
    lines.append("  .npz      jaxmig's own, the fastest to read: see -o")
    return lines


def _add_reading(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--format", choices=tuple(FORMATS), metavar="NAME",
        help="of the trace, listed below (found out from its name and first lines)",
    )  # fmt: skip
    group.add_argument(
        "--pid", type=options.whole("PID", 0, options.MAX_INT), metavar="PID",
        help="only the accesses of this process or thread",
    )  # fmt: skip
    for name, text in (
        ("skip", "accesses left out first (0)"),
        ("accesses", "then so many (all)"),
    ):
        group.add_argument(
            f"--{name}", type=options.whole("accesses", name == "accesses", MOST),
            metavar="N", help=text,
        )  # fmt: skip


def _add_playing(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--migrate", metavar="FROM:TO", help="all pages of the trace, from its start on"
    )
    group.add_argument(
        "--trips", type=options.whole("trips", 1, 10_000), default=1, metavar="N",
        help="there, back, there ... counted singly (1)",
    )  # fmt: skip
    group.add_argument("--kernel", type=options.kernels, metavar="LIST",
                       help="releases that migrate (6.2 and 6.3)")  # fmt: skip
    group.add_argument("--machine", type=options.machine, default="xeon-2s",
                       metavar="NAME", help="cost profile (xeon-2s)")  # fmt: skip
    group.add_argument(
        "--batch", type=options.whole("base pages", 0, 1 << 20), default=512,
        metavar="PAGES", help="base pages a batch; 0: no limit (512)",
    )  # fmt: skip
    group.add_argument("--running", type=options.cpus, metavar="CPUS",
                       help="CPUs of the trace's threads, one each (the trace's; "
                       "where it has none, 1, 2 ...)")  # fmt: skip
    group.add_argument("--copy", default="cpu", metavar="ENGINE",
                       help="cpu, threads:N or dma:N (cpu)")  # fmt: skip
    group.add_argument(
        "--gap", type=options.whole("ns", 0, replay.MAX_GAP_NS), metavar="NS",
        help="between two accesses of a thread, beside what they take "
        f"(the trace's mean, or {replay.GAP_NS} if it has no times)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Convert, or play: without a migration, then once a kernel."""
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


def check_running(args: argparse.Namespace, t: trace.Trace) -> None:
    """Raises Usage where not every thread has a CPU of its own."""
    n, lanes = len(args.running or t.lanes), len(t.lanes)
    if n != lanes:
        raise Usage(f"--running: {n} CPUs for {lanes} threads; name one a thread")


def _play(
    args: argparse.Namespace, t: trace.Trace, p: machines.Profile, kernel: str | None
) -> replay.Replayed:
    title = f"playing, {kernel}" if kernel else "playing, no migration"
    with amount(sum(t.accesses), title) as done:
        return replay.run(
            t, p, kernel, batch=args.batch, copy=args.copy, gap_ns=args.gap,
            trips=args.trips, source=int((args.migrate or "0")[0]),
            cpus=args.running, tick=done,
        )  # fmt: skip


def _convert(args: argparse.Namespace) -> int:
    """The trace, or the part asked for, as another file."""
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
    except OSError:
        return 0  # standard input; what is wrong with a file its reader says
