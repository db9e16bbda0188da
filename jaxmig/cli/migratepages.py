"""`jaxmig migratepages`: one target from nodes to nodes, serial and batched."""

import argparse
import os
import sys
from typing import Any

from jaxmig import __version__, machines, report
from jaxmig.cli import job, options, output, runtime, shape
from jaxmig.cli.errors import Failure, Parser, Usage, say
from jaxmig.cli.progress import progress
from jaxmig.migrate import NR_MAX_BATCHED_MIGRATION
from jaxmig.releases import BOTH
from jaxmig.targets import Setting, Target, resolve

EXAMPLES = """  jaxmig migratepages memhog:64m 0 1
  jaxmig migratepages 4711 0 1 --cpus 4 --running 1-3
  jaxmig migratepages app.npz 0 1 --kernel 6.2,6.18 --json result.json
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The parser of the command."""
    summary = "migrate a target's pages between nodes, serial and batched side by side"
    parser = options.add_parser(commands, "migratepages", summary, EXAMPLES, run)
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="a PID, a snapshot file, memhog:SIZE[,thp] or pmbench:setsize=SIZE,jobs=N",
    )
    parser.add_argument("from_", metavar="FROM", help="nodes: 0 or 0,1 or 0-3 or all")
    parser.add_argument("to", metavar="TO", help="nodes, written the same way")
    parser.add_argument(
        "--pid",
        type=options.whole("PID", 1, options.MAX_INT),
        help="which process of a snapshot that holds several",
    )
    parser.add_argument(
        "--unprivileged",
        action="store_true",
        help="without CAP_SYS_NICE: pages mapped more than once stay",
    )
    options.add_machine(parser)
    shape.add_memory(parser)
    options.add_call(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Migrate, verify, compare."""
    output.check(args.json, args.csv)
    runtime.prepare()
    profile = machines.load(args.machine or "xeon-2s")
    target = resolve(args.target, args.pid)
    made = shape.of(args, profile, target)
    call = _call(args, made, profile)
    try:
        outcomes = _migrate(args, target, made, profile, call)
    except job.SleepsForever:
        raise Failure("the call would wait for ever for a page in use") from None
    _print(args, profile, target, made, call, outcomes)
    return _verdict(outcomes)


def _migrate(
    args: argparse.Namespace,
    target: Target,
    made: shape.Shape,
    profile: machines.Profile,
    call: job.Call,
) -> list[job.Outcome]:
    kernels = args.kernel or BOTH
    with progress(job.STEPS * len(kernels), args.target) as tick:
        return job.run(target, made.setting, profile, kernels, call, tick)


def _call(args: argparse.Namespace, made: shape.Shape, p: machines.Profile) -> job.Call:
    """The call that the options describe."""
    old, new = made.old, made.new
    if (args.caller or args.mode not in (None, "sync")) and len(new) > 1:
        raise Usage(f"{args.to!r}: only the system call takes several nodes; name one")
    copy = args.copy or "cpu"
    p.copy_speedups(copy)  # refuses an engine that the machine lacks
    cpu = args.cpu or 0
    if cpu >= made.setting.cpus:
        raise Usage(f"--cpu {cpu}: the machine has CPUs 0-{made.setting.cpus - 1}")
    return job.Call(
        old=old,
        new=new,
        cpu=cpu,
        batch=NR_MAX_BATCHED_MIGRATION if args.batch is None else args.batch,
        copy=copy,
        privileged=not args.unprivileged,
        caller=args.caller,
        mode=args.mode,
    )


def _print(
    args: argparse.Namespace,
    profile: machines.Profile,
    target: Target,
    made: shape.Shape,
    call: job.Call,
    outcomes: list[job.Outcome],
) -> None:
    records = [o.record for o in outcomes]
    s = made.setting
    if args.json:
        shown = {"running": list(s.running), "lazy": list(s.lazy)}
        machine = report.machine_dict(profile, s.cpus, s.nodes) | shown
        doc = report.document(__version__, None, machine, records)
        doc["target"] = _about(target)
        output.write(args.json, report.to_json(doc) + "\n")
    if args.csv:
        output.write(args.csv, report.to_csv(records))
    if output.alone(args.json, args.csv):
        return
    assumed = report.assumed_line(
        profile,
        running=s.running,
        lazy=s.lazy,
        cpu=call.cpu,
        cpus=s.cpus,
        nodes=s.nodes,
        batch=call.batch,
        copy=call.copy,
        content=s.content,
    )
    print(
        report.compare(
            records,
            assumed=f"{assumed}\nTarget: {target.name}: {target.description}",
            fmt=args.table,
            width=report.terminal_width(sys.stdout),
            color=report.wants_color(sys.stdout, os.environ),
        )
    )
    print()
    for line in _remarks(target, s, call, outcomes):
        print(line)
    for o in outcomes:
        print(f"\nModelled time of {o.record['kernel']} ({o.record['policy']}):")
        print(report.tree_text(report.call_tree(o.cost)))


def _about(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "description": target.description,
        "pages": target.pages,
        "unmovable": [{"why": w, "pages": n} for w, n in target.unmovable],
        "missing": list(target.missing),
        "assumed": list(target.assumed),
    }


def _remarks(
    target: Target, setting: Setting, call: job.Call, outcomes: list[job.Outcome]
) -> list[str]:
    """What was verified, what may not move and why, what is not known."""
    lines = [_verified(outcomes)]
    stayed = outcomes[0].stayed
    if stayed:
        lines.append(f"On other nodes, so not asked to move: {stayed:,} pages.")
    for why, pages in target.unmovable:
        lines.append(f"May not move: {pages:,} pages: {why}.")
    lines += [f"Not known: {line}." for line in target.missing]
    lines += [f"Assumed: {line}." for line in target.assumed]
    if call.cpu in setting.running:
        lines.append(
            f"CPU {call.cpu} migrates and runs the target: it takes no IPI for itself."
        )
    return lines


def _verified(outcomes: list[job.Outcome]) -> str:
    if any(o.wrong is None for o in outcomes):
        return "Contents: not carried, so not verified."
    wrong = {o.record["kernel"]: o.wrong for o in outcomes if o.wrong}
    if wrong:
        bad = ", ".join(f"{n:,} pages after {kernel}" for kernel, n in wrong.items())
        return f"Contents: WRONG in {bad}; this is a fault of jaxmig, please report it."
    after = ", ".join(o.record["kernel"] for o in outcomes)
    return f"Contents: every page holds what it held before (word by word; {after})."


def _verdict(outcomes: list[job.Outcome]) -> int:
    """The exit code, and a line on stderr for each kernel that failed."""
    code = 0
    for o in outcomes:
        line = _complaint(o)
        if line:
            say(f"jaxmig migratepages: {o.record['kernel']}: {line}")
            code = 1
    return code


def _complaint(o: job.Outcome) -> str:
    r = o.record
    moved = r["vmstat"]["pgmigrate_success"]
    if o.full:
        answer = r["errno"] or f"{r['ret']} folios left behind"
        nodes = ", ".join(map(str, o.full))
        return (
            f"migrate_pages: {answer}: node {nodes} is full; {moved:,} pages fitted; "
            "give it more with --free or --node-size"
        )
    if r["errno"]:
        return f"migrate_pages: {r['errno']}; {moved:,} pages moved"
    return "contents changed" if o.wrong else ""
