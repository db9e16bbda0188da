"""What `migratepages` prints: assumptions, table, remarks, where the time goes."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

from jaxmig import __version__, report
from jaxmig.cli import asked as settings, htmlreport, output, pictures, room, traces
from jaxmig.host.terminal import printable
from jaxmig.linux.releases import release
from jaxmig.sources.snapshot import OFF_LRU
from jaxmig.sources.targets import Setting, Target
from jaxmig.time import machines
from jaxmig.tools import job


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The arguments of the command, resolved."""

    target: Target
    setting: Setting
    profile: machines.Profile
    call: job.Call
    guessed: bool = False  # its CPUs are the target's own, as no option gives them
    # By kernel, what pinned pages cost.
    held: Mapping[str, str] = dataclasses.field(default_factory=dict)


def show(
    args: argparse.Namespace, asked: Resolved, outcomes: list[job.Outcome]
) -> None:
    """Write results to the files of the options, and print them unless one is stdout."""
    records = [o.record for o in outcomes]
    if args.json:
        output.write(args.json, report.to_json(_document(asked, records)) + "\n")
    if args.csv:
        output.write(args.csv, report.to_csv(records))
    costs = [o.cost for o in outcomes]
    pictures.migration(args.plot, [("", records, costs)], _about_picture(asked))
    areas = asked.target.areas
    pictures.moved_map(args.plot_map, outcomes, areas, _about_picture(asked))
    traces.write(args, [o.traced for o in outcomes if o.traced])
    page(args, asked, outcomes)
    if output.alone(args.json, args.csv):
        return
    print(
        report.compare(
            records,
            assumed=assumed(asked),
            fmt=args.table,
            width=report.terminal_width(sys.stdout),
            color=report.wants_color(sys.stdout, os.environ),
            detail=args.tree,
            why={o.record["kernel"]: _why(asked, o) for o in outcomes},
        )
    )
    print()
    for line in _remarks(asked, outcomes):
        print(line)
    if args.tree:
        print("\n" + report.trees_text((o.record, o.cost) for o in outcomes))
    for o in outcomes if args.explain_time else ():
        print(f"\n{o.record['kernel']}: {report.causes_text(o.cost, asked.profile)}")


def _why(asked: Resolved, outcome: job.Outcome) -> str:
    """The known reasons for which pages failed, in words."""
    reasons = (
        [f"node {', '.join(map(str, outcome.full))} is full"] if outcome.full else []
    )
    kernel = outcome.record["kernel"]
    for line in asked.target.assumed:
        if line.endswith("are pinned"):
            reasons.append(line + asked.held.get(kernel, ""))
    if release(kernel).counts_unisolated:
        # Of what may not move, the walk tries to isolate these, and counts them.
        tried = [x for x in asked.target.unmovable if x[0].startswith(OFF_LRU)]
        reasons += [f"{_pages(n)}: {why}" for why, n in tried]
    return "; ".join(reasons)


def page(
    args: argparse.Namespace, asked: Resolved, outcomes: list[job.Outcome]
) -> None:
    """Write all of it as an HTML page, if `--report` was given."""
    if args.report is None:
        return
    from jaxmig.show import html

    records, costs = [o.record for o in outcomes], [o.cost for o in outcomes]
    why = {o.record["kernel"]: _why(asked, o) for o in outcomes}
    title = f"{asked.target.name}, from node {args.from_} to node {args.to}"
    logged = [report.stretches(o.traced) if o.traced else [] for o in outcomes]
    figures = tuple(html.calls(records, costs, logged))
    section = html.Section("Answer", tuple(report.answer(records, why)), figures)
    lines = assumed(asked).split("\n")
    htmlreport.write(args, title, [section], lines, _remarks(asked, outcomes))


def _about_picture(asked: Resolved) -> str:
    s, running = asked.setting, report.units.cpu_list(asked.setting.running)
    return (
        f"{asked.target.name}: {asked.target.description}\n"
        f"on {asked.profile.name}, {s.cpus} CPUs, runs on {running}; "
        f"{asked.target.thp} % in THPs"
    )


def assumed(asked: Resolved) -> str:
    """One line: the target, the machine and its state."""
    s, call, target = asked.setting, asked.call, asked.target
    line = report.assumed_line(
        asked.profile,
        running=s.running,
        lazy=s.lazy,
        cpu=call.cpu,
        ran=target.ran if asked.guessed else "",
        privileged=None if call.caller else call.privileged,
        cpus=s.cpus,
        nodes=s.nodes,
        batch=call.batch,
        copy=call.copy,
        content=s.content,
    )
    lines = [line, printable(f"Target: {target.name}: {target.description}")]
    if device := room.accelerator():
        lines.append(f"Run on: {device.device_kind}")
    return "\n".join(lines)


def _document(asked: Resolved, records: list[report.records.Record]) -> dict[str, Any]:
    s = asked.setting
    shown = {"running": list(s.running), "lazy": list(s.lazy)}
    machine = report.machine_dict(asked.profile, s.cpus, s.nodes) | shown
    wanted = settings.of_options(asked.target, s, asked.profile, asked.call)
    doc = report.document(__version__, None, machine, records)
    return doc | {"asked": wanted, "target": _about(asked.target)}


def _about(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "description": target.description,
        "pages": target.pages,
        "unmovable": [{"why": w, "pages": n} for w, n in target.unmovable],
        "missing": list(target.missing),
        "assumed": list(target.assumed),
    }


def _remarks(asked: Resolved, outcomes: list[job.Outcome]) -> list[str]:
    """Lines about what was verified, pages that may not move, and what is not known."""
    target, cpu = asked.target, asked.call.cpu
    lines = [_verified(outcomes)]
    stayed = outcomes[0].stayed
    if stayed:
        lines.append(f"On other nodes, so not asked to move: {_pages(stayed)}.")
    for why, pages in target.unmovable:
        lines.append(f"May not move: {_pages(pages)}: {why}.")
    lines += [f"Not known: {line}." for line in target.missing]
    rates = asked.profile.copy_assumed(asked.call.copy)
    lines += [f"Assumed: {line}." for line in (*target.assumed, rates) if line]
    if cpu in asked.setting.running:
        lines.append(f"CPU {cpu} migrates and runs the target: no IPI goes to it.")
    return [printable(line) for line in lines]


def _verified(outcomes: list[job.Outcome]) -> str:
    if any(o.wrong is None for o in outcomes):
        return "Contents: not carried, so not verified."
    wrong = {o.record["kernel"]: o.wrong for o in outcomes if o.wrong}
    if wrong:
        bad = ", ".join(f"{_pages(n)} after {kernel}" for kernel, n in wrong.items())
        return f"Contents: WRONG in {bad}; this is a fault of jaxmig, please report it."
    after = ", ".join(o.record["kernel"] for o in outcomes)
    return f"Contents: every page holds what it held before (word by word; {after})."


def _pages(n: int) -> str:
    return report.units.some(n, "page")
