"""Modelled time per page, stacked by phase: what batching saves and leaves."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jaxmig.show.plots.style import OF_PHASE, plain
from jaxmig.time.machines.terms import PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS: Final = (4.0, 9.0)  # points: the smallest and the largest
_WIDE: Final = 0.64  # width of a letter over its size
_SHARE: Final = 0.7  # of the panel's width that the bars have, beside scale and legend


def per_page(time_ns: Mapping[str, int], pages: int) -> dict[str, float]:
    """ns per page moved, by phase."""
    return {phase: time_ns[phase] / max(pages, 1) for phase in PHASES}


def draw(
    axes: "Axes",
    names: Sequence[str],
    times: Sequence[Mapping[str, int]],
    pages: Sequence[int],
) -> dict[str, Any]:
    """Draw a bar for each call.

    Args:
      axes: on which they are drawn.
      names: of the bars.
      times: `time_ns` of each call.
      pages: base pages that each call moved.
    Returns:
      By phase, the height of each bar's part, ns per page.
    """
    from matplotlib.ticker import FuncFormatter

    size = _size(axes, names)
    shown = [per_page(t, n) for t, n in zip(times, pages, strict=True)]
    below = [0.0] * len(names)
    heights: dict[str, list[float]] = {}
    for phase in PHASES:
        high = [s[phase] for s in shown]
        axes.bar(names, high, 0.6, bottom=below, label=phase, color=OF_PHASE[phase])
        below = [b + h for b, h in zip(below, high, strict=True)]
        heights[phase] = high
    for i, total in enumerate(below):
        # In the unit of the axis, so that labels and axis can be compared.
        axes.text(
            i,
            total,
            f"{plain(round(total))} ns",
            ha="center",
            va="bottom",
            fontsize=size,
        )
    axes.set_ylabel("modelled time per page (ns)")
    axes.set_title("Time per page by phase", loc="left")
    axes.set_ylim(0, max(below, default=0) * 1.12 or 1)
    axes.grid(axis="y")
    axes.tick_params(axis="x", labelsize=size)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: plain(y)))
    # In the order of the stack, read from the top.
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1, 1))
    return heights


def _size(axes: "Axes", names: Sequence[str]) -> float:
    """The largest font size, points, at which neighbouring names do not overlap."""
    from matplotlib.figure import Figure

    longest = max((len(line) for name in names for line in name.split("\n")), default=1)
    whole, spec = axes.get_figure(), axes.get_subplotspec()
    inches = whole.get_size_inches()[0] if isinstance(whole, Figure) else 6.0
    share = len(spec.colspan) / spec.get_gridspec().ncols if spec else 1.0
    room = inches * 72 * share * _SHARE / max(len(names), 1)
    return min(max(room / (longest * _WIDE), LETTERS[0]), LETTERS[1])
