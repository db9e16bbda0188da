"""The cover letter's figures, from pmbench's threads on the timeline.

A part of the memory moves there and back between the nodes while the threads use all of
it; the interrupts are those of CPUs that were awake.

Source: Huang Ying, migrate_pages(): batch TLB flushing, cover letter, 2022-23.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

from jaxmig.programs.workloads.pmbench import DRAW_NS, LOOP_NS, Options, thread
from jaxmig.programs.workloads.streams import Streams, block_for
from jaxmig.time import machines
from jaxmig.time.access import Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, Timetable, alike, costs_of, timetable
from jaxmig.tools.reproduce import published
from jaxmig.tools.reproduce.row import Row, inputs_of

Tick = Callable[[str], None]
RUNNING: Final = (1, 2, 4, 8, 16, 19, 31)
LANES: Final = 32
SET: Final = 128  # MiB, the default; rows of another set have ids of their own
MOVED: Final = 2048  # pages of the set that move there and back: four batches
TRIPS: Final = 2
X86_KEYS: Final = (
    *("cost.alloc", "cost.bookkeeping", "cost.walk", "cost.remap", "cost.switch"),
    *("cost.copy_4k", "cost.flush_first", "cost.flush_next", "cost.flush_lazy"),
    *("cost.defer", "target.page", "target.full", "access.tlb_hit", "access.walk"),
    *("access.memory_local", "access.memory_remote", "access.fault", "access.wake"),
)
RATE_CAUSE: Final = (
    "threads that sleep on migration entries leave their CPUs lazy, so that most "
    "flushes of a batch interrupt nobody; server and options of the run were not "
    "published"
)

IPI_CAUSE: Final = (
    "one round a batch leaves 0.2 %, and fewer where threads sleep on migration "
    "entries: their CPUs are lazy then. "
    "/proc/interrupts also counts other shootdowns of the system"
)


def intel(tick: Tick) -> Iterator[Row]:
    """pmbench while its memory moves there and back, by running CPUs and set size."""
    p = machines.load("xeon-2s")
    for cpus, mib in [(n, SET) for n in RUNNING] + [(16, 2048)]:
        serial, batched = alike([timetable(p, MOVED, kernel=k) for k in ("6.2", "v4")])
        before = _pmbench(p, cpus, mib, serial)
        after = _pmbench(p, cpus, mib, batched)
        tick(f"pmbench on {cpus} CPUs")
        what = f"pmbench -s {mib} -j {cpus}, memory back and forth"
        run = f"{cpus} threads, {mib} MiB, uniform, ratio 50"
        base = Row(
            "intel-pmbench-rate" + ("" if mib == SET else f"-{mib}m"),
            f"pages migrated a second: {what}",
            None,
            None,
            published.COVER.rate_change,
            before.rate,
            after.rate,
            "pages/s",
            "v4",
            (run, *inputs_of(p, *X86_KEYS)),
            published.COVER.source,
            cause=RATE_CAUSE,
            extra={"cpus": cpus, "setsize_mib": mib},
        )
        more = {**base.extra, **_by_formula(p, base, after)}
        yield dataclasses.replace(base, extra=more)
        yield _interrupts(base, what, before, after)


def _by_formula(profile: Profile, row: Row, after: "Ran") -> dict[str, float | str]:
    """Fields with the formula's prediction, beside the run's."""
    formula = 100 * (_formula(profile, row.extra["cpus"]) - 1)
    gap = 100 * ((100 + (row.predicted_change or 0)) / (100 + formula) - 1)
    return {
        "formula_change_percent": formula,
        "formula_difference_percent": gap,
        "formula_explanation": _why(gap, after),
    }


def _interrupts(base: Row, what: str, before: "Ran", after: "Ran") -> Row:
    """Interrupts per page moved, and the part that remains with batching."""
    left = 100 * after.ipis / before.ipis if before.ipis else 0.0
    remain = {
        "published_remaining_percent": 100 + published.COVER.ipi_change,
        "predicted_remaining_percent": left,
        "ideal_remaining_percent": 100 / 512,
    }
    return dataclasses.replace(
        base,
        id=base.id.replace("rate", "ipis"),
        what=f"TLB shootdown interrupts a page: {what}",
        published_change=published.COVER.ipi_change,
        predicted_before=before.ipis,
        predicted_after=after.ipis,
        unit="interrupts/page",
        cause=IPI_CAUSE,
        extra={**base.extra, **remain},
    )


def _why(gap: float, after: "Ran") -> str:
    if abs(gap) <= 5:
        return ""
    return (
        f"the formula takes every CPU as awake; here {100 * after.silent:.0f} % of the "
        "batches' flushes met sleeping threads only"
    )


def _formula(profile: Profile, cpus: int) -> float:
    """(b + F) / (b + F / 512): a flush for each page against a flush for 512 pages."""
    b = sum(
        profile[f"cost.{k}"]
        for k in ("alloc", "bookkeeping", "walk", "remap", "switch")
    )
    b += profile["cost.copy_4k"]
    f = profile["cost.flush_first"] + profile["cost.flush_next"] * (cpus - 1)
    return float((b + f) / (b + profile["cost.defer"] + f / 512))


@dataclasses.dataclass(frozen=True)
class Ran:
    """A modelled pmbench run."""

    rate: float  # base pages per second
    ipis: float  # interrupts per page
    silent: float  # share of flushes that interrupted no CPU


def _pmbench(profile: Profile, cpus: int, mib: int, table: Timetable) -> Ran:
    """`cpus` threads on a warm set of which MOVED pages move, TRIPS times."""
    o = Options(setsize_mib=mib, jobs=cpus)
    sets, ways = profile.tlb
    shape = Shape(LANES, o.pages, sets=sets, ways=ways)
    streams = Streams([thread(o, t + 1) for t in range(cpus)], block_for(LANES), LANES)
    nodes = [int((c + 1) * 2 >= profile.cpus) for c in range(LANES)]
    gen = DRAW_NS[o.pattern] + LOOP_NS
    run = Run(
        shape,
        costs_of(profile, gen),
        streams,
        table,
        trips=TRIPS,
        nodes=nodes,
        threads=cpus,
    )
    t = run.go()
    pages = TRIPS * MOVED
    silent = t.silent / max(t.flushes, 1)
    return Ran(pages * 1e9 / t.trips_ns, float(t.ipis.sum()) / pages, silent)
