"""`jaxmig run`: plays scenario files."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from jaxmig import __version__, report
from jaxmig.cli import asked, htmlreport, output, pictures, reasons, runtime, traces
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.cli.override import overridden
from jaxmig.cli.progress import progress
from jaxmig.cli.room import check_room
from jaxmig.host.terminal import printable
from jaxmig.report.records import Record
from jaxmig.report.timed import Traced
from jaxmig.sources import scenario
from jaxmig.sources.scenario import CallSpec, Scenario, ScenarioError
from jaxmig.time import machines
from jaxmig.time.cost import Cost
from jaxmig.tools import player


@dataclasses.dataclass
class Played:
    """A scenario with its records, or with the error that stopped it."""

    path: str
    scenario: Scenario | None = None
    profile: machines.Profile | None = None
    records: Sequence[Record] = ()
    traced: Sequence[Traced] = ()
    error: str = ""


def run(args: argparse.Namespace) -> int:
    """Play each file; one that fails does not stop the others."""
    output.check(args.json, args.csv, *traces.files(args), *htmlreport.files(args))
    pictures.check(args.plot)
    runtime.prepare()
    played = []
    with progress(len(args.scenario), "run") as tick:
        for path in args.scenario:
            played.append(_play(args, path, tick))
            if played[-1].error:
                tick(path)
                say(f"jaxmig run: {played[-1].error}")
    _write(args, played)
    return int(any(p.error for p in played))


def _play(
    args: argparse.Namespace, path: str, tick: Callable[[str, float], None]
) -> Played:
    """Play one file; an error of it becomes its `error`."""
    traced: list[Traced] = []
    try:
        read = scenario.load(path, profile_cpus=lambda name: _cpus(args, name))
        asked = overridden(read, args)
        pages = sum(r.n_pages for r in asked.regions)
        # The state before a call lives on until the call is over.
        check_room(path, pages, asked.machine.nodes, args.content is not False, 2)
        profile = machines.load(asked.machine.profile)
        profile.copy_speedups(asked.machine.copy)  # refused before the work
        records = player.play(
            asked,
            profile=profile,
            content=args.content is not False,
            seed=args.seed or 0,
            trace=traced.append,
            logs=traces.step_by_step(
                args, pages * len(asked.calls), asked.machine.cpus
            ),
            tick=lambda what, share: tick(f"{path}: {what}", share),
        )
    except (ScenarioError, Failure, Usage) as error:
        return Played(path, error=str(error))
    except (machines.ProfileError, ValueError) as error:
        return Played(path, error=f"{path}: {error}")
    except MemoryError:
        return Played(path, error=f"{path}: out of memory; use --no-content")
    return Played(path, asked, profile, records, traced)


def _cpus(args: argparse.Namespace, profile: str) -> int:
    """CPUs of a machine whose file does not give them: the option's or the profile's."""
    found = machines.load(profile)  # an unknown name is an error of the file
    if args.machine:
        found = machines.load(args.machine)
    cpus: int = args.cpus or found.cpus
    return cpus


def _write(args: argparse.Namespace, played: Sequence[Played]) -> None:
    if args.json:
        documents = [report.to_json(_document(args, p)) + "\n" for p in played]
        output.write(args.json, "".join(documents))
    if args.csv:
        several = len(played) > 1
        rows = [
            ({"scenario": p.path} if several else {}) | r
            for p in played
            for r in p.records
        ]
        output.write(args.csv, report.to_csv(rows))
    pictures.migration(args.plot, _calls(played), ", ".join(p.path for p in played))
    traces.write(args, [t for p in played for t in p.traced])
    _report(args, played)
    if output.alone(args.json, args.csv):
        return
    for i, p in enumerate(p for p in played if not p.error):
        print(("\n" if i else "") + _table(args, p))


def _report(args: argparse.Namespace, played: Sequence[Played]) -> None:
    if args.report is None:
        return
    from jaxmig.show import html

    sections, assumed = [], {}
    for p in played:
        if p.scenario is None:
            continue
        assumed |= dict.fromkeys(_assumed(args, p))
        for i, title in enumerate(_titles(p)):
            n = len(p.scenario.calls)
            records, traced = p.records[i::n], p.traced[i::n]
            logged = [report.stretches(t) for t in traced]
            figures = html.calls(records, [t.cost for t in traced], logged)
            said = report.answer(records, _why(p.scenario, i, traced))
            name = printable(f"{p.path}: {title}")
            sections.append(html.Section(name, tuple(said), tuple(figures)))
    names = ", ".join(p.path for p in played)
    errors = [p.error for p in played if p.error]
    htmlreport.write(args, f"Scenario {names}", sections, tuple(assumed), errors)


def _calls(
    played: Sequence[Played],
) -> Iterator[tuple[str, Sequence[Record], Sequence[Cost]]]:
    """Each call of each file with its records and costs."""
    for p in played:
        titles = _titles(p) if not p.error else []
        for i, title in enumerate(titles):
            records, traced = p.records[i :: len(titles)], p.traced[i :: len(titles)]
            name = f"{p.path}: {title}" if len(played) > 1 else title
            yield name, records, [t.cost for t in traced]


def _titles(played: Played) -> list[str]:
    calls = played.scenario.calls if played.scenario else ()
    return [
        f"Call {i}: {call.syscall}, process {call.process}{_by(call, calls)}"
        for i, call in enumerate(calls, 1)
    ]


def _by(call: CallSpec, calls: Sequence[CallSpec]) -> str:
    """Who makes a call, where the first line cannot say it for all of them."""
    said = f", by CPU {call.cpu}" if len({c.cpu for c in calls}) > 1 else ""
    if call.syscall != "kernel" and len(_callers(calls)) > 1:
        said += f", {report.units.CALLERS[call.privileged]}"
    return said


def _callers(calls: Sequence[CallSpec]) -> set[bool]:
    """Whether system calls are root's; both where they differ."""
    return {c.privileged for c in calls if c.syscall != "kernel"}


