"""Stalls: how long accesses and threads waited, and the accesses that they lost.

Percentiles come from bins of a sixteenth of an octave, so they are at most 6 % too
high; the maximum is exact.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from jaxmig import report
from jaxmig.programs.workloads.pmbench import PmbenchResult
from jaxmig.report.units import count, duration, rate
from jaxmig.time.access.state import FIRST_OCTAVE, SUB_BINS
from jaxmig.time.timeline import Totals

QUANTILES: Final = (0.5, 0.99, 0.999)


def upper(i: int) -> int:
    """The end of bin i, ns."""
    if i == 0:
        return 1 << FIRST_OCTAVE
    octave, part = divmod(i - 1, SUB_BINS)
    return (SUB_BINS + part + 1) << (octave + FIRST_OCTAVE - 4)


def percentile(bins: np.ndarray, share: float) -> int:
    """The time in ns that a share of the counted times does not exceed; 0 without any."""
    total = int(bins.sum())
    if total == 0:
        return 0
    return upper(int(np.searchsorted(np.cumsum(bins), share * total)))


@dataclasses.dataclass(frozen=True)
class Stalls:
    """Waits for migration entries; times in ns, rates per second."""

    waits: int
    p50: int
    p99: int
    p999: int
    longest: int
    thread_p50: int  # of the threads' whole waiting times
    thread_p99: int
    thread_p999: int
    thread_max: int
    share: float  # of all threads' time, spent waiting
    lost_ipis: float  # accesses that did not happen because of interrupts
    lost_refills: float  # and because of page walks after flushes


def of_totals(totals: Totals, ran_ns: np.ndarray, walks: float, walk_ns: int) -> Stalls:
    """The waits of a run.

    Args:
      ran_ns: how long each thread ran.
      walks: page walks per access without a migration; more walks are refills.
      walk_ns: of one walk.
    Returns:
      Times in ns; lost accesses are those that the lost time would have sufficed for.
    """
    by_thread = totals.stall_ns[: len(ran_ns)]
    threads = np.quantile(by_thread, QUANTILES, method="inverted_cdf")
    p50, p99, p999 = (
        min(percentile(totals.waits, q), int(totals.stall_max.max())) for q in QUANTILES
    )
    accesses = max(int(totals.accesses.sum()), 1)
    busy = int(ran_ns.sum()) - int(totals.stall_ns.sum()) - int(totals.ipi_ns.sum())
    mean = max(busy / accesses, 1.0)
    refills = max(int(totals.walks.sum()) - walks * accesses, 0.0)
    return Stalls(
        waits=int(totals.stalls.sum()),
        p50=p50,
        p99=p99,
        p999=p999,
        longest=int(totals.stall_max.max()),
        thread_p50=int(threads[0]),
        thread_p99=int(threads[1]),
        thread_p999=int(threads[2]),
        thread_max=int(by_thread.max()),
        share=int(totals.stall_ns.sum()) / max(int(ran_ns.sum()), 1),
        lost_ipis=int(totals.ipi_ns.sum()) / mean,
        lost_refills=refills * walk_ns / mean if walks else 0.0,
    )


def of_result(result: PmbenchResult, walk_ns: int) -> Stalls:
    """The waits of a pmbench run."""
    return of_totals(result.totals, result.ran_ns, result.baseline_walks, walk_ns)


HEADERS: Final = (
    "batch",
    "pages/s",
    "trip",
    "first folio",
    "IPIs",
    "waits",
    "p50",
    "p99",
    "p99.9",
    "max",
    "accesses/s",
)


def first_folio_ns(result: PmbenchResult) -> int:
    """ns from the start of a call to its first folio mapped again, without interrupts."""
    t = result.table
    last = int(np.argmax(t.moved > 0))
    unmapped = int((t.count[: last + 1] * t.unit[: last + 1]).sum())
    large = t.pages > t.folios
    move = t.move_huge if large else t.move_base
    engine = t.engine_huge if large else t.engine_base
    first = t.call + unmapped + t.flush_lazy + engine * int(t.moved[last]) + move
    return first + (0 if large else t.first_copy)


def point(batch: int, result: PmbenchResult, walk_ns: int) -> dict[str, float]:
    """A run with one batch limit, as numbers: times in ns, rates per second."""
    s = of_result(result, walk_ns)
    return {
        "batch": batch,
        "pages_per_s": result.pages_per_s,
        "trip_ns": result.table.pages / result.pages_per_s * 1e9
        if result.pages_per_s
        else 0.0,
        "first_folio_ns": first_folio_ns(result),
        "ipis": int(result.totals.ipis.sum()),
        "waits": s.waits,
        "p50_ns": s.p50,
        "p99_ns": s.p99,
        "p999_ns": s.p999,
        "max_ns": s.longest,
        "accesses_per_s": result.accesses_per_s,
    }


def trade_off(points: Sequence[Mapping[str, float]], fmt: str = "simple") -> str:
    """A table with a row for each batch limit: rate of migration and threads' waits."""
    cells = []
    for p in points:
        waits = [duration(p[f"{x}_ns"]) for x in ("p50", "p99", "p999", "max")]
        cells.append(
            [
                str(p["batch"] or "none"),
                rate(p["pages_per_s"]),
                duration(p["trip_ns"]),
                duration(p["first_folio_ns"]),
                count(int(p["ipis"])),
                count(int(p["waits"])),
                *waits,
                rate(p["accesses_per_s"]),
            ]
        )
    return report.table(HEADERS, cells, fmt)
