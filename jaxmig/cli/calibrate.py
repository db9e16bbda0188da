"""`jaxmig calibrate`: a machine profile from measurements of one's own."""

import argparse
from pathlib import Path

from jaxmig import machines
from jaxmig.calibrate import (
    CalibrationError,
    Measured,
    fit,
    from_perf,
    from_vmstat,
    measure,
)
from jaxmig.cli import options, output, runtime
from jaxmig.cli.advise import duration
from jaxmig.cli.errors import Failure, Parser, Usage, say
from jaxmig.machines import reader

EXAMPLES = """  jaxmig calibrate perf.txt --pages 262144 --elapsed 2.068s -o mine.toml
  jaxmig calibrate before.vmstat after.vmstat --elapsed 2.068s -o mine.toml
  jaxmig calibrate --measure -o mine.toml
  jaxmig migratepages memhog:1g 0 1 --machine mine.toml
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "make a machine profile from measurements of your own"
    parser = options.add_parser(commands, "calibrate", summary, EXAMPLES, run)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a `perf report --stdio` of migratepages, or two copies of /proc/vmstat",
    )
    text = "time copies, page walks and futex wake-ups on this machine"
    parser.add_argument("--measure", action="store_true", help=text)
    parser.add_argument(
        "--elapsed", type=duration, metavar="TIME", help="of the migration, like 2.068s"
    )
    parser.add_argument(
        "--pages",
        type=options.whole("base pages", 1, options.MAX_INT),
        metavar="N",
        help="base pages that the profiled migration moved",
    )
    parser.add_argument(
        "--running",
        type=options.whole("CPUs", 1, options.MAX_CPUS),
        metavar="N",
        help="CPUs that a shootdown interrupted (the base's)",
    )
    parser.add_argument(
        "--base",
        type=options.machine,
        default="xeon-2s",
        metavar="NAME",
        help="profile with everything that was not measured (xeon-2s)",
    )
    parser.add_argument("--title", help="of the profile")
    parser.add_argument(
        "-o", "--output", default="-", metavar="FILE.toml", help="(standard output)"
    )


def run(args: argparse.Namespace) -> int:
    """Read or measure, fit, write."""
    if not args.output.endswith(".toml") and args.output != "-":
        raise Usage(f"{args.output}: name a .toml file, as --machine will want it")
    if bool(args.files) == args.measure:
        raise Usage("give measurements in files, or --measure, one of the two")
    output.check(args.output)
    base = machines.load(args.base)
    running = args.running or base.running
    try:
        if args.measure:
            runtime.prepare()
            measured = measure()
        else:
            measured = _read(args, base, running)
        title = args.title or f"{base.title}, calibrated"
        found = fit(base, measured, title, running)
    except CalibrationError as error:
        raise Failure(f"{', '.join(args.files)}: {error}") from None
    text = machines.dumps(found.profile)
    # What the file says must be what --machine accepts.
    reader.parse(text, "calibrated", args.output, machines.load)
    output.write(args.output, text)
    for key in found.keys:
        n = found.profile.numbers[key]
        ends = "" if n.low is None else f" ({n.low} .. {n.high})"
        say(f"{key} = {n.value} {n.unit}{ends}, was {base[key]}")
    return 0


def _read(
    args: argparse.Namespace, base: machines.Profile, running: int
) -> list[Measured]:
    texts = [_text(name) for name in args.files]
    if args.elapsed is None:
        raise Usage("--elapsed: how long did the migration take?")
    names = " and ".join(Path(name).name for name in args.files)
    if len(texts) == 2:
        before, after = texts
        return from_vmstat(before, after, names, base, args.elapsed, running)
    if len(texts) != 1:
        raise Usage(f"{len(texts)} files; give one perf report or two vmstat files")
    if args.pages is None:
        raise Usage("--pages: how many base pages did the migration move?")
    return from_perf(texts[0], names, base, args.pages, args.elapsed)


def _text(name: str) -> str:
    try:
        return Path(name).read_text("utf-8", "replace")
    except OSError as error:
        raise Failure(f"{name}: {error.strerror}; give a readable file") from None
