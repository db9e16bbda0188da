"""`jaxmig migratepages`: one target from nodes to nodes, serial and batched."""

import argparse
import dataclasses
from typing import Any

from jaxmig.cli import (
    htmlreport,
    named,
    output,
    pictures,
    runtime,
    shape,
    traces,
    whatif,
)
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.cli.pins import held_cost
from jaxmig.cli.progress import progress
from jaxmig.cli.show import Resolved, show
from jaxmig.linux.releases import BOTH, NR_MAX_BATCHED_MIGRATION
from jaxmig.report.units import some
from jaxmig.time import machines
from jaxmig.tools import job


def run(args: argparse.Namespace) -> int:
    """Migrate on each kernel, verify the contents, print the comparison."""
    output.check(args.json, args.csv, *traces.files(args), *htmlreport.files(args))
    pictures.check(args.plot)
    pictures.check(args.plot_map)
    runtime.prepare()
    profile = machines.load(args.machine or "xeon-2s")
    found = named.target(args.target, args.pid)
    target = whatif.target(args, found, args.cpus or profile.cpus, args.cpu or 0)
    made = shape.of(args, profile, target)
    call = _call(args, made, profile, target.pages)
    asked = Resolved(target, made.setting, profile, call, args.running is None)
    kernels = args.kernel or BOTH
    plain = None
    if args.pinned:
        free = argparse.Namespace(**vars(args) | {"pinned": 0})
        plain = whatif.target(free, found, args.cpus or profile.cpus, args.cpu or 0)
    steps = job.STEPS * len(kernels) * (1 if plain is None else 2)
    try:
        with progress(steps, args.target) as tick:
            outcomes = job.run(
                target, asked.setting, profile, kernels, asked.call, tick
            )
            if plain is not None:
                held = held_cost(plain, asked, outcomes, tick)
                asked = dataclasses.replace(asked, held=held)
    except job.SleepsForever:
        raise Failure("the call would wait for ever for a page in use") from None
    except job.LogTooLong as error:
        raise Failure(f"{args.target}: {error}; trace a smaller target") from None
    show(args, asked, outcomes)
    return _verdict(outcomes, args.caller)


def _call(
    args: argparse.Namespace,
    made: shape.NodeShape,
    profile: machines.Profile,
    pages: int,
) -> job.Call:
    """The call that the options describe, of a target of so many base pages."""
    old, new = made.old, made.new
    if (args.caller or args.mode not in (None, "sync")) and len(new) > 1:
        raise Usage(f"{args.to!r}: only the system call takes several nodes; name one")
    copy = args.copy or "cpu"
    profile.copy_speedups(copy)  # refuses an engine that the machine lacks
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
        logs=traces.step_by_step(args, pages, made.setting.cpus),
        footprints=args.plot_map is not None,
        caller=args.caller,
        mode=args.mode,
    )


def _verdict(outcomes: list[job.Outcome], caller: str | None) -> int:
    """The exit code, after one line on stderr that names the kernels that failed."""
    found: dict[str, list[str]] = {}
    for o in outcomes:
        line = _complaint(o)
        if line:
            found.setdefault(line, []).append(o.record["kernel"])
    told = [f"{', '.join(kernels)}: {line}" for line, kernels in found.items()]
    if told:
        advice = any(o.full for o in outcomes)
        more = "; give it more with --free or --node-size" if advice else ""
        say(f"jaxmig migratepages: {'; '.join(told)}{more}")
    elif all(_idle(o.record) for o in outcomes):
        reason = "no page on FROM belongs elsewhere on TO"
        if caller:
            reason = f"{caller} lists no page on FROM"
        say(f"jaxmig migratepages: nothing moved: {reason}")
    return int(bool(told))


def _idle(record: dict[str, Any]) -> bool:
    moved, failed = (record["vmstat"][f"pgmigrate_{k}"] for k in ("success", "fail"))
    return moved == failed == record.get("reclaimed", 0) == 0


def _complaint(outcome: job.Outcome) -> str:
    r = outcome.record
    moved = r["vmstat"]["pgmigrate_success"]
    if outcome.full:
        answer = r["errno"] or f"{some(r['ret'], 'folio')} left behind"
        nodes = ", ".join(map(str, outcome.full))
        fitted = some(moved, "page")
        return f"migrate_pages: {answer}: node {nodes} is full; {fitted} fitted"
    if r["errno"]:
        return f"migrate_pages: {r['errno']}; {some(moved, 'page')} moved"
    return "contents changed" if outcome.wrong else ""
