"""What `jaxmig replay` prints: the trace and the runs, as table, JSON and CSV."""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from typing import Any, Final

from jaxmig import __version__, report
from jaxmig.cli import output
from jaxmig.host.terminal import printable
from jaxmig.linux.releases import release
from jaxmig.programs.workloads.replay import Replayed
from jaxmig.programs.workloads.trace import Trace
from jaxmig.report.units import count, duration, rate
from jaxmig.time import machines

HEADERS: Final = (
    *(
        "kernel",
        "program",
        "slower",
        "by moving",
        "after it",
        "TLB misses",
        "pages moved",
        "moving",
        "pages/s",
    ),
    *("IPIs", "waits", "p50", "p99", "p99.9", "max"),
)


def show(
    args: argparse.Namespace,
    trace: Trace,
    profile: machines.Profile,
    runs: Sequence[Replayed],
) -> None:
    """Write results to the files of the options, and print them unless one is stdout.

    Args:
      args: of the command.
      runs: without a migration first, then one for each kernel.
    Raises:
      Failure: a file cannot be written.
    """
    walk_ns = round(profile["access.walk"])
    rows = [row(r, runs[0], walk_ns) for r in runs]
    if args.json:
        output.write(
            args.json, report.to_json(document(trace, profile, runs, rows)) + "\n"
        )
    if args.csv:
        output.write(args.csv, _csv(rows))
    if output.alone(args.json, args.csv):
        return
    gap = f"{runs[0].gap_ns} ns between two accesses of a thread"
    print(f"{assumed(args, trace, profile)}; {gap}")
    if rates := profile.copy_assumed(args.copy):
        print(f"Assumed: {rates}.")
    print(printable(f"Trace: {trace.path}: {describe(trace)}") + "\n")
    width = report.terminal_width(sys.stdout)
    print(report.table(HEADERS, [_cells(r) for r in rows], args.table, width))


def assumed(args: argparse.Namespace, trace: Trace, profile: machines.Profile) -> str:
    """The machine that the trace was played on, in one line like other commands'."""
    running = args.running or trace.cpus
    return report.assumed_line(
        profile,
        running=running,
        cpus=max(profile.cpus, max(running) + 1),
        nodes=2,
        batch=args.batch,
        copy=args.copy,
        content=False,
    )


def describe(trace: Trace) -> str:
    """Accesses, threads and pages in words."""
    n = sum(trace.accesses)
    by = "CPUs" if trace.lanes[0].cpu >= 0 else "threads"
    parts = [f"{count(len(trace.pages))} pages of 4 KiB"] if len(trace.pages) else []
    parts += [f"{count(trace.huge)} pages of 2 MiB"] if trace.huge else []
    lanes = f"{len(trace.lanes)} {by[:-1] if len(trace.lanes) == 1 else by}"
    return (
        f"{trace.title}, {count(n - trace.stores)} loads and {count(trace.stores)} "
        f"stores by {lanes} on {' and '.join(parts)}"
    )


def document(
    trace: Trace,
    profile: machines.Profile,
    runs: Sequence[Replayed],
    rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The document of `--json`.

    Args:
      runs: as for `show`.
      rows: `row` of each run.
    Returns:
      Plain data; times in ns.
    """
    n = sum(trace.accesses)
    about = {
        "path": trace.path, "format": trace.title, "accesses": n, "loads": n - trace.stores,
        "stores": trace.stores, "pages": trace.base_pages, "huge": trace.huge,
        "cpus": [x.cpu for x in trace.lanes if x.cpu >= 0],
        "threads": [x.tid for x in trace.lanes if x.cpu < 0],
        "left_out": trace.notes, "gap_ns": runs[0].gap_ns,
    }  # fmt: skip
    machine = report.machine_dict(profile, profile.cpus, 2)
    runs_ = [
        row | {"ipis_per_cpu": r.totals.ipis.tolist()}
        for row, r in zip(rows, runs, strict=True)
    ]
    return {"jaxmig": __version__, "trace": about, "machine": machine, "runs": runs_}


def row(replayed: Replayed, baseline: Replayed, walk_ns: int) -> dict[str, Any]:
    """The results of one run, times in ns.

    Args:
      baseline: the run without a migration, from which losses are counted.
      walk_ns: of one page walk.
    """
    t, s = replayed.totals, replayed.waits(baseline, walk_ns)
    ran, before = int(replayed.ran_ns.max()), int(baseline.ran_ns.max())
    # Of the thread that ends last: the time that the migration stopped it, and the rest,
    # which comes from memory on another node than before.
    last = int(replayed.ran_ns.argmax())
    refills = int(t.walks[last]) - int(baseline.totals.walks[last])
    moving = int(t.stall_ns[last] + t.ipi_ns[last]) + max(refills, 0) * walk_ns
    moving = moving if replayed.kernel else 0
    trips = t.folios // replayed.table.folios if replayed.kernel else 0
    batched = replayed.kernel is not None and release(replayed.kernel).batched
    return {
        "kernel": replayed.kernel,
        "policy": None
        if replayed.kernel is None
        else "batched"
        if batched
        else "serial",
        "accesses": int(t.accesses.sum()),
        "tlb_hits": int(t.hits.sum()),
        "tlb_misses": int(t.walks.sum()),
        "program_ns": ran,
        "slower": ran / max(before, 1) - 1,
        "slower_by_moving_ns": moving,
        "slower_after_ns": ran - before - moving,
        "pages_moved": trips * replayed.table.pages,
        "migration_ns": t.trips_ns,
        "pages_per_s": trips * replayed.table.pages * 1e9 / t.trips_ns
        if t.trips_ns
        else 0.0,
        "flushes": t.flushes,
        "ipis": int(t.ipis.sum()),
        "ipi_ns": int(t.ipi_ns.sum()),
        "waits": s.waits,
        "wait_ns": int(t.stall_ns.sum()),
        "wait_p50_ns": s.p50,
        "wait_p99_ns": s.p99,
        "wait_p999_ns": s.p999,
        "wait_max_ns": s.longest,
        "lost_to_ipis": s.lost_ipis,
        "lost_to_refills": s.lost_refills,
    }


def _signed(ns: int) -> str:
    return f"-{duration(-ns)}" if ns < 0 else duration(ns)


def _cells(record: dict[str, Any]) -> list[str]:
    moved = record["kernel"] is not None
    waits = [duration(record[f"wait_{q}_ns"]) for q in ("p50", "p99", "p999", "max")]
    return [
        record["kernel"] or "none",
        duration(record["program_ns"]),
        f"{100 * record['slower']:.1f} %" if moved else "-",
        *(
            [
                _signed(record[f"slower_{n}_ns"]) if moved else "-"
                for n in ("by_moving", "after")
            ]
        ),
        count(record["tlb_misses"]),
        *(
            (count(record["pages_moved"]), duration(record["migration_ns"]))
            if moved
            else "--"
        ),
        *((rate(record["pages_per_s"]), count(record["ipis"])) if moved else "--"),
        *((count(record["waits"]), *waits) if moved else "-----"),
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
