"""`jaxmig migratepages`: one target from nodes to nodes, serial and batched."""

import argparse
import sys
from typing import Any

from jaxmig import __version__, machines, nodes, report
from jaxmig.cli import job, options, output, runtime, shape
from jaxmig.cli.errors import Failure, Parser, Usage, say
from jaxmig.cli.progress import progress
from jaxmig.releases import BOTH
from jaxmig.syscalls.nodes import plan
from jaxmig.targets import Target, resolve

EXAMPLES = """  jaxmig migratepages memhog:64m 0 1
  jaxmig migratepages 4711 0 1 --cpus 4 --running 1-3
  jaxmig migratepages app.npz 0 1 --kernel 6.2,6.18 --json result.json
"""
# Who calls, as rules.py names the reason, and whether from within reclaim.
CALLERS = {
    "compaction": ("async", "compaction", True),
    "numa_balancing": ("async", "numa_misplaced", False),
    "demotion": ("async", "demotion", True),
    "memory_offline": ("sync", "memory_hotplug", False),
    "cma": ("sync", "contig_range", False),
    "longterm_pin": ("sync", "longterm_pin", False),
    "soft_offline": ("sync", "memory_failure", False),
    "damon": ("async", "damon", False),
}


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
    kernels = args.kernel or BOTH
    with progress(3 * len(kernels), args.target) as tick:
        outcomes = job.run(target, made.setting, profile, kernels, call, tick)
    _print(args, profile, target, made, call, outcomes)
    return _verdict(outcomes, call)


def _call(args: argparse.Namespace, made: shape.Shape, p: machines.Profile) -> job.Call:
    """The call that the options describe."""
    n = made.setting.nodes
    old, new = nodes.parse(args.from_, n), nodes.parse(args.to, n)
    if not old or not new:
        which = args.to if old else args.from_
        raise Failure(f"{which!r} names no node of {n}; name one")
    mode, reason, memalloc = CALLERS.get(
        args.caller, ("sync", "syscall_or_cpuset", False)
    )
    copy = args.copy or "cpu"
    p.copy_speedups(copy)  # refuses an engine that the machine lacks
    cpu = args.cpu or 0
    if cpu >= made.setting.cpus:
        raise Usage(f"--cpu {cpu}: the machine has CPUs 0-{made.setting.cpus - 1}")
    return job.Call(
        steps=tuple(plan(frozenset(old), frozenset(new))),
        mode=args.mode or mode,
        reason=reason,
        memalloc=memalloc,
        cpu=cpu,
        batch=512 if args.batch is None else args.batch,
        copy=copy,
        privileged=not args.unprivileged,
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
            color=report.wants_color(sys.stdout, made.environ),
        )
    )
    print()
    for line in _remarks(target, outcomes):
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
    }


def _remarks(target: Target, outcomes: list[job.Outcome]) -> list[str]:
    """What was verified, what may not move and why, what is not known."""
    lines = [_verified(target, outcomes)]
    for why, pages in target.unmovable:
        lines.append(f"May not move: {pages:,} pages: {why}.")
    for line in target.missing:
        lines.append(f"Not known: {line}.")
    return lines


def _verified(target: Target, outcomes: list[job.Outcome]) -> str:
    if any(o.wrong is None for o in outcomes):
        return "Contents: not carried, so not verified."
    wrong = {o.record["kernel"]: o.wrong for o in outcomes if o.wrong}
    if wrong:
        bad = ", ".join(f"{n:,} pages after {kernel}" for kernel, n in wrong.items())
        return f"Contents: WRONG in {bad}; this is a fault of jaxmig, report it."
    after = ", ".join(o.record["kernel"] for o in outcomes)
    return f"Contents: every page holds what it held before (word by word, {after})."


def _verdict(outcomes: list[job.Outcome], call: job.Call) -> int:
    """The exit code, and a line for what went wrong."""
    code = 0
    for o in outcomes:
        r, head = o.record, f"jaxmig migratepages: {o.record['kernel']}"
        if r["errno"]:
            after = ", ".join(f"{n}: {p:,}" for n, p in r["nodes_after"].items())
            say(
                f"{head}: migrate_pages: {r['errno']}: the destination is full; "
                f"{r['vmstat']['pgmigrate_success']:,} of {o.requested:,} moved, pages "
                f"now by node {after}; give it more with --free or --node-size"
            )
        if o.sleeps:
            say(f"{head}: the call would wait for ever")
        code |= bool(r["errno"] or o.sleeps or o.wrong)
    return code
