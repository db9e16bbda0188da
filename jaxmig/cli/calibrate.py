"""`jaxmig calibrate`: a machine profile from a user's own measurements."""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmig.cli import output
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.host import files
from jaxmig.time import machines
from jaxmig.time.machines import reader
from jaxmig.tools import calibrate
from jaxmig.tools.calibrate import CalibrationError, Measured, ProfiledRun, vmstat


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
    # --machine must accept the file that is written.
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
    if not args.files:
        return calibrate.combined(base, [], timed, None, say)
    if args.elapsed is None:
        raise Usage("--elapsed: how long did the migration take?")
    # What is in a measured time, too, costs what was timed, as far as it was.
    known = calibrate.fit(base, timed, base.title).profile if timed else base
    texts = [_text(name) for name in args.files]
    if len(texts) == 2 and not any(map(calibrate.is_report, texts)):
        return _from_vmstat(args, texts, known, timed)
    if args.pages is None:
        raise Usage("--pages: how many base pages did the migration move?")
    return _from_reports(args, texts, known, timed)


def _run(args: argparse.Namespace, elapsed: int) -> ProfiledRun:
    return ProfiledRun(
        args.pages or 0,
        elapsed,
        kernel=args.kernel,
        flushes=args.flushes,
        targets=args.targets,
        share=args.share,
        limit=args.batch,
        calls=args.calls,
    )


def _from_vmstat(
    args: argparse.Namespace,
    texts: list[str],
    base: machines.Profile,
    timed: list[Measured],
) -> list[Measured]:
    before, after = texts
    where = " and ".join(Path(name).name for name in args.files)
    for text, name in zip(texts, args.files, strict=True):
        with _of(name):
            vmstat.parse(text)
    whole, keys = _run(args, _one_each(args, 1)[0]), {m.key for m in timed}
    found = calibrate.from_vmstat(before, after, where, base, whole, say, keys)
    return calibrate.combined(base, found, timed, None, say)


def _from_reports(
    args: argparse.Namespace,
    texts: list[str],
    base: machines.Profile,
    timed: list[Measured],
) -> list[Measured]:
    names = [Path(name).name for name in args.files]
    runs = [_run(args, ns) for ns in _one_each(args, len(texts))]
    with _of(args.files[0]):
        calls = calibrate.calls(texts[0], runs[0])
    found = []
    for text, path, name, run in zip(texts, args.files, names, runs, strict=True):
        run = dataclasses.replace(run, calls=calls)
        with _of(path):
            found.append(calibrate.from_perf(text, name, base, run, say))
    # Behind what could be refused.
    calibrate.calls(texts[0], runs[0], say)
    if len(found) == 1:
        say(
            "one report: its ranges are sampling errors alone; several show what "
            "differs between rounds"
        )
    reported = calibrate.together(found)
    return calibrate.combined(base, reported, timed, args.pages, say, calls)


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
