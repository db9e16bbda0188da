"""`jaxmig advise`: the fastest migration within a stall budget."""

import argparse
import dataclasses
import sys
from typing import Any

from jaxmig import __version__, report
from jaxmig.calls.syscalls import SleepsForever
from jaxmig.cli import htmlreport, named, output, runtime, shape, sweepopts, whatif
from jaxmig.cli.errors import Failure, Usage
from jaxmig.cli.progress import progress
from jaxmig.cli.room import check_room
from jaxmig.host.terminal import printable
from jaxmig.linux.releases import LATEST
from jaxmig.linux.rules import MODES
from jaxmig.report import units
from jaxmig.time import machines
from jaxmig.tools.advise import SURE, Advice, Choice, advise, engines
from jaxmig.tools.sweep import Grid, Row, Sweep
from jaxmig.tools.sweep.memory import Memory

HEADERS = ("kernel", "mode", "copy", "batch limit", "pages/s", "p50", "p99", "longest")


def run(args: argparse.Namespace) -> int:
    """Sweep, choose the fastest within the budget, print it."""
    output.check(args.json, args.csv, *htmlreport.files(args))
    runtime.prepare()
    stall = next(n for n in ("p99", "p50", "max") if getattr(args, n) is not None)
    sweep = sweep_of(args)
    try:
        with progress(0, args.target) as tick:
            found = advise(sweep, getattr(args, stall), stall, tick)
    except SleepsForever:
        raise Failure("the call would wait for ever for a page in use") from None
    if args.json:
        doc = {"jaxmig": __version__, "advice": found.best, "rows": list(found.rows)}
        doc |= {
            name: _choice(getattr(found, name)) for name in ("own", "sure", "linux")
        }
        output.write(args.json, report.to_json(doc) + "\n")
    if args.csv:
        output.write(args.csv, report.to_csv(found.rows))
    _report(args, sweep, found)
    if not output.alone(args.json, args.csv):
        _show(args, sweep, found)
    if found.best is None:
        least = min(r[found.stall] for r in found.rows)
        raise Failure(
            f"nothing keeps the stall within {units.duration(found.budget_ns)}; the "
            f"least is {units.duration(least)}; allow more, or fewer running CPUs"
        )
    return 0


def sweep_of(args: argparse.Namespace) -> Sweep:
    """The sweep of all candidates.

    Raises:
      Usage, Failure: options that do not fit together.
    """
    profile = machines.load(args.machine or "xeon-2s")
    found = named.target(args.target, args.pid)
    target = whatif.target(args, found, args.cpus or profile.cpus)
    n = args.nodes or max(2, target.nodes)
    if target.nodes > n:
        raise Failure(f"{target.name} has pages on {target.nodes} nodes; see --nodes")
    old = shape.nodes_of("FROM", args.from_, n, "--nodes ")
    new = shape.nodes_of("TO", args.to, n, "--nodes ")
    if len(new) > 1:
        raise Usage(f"{args.to!r}: modes other than sync take one node; name one")
    cpus = args.cpus or profile.cpus
    sweepopts.check_running(args.running, cpus)
    check_room(target.name, target.pages, n, False, 2)
    memory = Memory(target, n, min(old), cpus, False, given=args.running)
    # sync first: of equally fast modes, the system call's is advised.
    grid = Grid(
        (target.thp,), args.kernel or (LATEST,), MODES[::-1], (cpus,), (0,),
        (profile.name,), engines(profile) if args.engines else ("cpu",),
    )  # fmt: skip
    return Sweep(memory, old, new, grid, {profile.name: profile})


def _show(args: argparse.Namespace, sweep: Sweep, found: Advice) -> None:
    t = sweep.memory.target
    print(sweepopts.assumed(sweep, ("batch",)))
    print(printable(f"Target: {t.name}: {t.description}"))
    copies = [c.row["copy"] for c in (found.own, found.engine) if c is not None]
    for line in sweepopts.remarks(sweep, copies):
        print(line)
    print()
    for line in _answer(found):
        print(line)
    title = f"\nThe best limit of each ({found.tried} configurations tried):\n"
    print(title)
    width = report.terminal_width(sys.stdout)
    print(report.table(HEADERS, _table(found), args.table, width, (0, 1, 2)))


