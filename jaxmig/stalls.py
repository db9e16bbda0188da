"""Waiting: how long accesses and threads waited, and what they lost otherwise.

Percentiles come from bins of a sixteenth of an octave, so they are at most 6 % too
high; the maximum is exact.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np

from jaxmig import report
from jaxmig.access.state import FIRST_OCTAVE, SUB_BINS
from jaxmig.report.units import count, duration, rate
from jaxmig.timeline import Totals
from jaxmig.workloads.pmbench import Result

QUANTILES: Final = (0.5, 0.99, 0.999)


def upper(i: int) -> int:
    """The end of bin i, ns."""
    if i == 0:
        return 1 << FIRST_OCTAVE
    octave, part = divmod(i - 1, SUB_BINS)
    return (SUB_BINS + part + 1) << (octave + FIRST_OCTAVE - 4)


def percentile(bins: np.ndarray, q: float) -> int:
    """The time, ns, that a share q of the counted ones does not pass; 0 of nothing."""
    total = int(bins.sum())
    if total == 0:
        return 0
    return upper(int(np.searchsorted(np.cumsum(bins), q * total)))


@dataclasses.dataclass(frozen=True)
class Stalls:
    """Waits for migration entries; times in ns, rates a second."""

    waits: int
    p50: int
    p99: int
    p999: int
    longest: int
    thread_p50: int  # of the threads' whole waiting time
    thread_max: int
    share: float  # of all threads' time, spent waiting
    lost_ipis: float  # accesses that did not happen because of interrupts
    lost_refills: float  # and because of walks that no flush would have needed


def of_totals(t: Totals, ran_ns: np.ndarray, walks: float, walk_ns: int) -> Stalls:
    """The waits of a run.

    Args:
      ran_ns: how long each thread ran.
      walks: page walks an access without a migration; refills are what goes beyond.
      walk_ns: of one walk.
    """
    n = len(ran_ns)
    p50, p99, p999 = (
        min(percentile(t.waits, q), int(t.stall_max.max())) for q in QUANTILES
    )
    accesses = max(int(t.accesses.sum()), 1)
    busy = int(ran_ns.sum()) - int(t.stall_ns.sum()) - int(t.ipi_ns.sum())
    mean = max(busy / accesses, 1.0)
    refills = max(int(t.walks.sum()) - walks * accesses, 0.0)
    return Stalls(
        waits=int(t.stalls.sum()),
        p50=p50,
        p99=p99,
        p999=p999,
        longest=int(t.stall_max.max()),
        thread_p50=int(np.median(t.stall_ns[:n])),
        thread_max=int(t.stall_ns[:n].max()),
        share=int(t.stall_ns.sum()) / max(int(ran_ns.sum()), 1),
        lost_ipis=int(t.ipi_ns.sum()) / mean,
        lost_refills=refills * walk_ns / mean if walks else 0.0,
    )


def of_result(r: Result, walk_ns: int) -> Stalls:
    """The waits of a pmbench run."""
    return of_totals(r.totals, r.ran_ns, r.baseline_walks, walk_ns)


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


def first_folio_ns(r: Result) -> int:
    """From the start of a call to its first folio mapped again, no CPU interrupted."""
    t = r.table
    last = int(np.argmax(t.moved > 0))
    unmapped = int((t.count[: last + 1] * t.unit[: last + 1]).sum())
    large = t.pages > t.folios
    move = t.move_huge if large else t.move_base
    engine = t.engine_huge if large else t.engine_base
    return unmapped + t.flush_lazy + engine * int(t.moved[last]) + move


def trade_off(
    rows: Sequence[tuple[str, Result]], walk_ns: int, fmt: str = "simple"
) -> str:
    """A table of runs, one a batch limit: what batching gains, and who waits for it."""
    cells = []
    for name, r in rows:
        s = of_result(r, walk_ns)
        trip = r.table.pages / r.pages_per_s * 1e9 if r.pages_per_s else 0.0
        waits = [duration(x) for x in (s.p50, s.p99, s.p999, s.longest)]
        cells.append(
            [
                name,
                rate(r.pages_per_s),
                duration(trip),
                duration(first_folio_ns(r)),
                count(int(r.totals.ipis.sum())),
                count(s.waits),
                *waits,
                rate(r.accesses_per_s),
            ]
        )
    return report.table(HEADERS, cells, fmt)