def _document(args: argparse.Namespace, played: Played) -> Record:
    if played.scenario is None or played.profile is None:
        return report.error_document(played.path, played.error)
    spec = played.scenario.machine
    machine = report.machine_dict(played.profile, spec.cpus, spec.nodes)
    how = args.content is not False, args.seed or 0
    wanted = asked.of_scenario(played.scenario, played.profile, *how)
    doc = report.document(__version__, played.path, machine, played.records)
    return doc | {"asked": wanted}


def _why(scenario: Scenario, number: int, traced: Sequence[Traced]) -> dict[str, str]:
    """By kernel, why pages of that call may have failed."""
    return {t.record["kernel"]: reasons.why(scenario, number, t) for t in traced}


def _table(args: argparse.Namespace, played: Played) -> str:
    """The assumptions, then a table for each call with the kernels side by side."""
    if played.scenario is None or played.profile is None:
        raise ValueError("nothing was played")
    s, calls = played.scenario, played.scenario.calls
    parts = [*_assumed(args, played), f"Scenario: {played.path}"]
    for i, title in enumerate(_titles(played)):
        traced = played.traced[i :: len(calls)]
        drawn = report.compare(
            played.records[i :: len(calls)],
            assumed=title,
            fmt=args.table,
            width=report.terminal_width(sys.stdout),
            color=report.wants_color(sys.stdout, os.environ),
            detail=args.tree,
            why=_why(s, i, traced),
        )
        parts.append("\n" + drawn)
        if args.tree:
            some = ((t.record, t.cost) for t in traced)
            parts.append("\n" + report.trees_text(some))
    width = report.terminal_width(sys.stdout)
    kinds = [f"{c.syscall}, process {c.process}" for c in calls] * len(s.kernels)
    added = report.together(kinds, played.records, args.table, width)
    parts += ["\n" + text for text in added]
    return "\n".join(parts)


def _assumed(args: argparse.Namespace, played: Played) -> list[str]:
    """The machine that a file's calls were played on, its state, and rates of engines."""
    if played.scenario is None or played.profile is None:
        raise ValueError("nothing was played")
    s, calls = played.scenario, played.scenario.calls
    callers = _callers(calls)
    line = report.assumed_line(
        played.profile,
        running={c for process in s.processes for c in process.running},
        lazy={c for process in s.processes for c in process.lazy},
        cpu=sorted({c.cpu for c in calls}) or 0,
        privileged=callers.pop() if len(callers) == 1 else None,
        cpus=s.machine.cpus,
        nodes=s.machine.nodes,
        batch=s.machine.max_batch,
        copy=s.machine.copy,
        content=args.content is not False,
    )
    rates = played.profile.copy_assumed(s.machine.copy)
    return [line, *([f"Assumed: {rates}."] if rates else [])]