def _table(found: Advice) -> list[list[str]]:
    """The best row of each kernel, mode and engine, without modes that do not differ.

    Modes differ only where a condition keeps pages from moving.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for kernel, mode, *rest in map(_cells, found.rows):
        alike.setdefault((kernel, *rest), []).append(mode)
    return [[k[0], ", ".join(modes), *k[1:]] for k, modes in alike.items()]


def _report(args: argparse.Namespace, sweep: Sweep, found: Advice) -> None:
    if args.report is None:
        return
    from jaxmig.show import html

    t = sweep.memory.target
    budget = units.duration(found.budget_ns)
    table = html.heading(HEADERS, _table(found), "The best limit of each")
    section = html.Section("Answer", tuple(_answer(found)), (table,))
    about = (sweepopts.assumed(sweep, ("batch",)), f"Target: {t.name}: {t.description}")
    htmlreport.write(args, f"{t.name} within a stall of {budget}", [section], about)


def _answer(found: Advice) -> list[str]:
    budget = (
        f"{found.stall.partition('.')[2]} stall of {units.duration(found.budget_ns)}"
    )
    own, linux, engine = found.own, found.linux, found.engine
    if own is None:
        return [f"Nothing stays within a {budget}."]
    lines = [f"Within a {budget}: {_chosen(own.row)}: {_said(own, found.stall)}."]
    lines += _risk(own, found.sure, found.stall)
    if linux is not None and linux.row["batch"] != own.row["batch"]:
        over = " over the budget" if linux.row[found.stall] > found.budget_ns else ""
        said = (
            f"{_said(linux, found.stall)}:{over}" if over else _said(linux, found.stall)
        )
        lines.append(f"With Linux's limit of {linux.row['batch']}: {said}.")
    if linux is not None:
        lines.append(
            "The limit is a constant of Linux (NR_MAX_BATCHED_MIGRATION): another one "
            "needs a kernel built with it."
        )
    if engine is not None:
        said = _said(engine, found.stall)
        lines.append(
            f"With an engine that Linux does not have: {_chosen(engine.row)}: {said}."
        )
    return lines


def _risk(own: Choice, sure: Choice | None, column: str) -> list[str]:
    """On how many machines the budget breaks, and the limit with which it rarely does."""
    often = round(100 * own.over)
    if own.over <= SURE:
        return []
    line = f"On {often} of 100 machines with costs within their ranges that is too long"
    if sure is None:
        return [f"{line}; no limit keeps the budget on 90."]
    limit, said = sure.row["batch"], _said(sure, column)
    return [f"{line}; batch limit {limit} keeps the budget on 90: {said}."]


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    return None if choice is None else dataclasses.asdict(choice)


def _chosen(row: Row) -> str:
    limit = f"batch limit {row['batch']}, " if row["policy"] == "batched" else ""
    return f"{limit}mode {row['mode']}, copy {row['copy']}, kernel {row['kernel']}"


def _said(choice: Choice, column: str) -> str:
    row = choice.row
    rate, stall = units.rate(row["pages_per_s"]), units.duration(row[column])
    ends = units.span(choice.low, choice.high, units.duration)
    return f"{rate} pages/s, {stall} (80 % range {ends})"


def _cells(row: Row) -> list[str]:
    limit = str(row["batch"]) if row["policy"] == "batched" else "-"
    stalls = [units.duration(row[f"stall_ns.{n}"]) for n in ("p50", "p99", "max")]
    return [
        row["kernel"],
        row["mode"],
        row["copy"],
        limit,
        units.rate(row["pages_per_s"]),
        *stalls,
    ]
