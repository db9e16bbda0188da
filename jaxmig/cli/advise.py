"""`jaxmig advise`: the fastest migration within a stall budget."""

import argparse
import sys

from jaxmig import __version__, machines, report
from jaxmig.advise import Advice, advise, engines
from jaxmig.cli import named, output, runtime, sweepopts
from jaxmig.cli.errors import Failure, Usage
from jaxmig.cli.progress import progress
from jaxmig.cli.room import check_room
from jaxmig.report import units
from jaxmig.rules import MODES
from jaxmig.sweep import Grid, Row, Sweep
from jaxmig.sweep.memory import Memory
from jaxmig.syscalls import SleepsForever
from jaxmig.terminal import printable

HEADERS = ("kernel", "mode", "copy", "batch limit", "pages/s", "p50", "p99", "longest")


def run(args: argparse.Namespace) -> int:
    """Try, choose, say why."""
    output.check(args.json, args.csv)
    runtime.prepare()
    stall = next(n for n in ("p99", "p50", "max") if getattr(args, n) is not None)
    sweep = _sweep(args)
    try:
        with progress(0, args.target) as tick:
            found = advise(sweep, getattr(args, stall), stall, tick)
    except SleepsForever:
        raise Failure("the call would wait for ever for a page in use") from None
    if args.json:
        doc = {"jaxmig": __version__, "advice": found.best, "rows": list(found.rows)}
        output.write(args.json, report.to_json(doc) + "\n")
    if args.csv:
        output.write(args.csv, report.to_csv(found.rows))
    if not output.alone(args.json, args.csv):
        _show(args, sweep, found)
    if found.best is None:
        least = min(r[found.stall] for r in found.rows)
        raise Failure(
            f"nothing keeps the stall within {units.duration(found.budget_ns)}; the "
            f"least is {units.duration(least)}; allow more, or fewer running CPUs"
        )
    return 0


def _sweep(args: argparse.Namespace) -> Sweep:
    profile = machines.load(args.machine or "xeon-2s")
    target = named.target(args.target, args.pid)
    n = args.nodes or max(2, target.nodes)
    if target.nodes > n:
        raise Failure(f"{target.name} has pages on {target.nodes} nodes; see --nodes")
    old = sweepopts.nodes_of("FROM", args.from_, n)
    new = sweepopts.nodes_of("TO", args.to, n)
    if len(new) > 1:
        raise Usage(f"{args.to!r}: modes other than sync take one node; name one")
    cpus = args.cpus or profile.cpus
    if args.lazy:
        raise Usage("--lazy: only CPUs that run the target count here; leave it out")
    if max(args.running or (0,)) >= cpus:
        bad = max(args.running)
        raise Usage(f"--running: CPU {bad}: the machine has CPUs 0-{cpus - 1}")
    check_room(target.name, target.pages, n, False, 2)
    memory = Memory(target, n, min(old), cpus, False, given=args.running)
    thp = 100 if target.name.endswith(",thp") else 0
    # sync first: of equally fast modes, the system call's is advised.
    grid = Grid(
        (thp,), args.kernel or ("6.2", "6.3"), MODES[::-1], (cpus,), (0,),
        (profile.name,), engines(profile),
    )  # fmt: skip
    return Sweep(memory, old, new, grid, {profile.name: profile})


def _show(args: argparse.Namespace, s: Sweep, found: Advice) -> None:
    profile, memory = next(iter(s.profiles.values())), s.memory
    assumed = report.assumed_line(
        profile,
        running=memory.running(memory.cpus),
        cpus=memory.cpus,
        nodes=memory.nodes,
        content=False,
    )
    before, _, after = assumed.partition("batch limit 512 pages; copy cpu; ")
    print(before + after)
    print(
        printable(f"Target: {memory.target.name}: {memory.target.description}") + "\n"
    )
    for line in _answer(found):
        print(line)
    title = f"\nThe best limit of each ({found.tried} configurations tried):\n"
    print(title)
    # Modes differ only where something is in the way of pages.
    alike: dict[tuple[str, ...], list[str]] = {}
    for kernel, mode, *rest in map(_cells, found.rows):
        alike.setdefault((kernel, *rest), []).append(mode)
    cells = [[k[0], ", ".join(modes), *k[1:]] for k, modes in alike.items()]
    width = report.terminal_width(sys.stdout)
    print(report.table(HEADERS, cells, args.table, width, (0, 1, 2)))


def _answer(found: Advice) -> list[str]:
    budget = (
        f"{found.stall.partition('.')[2]} stall of {units.duration(found.budget_ns)}"
    )
    best, linux = found.best, found.linux
    if best is None:
        return [f"Nothing stays within a {budget}."]
    limit = f"batch limit {best['batch']}, " if best["policy"] == "batched" else ""
    lines = [
        f"Within a {budget}: {limit}mode {best['mode']}, copy {best['copy']}, "
        f"kernel {best['kernel']}: {_said(best, found.stall)}."
    ]
    if linux is not None and linux["batch"] != best["batch"]:
        copy = f"copy {linux['copy']}"
        said = _said(linux, found.stall)
        lines.append(f"With Linux's limit of {linux['batch']}, {copy}: {said}.")
    mine = next((r for r in found.rows if r["copy"] == "cpu"), best)
    if best["copy"] != "cpu" and mine[found.stall] <= found.budget_ns:
        limit = f"batch limit {mine['batch']}, " if mine["policy"] == "batched" else ""
        lines.append(
            f"As Linux copies, on one CPU: {limit}kernel {mine['kernel']}: "
            f"{_said(mine, found.stall)}."
        )
    return lines


def _said(r: Row, column: str) -> str:
    return f"{units.rate(r['pages_per_s'])} pages/s, {units.duration(r[column])}"


def _cells(r: Row) -> list[str]:
    limit = str(r["batch"]) if r["policy"] == "batched" else "-"
    stalls = [units.duration(r[f"stall_ns.{n}"]) for n in ("p50", "p99", "max")]
    return [
        r["kernel"],
        r["mode"],
        r["copy"],
        limit,
        units.rate(r["pages_per_s"]),
        *stalls,
    ]
