"""`jaxmig calibrate`: a machine profile from measurements of one's own."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmig import calibrate, files, machines
from jaxmig.calibrate import CalibrationError, Measured, Run, vmstat
from jaxmig.cli import output
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.machines import reader


def run(args: argparse.Namespace) -> int:
    """Read or measure, fit, write."""
    _check(args)
    output.check(args.output)
    base = machines.load(args.base)
    try:
        doc = _timings(args)
        if args.output.endswith(".json"):
            output.write(args.output, json.dumps(doc, indent=1) + "\n")
            return 0
        measured = _measured(args, base, doc)
        found = calibrate.fit(base, measured, args.title or f"{base.title}, calibrated")
    except CalibrationError as error:
        names = [*args.files, *([args.micro] if args.micro else [])]
        raise Failure(f"{', '.join(names) or '--measure'}: {error}") from None
    text = machines.dumps(found.profile)
    # What the file says must be what --machine accepts.
    reader.parse(text, "calibrated", args.output, machines.load)
    output.write(args.output, text)
    for key in found.keys:
        n = found.profile.numbers[key]
        ends = "" if n.low is None else f" ({n.low} .. {n.high})"
        say(f"{key} = {n.value} {n.unit}{ends}, was {base[key]}")
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.running is not None:
        raise Usage("--running is a list of CPUs elsewhere; give --targets N here")
    if not (args.files or args.measure or args.micro):
        raise Usage("give measurements: files, --micro FILE.json or --measure")
    if args.measure and args.micro:
        raise Usage("--measure makes what --micro reads: give one of the two")
    raw = args.measure and not args.files
    if args.output.endswith(".json") and not raw:
        raise Usage(f"{args.output}: only --measure alone writes timings; name a .toml")
    if not args.output.endswith((".toml", ".json")) and args.output != "-":
        raise Usage(f"{args.output}: name a .toml file, as --machine will want it")


def _timings(args: argparse.Namespace) -> dict[str, Any] | None:
    """Rows of the micro-benchmark, if there are any."""
    if args.micro:
        return calibrate.read(_text(args.micro))
    if args.measure:
        return calibrate.measure(say)
    return None


def _measured(
    args: argparse.Namespace, base: machines.Profile, doc: dict[str, Any] | None
) -> list[Measured]:
    timed: list[Measured] = []
    if doc is not None:
        name = Path(args.micro).name if args.micro else "--measure"
        timed = calibrate.from_micro(doc, name, base)
    reported = _read(args, base) if args.files else []
    return calibrate.combined(base, reported, timed, args.pages, say)


def _read(args: argparse.Namespace, base: machines.Profile) -> list[Measured]:
    texts = [_text(name) for name in args.files]
    if args.elapsed is None:
        raise Usage("--elapsed: how long did the migration take?")
    names = [Path(name).name for name in args.files]
    how = {"kernel": args.kernel, "flushes": args.flushes, "targets": args.targets}
    how |= {"share": args.share, "limit": args.batch}
    if len(texts) == 2 and not any(map(calibrate.is_report, texts)):
        whole = Run(args.pages or 0, _one_each(args, 1)[0], **how)
        for text, name in zip(texts, args.files, strict=True):
            with _of(name):
                vmstat.parse(text)
        where = " and ".join(names)
        return calibrate.from_vmstat(texts[0], texts[1], where, base, whole, say)
    if args.pages is None:
        raise Usage("--pages: how many base pages did the migration move?")
    found = []
    for i, ns in enumerate(_one_each(args, len(texts))):
        run = Run(args.pages, ns, **how)
        with _of(args.files[i]):
            found.append(calibrate.from_perf(texts[i], names[i], base, run, say))
    if len(found) == 1:
        say(
            "one report: its ranges are sampling errors alone; several show what "
            "differs between rounds"
        )
    return calibrate.together(found)


@contextlib.contextmanager
def _of(name: str) -> Iterator[None]:
    """What is wrong with one file of several, by its name."""
    try:
        yield
    except CalibrationError as error:
        raise Failure(f"{name}: {error}") from None


def _one_each(args: argparse.Namespace, files: int) -> list[int]:
    times: list[int] = args.elapsed
    if len(times) not in (1, files):
        raise Usage(
            f"--elapsed: {len(times)} times for {files} files; one each, or one"
        )
    return times * files if len(times) == 1 else times


def _text(name: str) -> str:
    try:
        # Programs in a report need not be named in UTF-8.
        text = files.text(name, errors="replace")
    except files.FileError as error:
        raise Failure(f"{name}: {error}; give another file") from None
    if not text:
        raise Failure(f"{name}: the file is empty; record it again")
    return text
