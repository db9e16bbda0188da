"""Modelled time a page, stacked by phase: what batching saves and leaves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jaxmig.machines.terms import PHASES
from jaxmig.plots.style import OF_PHASE, plain
from jaxmig.report.units import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CROWDED: Final = 6  # bars from which on their letters are smaller


def per_page(time_ns: Mapping[str, int], pages: int) -> dict[str, float]:
    """ns a page moved, by phase."""
    return {phase: time_ns[phase] / max(pages, 1) for phase in PHASES}


def draw(
    axes: "Axes",
    names: Sequence[str],
    times: Sequence[Mapping[str, int]],
    pages: Sequence[int],
) -> dict[str, Any]:
    """One bar a call; returns the drawn heights by phase."""
    from matplotlib.ticker import FuncFormatter

    size = 7 if len(names) > CROWDED else 9
    shown = [per_page(t, n) for t, n in zip(times, pages, strict=True)]
    below = [0.0] * len(names)
    heights: dict[str, list[float]] = {}
    for phase in PHASES:
        high = [s[phase] for s in shown]
        axes.bar(names, high, 0.6, bottom=below, label=phase, color=OF_PHASE[phase])
        below = [b + h for b, h in zip(below, high, strict=True)]
        heights[phase] = high
    for i, total in enumerate(below):
        said = duration(round(total))
        axes.text(i, total, said, ha="center", va="bottom", fontsize=size)
    axes.set_ylabel("modelled time a page (ns)")
    axes.set_title("Time a page by phase", loc="left")
    axes.set_ylim(0, max(below, default=0) * 1.12 or 1)
    axes.grid(axis="y")
    axes.tick_params(axis="x", labelsize=size)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    # In the order of the stack, read from the top.
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1, 1))
    return heights
