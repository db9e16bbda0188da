"""Lines of a sweep: interrupts over CPUs, rate and stall over the batch limit."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION
from jaxmig.show.plots.style import (
    GREY,
    MARKERS,
    SERIES,
    counts,
    decades,
    named,
    powers_of_two,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
Name = tuple[str, str, str]
Line = list[tuple[int, float]]
MOST_LINES: Final = 16  # of a panel; twice as many looks as there are colours
MOST_INSIDE: Final = 5  # names that find room among the lines
RECEIVED: Final = "vmstat.nr_tlb_remote_flush_received"


def lines(rows: Sequence[Row], across: str, up: str) -> dict[Name, Line]:
    """(kernel, machine, copy engine) -> (x, y) ascending; the median of one x."""
    found: dict[Name, dict[int, list[float]]] = {}
    for r in rows:
        by_x = found.setdefault((r["kernel"], r["machine"], r["copy"]), {})
        by_x.setdefault(r[across], []).append(r[up])
    return {
        name: [(at, statistics.median(by_x[at])) for at in sorted(by_x)]
        for name, by_x in found.items()
    }


def ipis(axes: "Axes", rows: Sequence[Row]) -> None:
    """Shootdown interrupts over the CPUs of the machine."""
    found = lines(rows, "cpus", RECEIVED)
    # Hardware that broadcasts flushes sends no interrupts.
    _plot_all(
        axes, rows, {n: line for n, line in found.items() if any(y for _, y in line)}
    )
    counts(axes)
    powers_of_two(axes, [r["cpus"] for r in rows])
    axes.set_xlabel("CPUs of the machine")
    axes.set_ylabel("TLB shootdown interrupts (IPIs)")
    axes.set_title("Interrupts over CPUs", loc="left")
    _finish(axes, "no machine of the sweep sends interrupts")


def rate(axes: "Axes", rows: Sequence[Row]) -> None:
    """Throughput over the batch limit."""
    _plot_all(axes, rows, lines(_limited(rows), "batch", _RATE), 1e3)
    axes.set_ylabel("modelled rate (1,000 pages/s)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.set_title("Rate over the batch limit", loc="left")
    _over_batch(axes, rows)


def stall(axes: "Axes", rows: Sequence[Row]) -> None:
    """How long 99 of 100 pages are away at most, over the batch limit."""
    _plot_all(axes, rows, lines(_limited(rows), "batch", _STALL), 1e3)
    decades(axes)
    axes.set_ylabel("stall, 99th percentile (us)")
    axes.set_title("Stall over the batch limit", loc="left")
    _over_batch(axes, rows)


def total(axes: "Axes", rows: Sequence[Row]) -> None:
    """Time of the whole call over the batch limit, which larger batches shorten."""
    _plot_all(axes, rows, lines(_limited(rows), "batch", _TOTAL), 1e6)
    axes.set_ylabel("modelled time of the call (ms)")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    axes.set_title("Total time over the batch limit", loc="left")
    _over_batch(axes, rows)


def first(axes: "Axes", rows: Sequence[Row]) -> None:
    """Time until the first folio is mapped again, which larger batches lengthen."""
    _plot_all(axes, rows, lines(_limited(rows), "batch", _FIRST), 1e3)
    decades(axes)
    axes.set_ylabel("time to the first folio (us)")
    axes.set_title("First folio over the batch limit", loc="left")
    _over_batch(axes, rows)


_TOTAL: Final = "time_ns.total"
_FIRST: Final = "first_folio_ns"
_RATE: Final = "pages_per_s"
_STALL: Final = "stall_ns.p99"


def _limited(rows: Sequence[Row]) -> list[Row]:
    """Rows with a limit: 0 stands for none and has no place on the axis."""
    return [r for r in rows if r["batch"]]


def _over_batch(axes: "Axes", rows: Sequence[Row]) -> None:
    limits = [r["batch"] for r in _limited(rows)]
    powers_of_two(axes, limits)
    linux = NR_MAX_BATCHED_MIGRATION
    if limits and min(limits) <= linux <= max(limits):
        late = linux**2 > min(limits) * max(limits)  # the label goes where room is
        axes.axvline(linux, color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            f"Linux: {linux}",
            (linux, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if late else 3, -2),
            textcoords="offset points",
            ha="right" if late else "left",
            va="top",
            fontsize=8,
            color="#555555",
        )
    axes.set_xlabel("batch limit (base pages)")
    _finish(axes, "no batch limit in the sweep")


def _plot_all(
    axes: "Axes",
    rows: Sequence[Row],
    found: Mapping[Name, Line],
    unit: float = 1,
) -> None:
    """Draw a line for each; equal lines are one, whose label has all their names."""
    alike: dict[tuple[tuple[int, float], ...], list[Name]] = {}
    for name, line in found.items():
        alike.setdefault(tuple(line), []).append(name)
    for i, (line, names) in enumerate(list(alike.items())[:MOST_LINES]):
        kernel = names[0][0]
        serial = any(r["policy"] == "serial" for r in rows if r["kernel"] == kernel)
        axes.plot(
            [x for x, _ in line],
            [y / unit for _, y in line],
            color=SERIES[i % len(SERIES)],
            linestyle="--" if serial else "-",
            # The second time round a colour has another marker.
            marker=MARKERS[(i + i // len(SERIES)) % len(MARKERS)],
            markevery=max(1, len(line) // 24),
            markersize=4,
            zorder=3 if serial else 2,
            label=_label(names, rows),
        )
    if len(alike) > MOST_LINES:
        # No line, but a name for those that are not drawn.
        more = f"{len(alike) - MOST_LINES} more are in the rows"
        axes.plot([], [], linestyle="none", label=more)


def _label(names: Sequence[Name], rows: Sequence[Row]) -> str:
    """Kernels and policy by machine and copy engine; of many the first and the last."""
    policies = {r["kernel"]: r["policy"] for r in rows}
    one = len({r["copy"] for r in rows}) == 1
    by: dict[tuple[str, str], list[str]] = {}
    for kernel, machine, copy in names:
        where = machine if one else f"{machine}, {copy} copy"
        by.setdefault((policies[kernel], where), []).append(kernel)
    parts = []
    for (policy, where), kernels in by.items():
        parts.append(f"{named(kernels)} {policy}, {where}")
    return " = ".join(parts)


def _finish(axes: "Axes", nothing: str) -> None:
    axes.grid()
    drawn = [y for line in axes.lines for y in np.asarray(line.get_ydata()).tolist()]
    if axes.lines and not any(drawn):
        nothing = "no page moved"
    if not any(drawn):
        axes.text(0.5, 0.5, nothing, ha="center", transform=axes.transAxes)
        return
    outside = len(axes.get_legend_handles_labels()[1]) > MOST_INSIDE
    axes.legend(**({"loc": "upper left", "bbox_to_anchor": (1, 1)} if outside else {}))
