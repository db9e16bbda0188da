"""The main published figures and their predictions, as one table."""

import itertools
from collections.abc import Sequence
from typing import Final

from jaxmig.tools.reproduce import published
from jaxmig.tools.reproduce.row import Row

HEADERS: Final = ("figure", "published", "predicted")
Cells = tuple[str, str, str]


def headline(rows: Sequence[Row]) -> list[Cells]:
    """The table's rows; those of pmbench only if it has been run."""
    made = []
    rates = [r for r in rows if r.id.startswith("intel-pmbench-rate")]
    if rates:
        made += _intel(
            rates, [r for r in rows if r.id.startswith("intel-pmbench-ipis")]
        )
    hogs = [r for r in rows if r.id == "arm64-memhog"]
    made.append(
        (
            "seconds of migratepages, memhog 1g on arm64, 128 CPUs",
            "2.068 -> 1.161",
            _each([(r.kernel, f"{r.predicted_after:.3f}") for r in hogs]),
        )
    )
    bw = [r for r in rows if r.id == "arm64-bw_mem"]
    changes = [(r.kernel, f"{r.predicted_change or 0:+.1f} %") for r in bw]
    name = "time of migratepages, lmbench bw_mem on arm64"
    made.append((name, f"{published.BW_MEM.change:+.0f} %", _each(changes)))
    return made


def _intel(rates: Sequence[Row], ipis: Sequence[Row]) -> list[Cells]:
    by_cpus = [
        r for r in rates if r.extra["setsize_mib"] == rates[0].extra["setsize_mib"]
    ]
    first, last = by_cpus[0], by_cpus[-1]
    low, high = (f"{r.predicted_change or 0:+.1f} %" for r in (first, last))
    cpus = first.extra["cpus"]
    curve = f"{low} ({cpus} running CPU{'s' * (cpus > 1)}) to {high}"
    curve += f" ({last.extra['cpus']})"
    left = [
        (f"{r.extra['setsize_mib']} MiB", f"{_left(r):.2f} %")
        for r in (ipis[-2], ipis[-1])
    ]
    return [
        (
            "pages/s, pmbench on a 2-socket Intel server, batched (v4) against serial",
            f"{published.COVER.rate_change:+.1f} %",
            f"{curve}; {crossing(by_cpus)} would give the published gain",
        ),
        (
            "TLB shootdown interrupts left, same server",
            f"{100 + published.COVER.ipi_change:.1f} %",
            _each(left),
        ),
    ]


def crossing(rates: Sequence[Row]) -> str:
    """The number of running CPUs at which the predicted curve meets the published rate.

    The curve is linear between two numbers that were run.
    """
    points = sorted((r.extra["cpus"], r.predicted_change or 0.0) for r in rates)
    want = published.COVER.rate_change
    for (a, low), (b, high) in itertools.pairwise(points):
        if low <= want <= high:
            return f"{a + (b - a) * (want - low) / (high - low):.1f}"
    return "no number"


def _left(row: Row) -> float:
    return float(row.extra["predicted_remaining_percent"])


def _each(cells: Sequence[tuple[str, str]]) -> str:
    """`1 (a), 1 (b), 2 (c)` as `1 (a, b), 2 (c)`."""
    names: dict[str, list[str]] = {}
    for name, value in cells:
        names.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(who)})" for value, who in names.items())
