"""One profile, one time: whoever prices a migration says the same of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from jaxmig import cli
from jaxmig.programs.workloads import replay, trace
from jaxmig.programs.workloads.streams import Streams, fixed
from jaxmig.report.window import MOVE, UNMAP
from jaxmig.time import cost, machines
from jaxmig.time.access import Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, costs_of, timetable
from jaxmig.time.timeline.timetable import Timetable

PAGES = 256  # memhog:1m
KERNELS = ("6.2", "6.18")
# Nothing is 0 and nothing alike, so that a term left out anywhere is seen.
TERMS = {"machine.cache": 256, "machine.hot": 25, "cost.copy_beyond": 333}
TERMS |= {"cost.copy_first": 77_000, "cost.call": 55_000, "cost.copy_hot": 91}


def profile(machine: str) -> Profile:
    return machines.load(machine).replace(TERMS)


def run(*args: str | Path) -> None:
    assert cli.main([str(a) for a in args]) == 0


def trip(p: Profile, table: Timetable, size: int) -> Run:
    """The migration under a thread on another CPU that reads what stays."""
    stays = np.array([[size, 0, 0]])
    shape = Shape(1, size + 1)
    r = Run(shape, costs_of(p, 1000), Streams([fixed(stays)], 64, 1), table, trips=1)
    r.go()
    return r


@pytest.mark.parametrize("machine", ["zen4-vm", "arm64-2n128c"])
def test_commands_and_the_timeline_agree(machine: str, tmp_path: Path) -> None:
    p = profile(machine)
    file = tmp_path / "mine.toml"
    file.write_text(machines.dumps(p))
    call = (
        "memhog:1m",
        "0",
        "1",
        "--machine",
        file,
        "--cpus",
        "2",
        "--kernel",
        "6.2,6.18",
    )
    one = ("--running", "1", "--nodes", "2")
    run("migratepages", *call, *one, "--no-content", "--json", tmp_path / "m.json")
    run("sweep", *call, "-o", tmp_path / "s.csv")
    run("advise", *call, *one, "--p99", "1s", "--json", tmp_path / "a.json")
    records = json.loads((tmp_path / "m.json").read_text())["calls"]
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    advised = json.loads((tmp_path / "a.json").read_text())["rows"]
    compared = 0
    for kernel, record in zip(KERNELS, records, strict=True):
        total = record["time_ns"]["total"]
        assert record["vmstat"]["pgmigrate_success"] == PAGES
        assert [int(r["time_ns.total"]) for r in rows if r["kernel"] == kernel] == [
            total
        ]
        # One batch, whatever the limit that is best; modes differ where pages are busy.
        mine = [r for r in advised if r["kernel"] == kernel and r["copy"] == "cpu"]
        assert {r["time_ns.total"] for r in mine} == {total}
        table = timetable(p, PAGES, kernel=kernel)
        found = trip(p, table, PAGES)
        assert found.world.migrator.end_ns == pytest.approx(total, abs=2 * PAGES)
        compared += len(mine) + 2
    assert compared >= 6


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_replayed_trace_agrees(kernel: str, tmp_path: Path) -> None:
    p = profile("zen4-vm")
    file = tmp_path / "all.csv"
    lines = (f"{i << 12:#x}\n" for i in range(PAGES))
    file.write_text("".join(("address\n", *lines)))
    made = replay.run(trace.load(str(file)), p, kernel)
    t = made.totals
    assert t.folios == PAGES
    flushes = (t.flushes - t.silent) * made.table.flush_first
    flushes += t.silent * made.table.flush_lazy
    counts = dict.fromkeys(cost.PRICED, 0) | {"calls": 1}
    each = (
        "allocs alloc_pages tries ptes_cleared moves folios_moved pages_copied ptes_set"
    )
    counts |= dict.fromkeys(each.split(), PAGES)
    if kernel != "6.2":
        counts["ptes_deferred"] = PAGES
    policy = "serial" if kernel == "6.2" else "batched"
    total = cost.price(counts, p, policy=policy).total
    assert t.trips_ns - flushes == pytest.approx(total, abs=2 * PAGES)


@pytest.mark.parametrize("huge", [0, 3])
@pytest.mark.parametrize("mappings", [1, 4])
@pytest.mark.parametrize("copy", ["cpu", "threads:4"])
def test_every_term_of_a_trip_is_priced_as_a_call_s(
    huge: int, mappings: int, copy: str
) -> None:
    """Sizes, later mappings, the page cache, engines, a full cache: without a run."""
    p = machines.load("xeon-2s").replace(TERMS | {"machine.cache": 2048})
    small, folios = 700, 700 + huge
    table = timetable(
        p, folios, huge, kernel="6.18", copy=copy, mappings=mappings, cached=True
    )
    pages = small + 512 * huge
    counts = dict.fromkeys(cost.PRICED, 0) | {"calls": 1, "alloc_pages": pages}
    names = "allocs tries moves folios_moved folios_cached"
    counts |= dict.fromkeys(names.split(), folios)
    counts |= {"ptes_cleared": small * mappings, "ptes_set": small * mappings}
    counts |= {"pmds_cleared": huge * mappings, "pmds_set": huge * mappings}
    counts |= {"ptes_deferred": small * mappings}
    counts |= {"pages_copied": small, "pages_copied_huge": 512 * huge}
    priced = cost.price(counts, p, copy=copy)
    unmap = int((table.count * table.unit.astype(int)).sum())
    assert unmap == pytest.approx(sum(priced.places[n] for n in UNMAP), abs=2 * pages)
    moved = [sum(getattr(table, f"{n}_{s}") for n in ("move", "engine"))
             for s in ("huge", "base")]  # fmt: skip
    took = huge * moved[0] + small * moved[1] + table.first_copy
    took += max(huge - table.fits, 0) * table.beyond_huge
    took += (folios - max(table.fits, huge)) * table.beyond
    places = sum(priced.places.get(n, 0) for n in (*MOVE, "engine"))
    assert took == pytest.approx(places, abs=2 * pages)
    assert table.call == priced.places["call"] == 55_000
    assert (table.beyond > 0) == (copy == "cpu")
