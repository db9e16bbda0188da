"""Gains and costs of a batch limit while a program runs: a picture of four panels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION
from jaxmig.show.plots.style import (
    GREY,
    MARKERS,
    SERIES,
    decades,
    figure,
    powers_of_two,
    rc,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, float]  # of `stalls.point`
# Title, label of the y axis, what a unit of it is in a point's, and the lines.
PANELS: Final[tuple[tuple[str, str, float, tuple[str, ...]], ...]] = (
    ("Migration", "modelled rate (1,000 pages/s)", 1e3, ("pages_per_s",)),
    ("Program", "modelled rate (million accesses/s)", 1e6, ("accesses_per_s",)),
    ("Gain and cost for a caller", "time (us)", 1e3, ("trip_ns", "first_folio_ns")),
    (
        "Waits of the program's accesses",
        "wait (us)",
        1e3,
        ("p50_ns", "p99_ns", "p999_ns", "max_ns"),
    ),
)
NAMES: Final = {
    "trip_ns": "all pages moved once",
    "first_folio_ns": "first folio mapped again",
    "p50_ns": "median",
    "p99_ns": "99 of 100",
    "p999_ns": "999 of 1,000",
    "max_ns": "longest",
}


def trade_off(points: Sequence[Point], title: str = "") -> "Figure":
    """The picture; points without a limit (batch 0) are not on the axis."""
    some = [p for p in points if p["batch"]]
    made = figure(11.0, 7.8)
    with rc():
        panels: Any = made.subplots(2, 2).reshape(-1)
        for axes, (head, label, unit, names) in zip(panels, PANELS, strict=True):
            _panel(axes, some, unit, names)
            axes.set_title(head, loc="left")
            axes.set_ylabel(label)
        if title:
            made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def _panel(
    axes: "Axes", some: Sequence[Point], unit: float, names: Sequence[str]
) -> None:
    limits = [int(p["batch"]) for p in some]
    for i, name in enumerate(names):
        # A time of 0 means that no thread waited; a logarithmic axis cannot show it.
        shown = [(p["batch"], p[name] / unit) for p in some if p[name] > 0]
        axes.plot(
            [x for x, _ in shown],
            [y for _, y in shown],
            color=SERIES[i],
            marker=MARKERS[i],
            markersize=4,
            label=NAMES.get(name),
        )
    powers_of_two(axes, limits)
    if len(names) > 1:
        decades(axes)
        axes.legend()
    else:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
    if limits and min(limits) <= NR_MAX_BATCHED_MIGRATION <= max(limits):
        axes.axvline(NR_MAX_BATCHED_MIGRATION, color=GREY, linestyle=":", linewidth=1.2)
    axes.set_xlabel("batch limit (base pages); dotted: Linux's")
    axes.grid()
