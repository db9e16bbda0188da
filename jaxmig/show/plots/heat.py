"""One number of a sweep over two of its axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jaxmig.show.plots.style import HEAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]
MOST: Final = 12  # values on an axis: with more, cells are not labelled


def table(
    rows: Sequence[Row], across: str, down: str, shade: str
) -> tuple[list[int], list[int], np.ndarray]:
    """A column of a sweep over two of its axes.

    Args:
      across, down, shade: columns for x, for y, and for the colour.
    Returns:
      Values of x and of y, ascending, and float[y, x], the median of each cell; NaN
      where there is no row.
    """
    xs, ys = (sorted({r[name] for r in rows}) for name in (across, down))
    cells: dict[tuple[int, int], list[float]] = {}
    for r in rows:
        cells.setdefault((ys.index(r[down]), xs.index(r[across])), []).append(r[shade])
    grid = np.full((len(ys), len(xs)), np.nan)
    for at, found in cells.items():
        grid[at] = float(np.median(found))
    return xs, ys, grid


def draw(axes: "Axes", rows: Sequence[Row], title: str) -> None:
    """Draw the rate over batch limit and CPUs."""
    xs, ys, grid = table(rows, "batch", "cpus", "pages_per_s")
    grid = grid / 1e3
    # All cells have one size: the axes are lists of values, not scales.
    image = axes.pcolormesh(grid, cmap=HEAT)
    axes.set_xticks(*_ticks(xs, 0))
    axes.set_yticks(*_ticks(ys, 0))
    axes.tick_params(length=0)
    axes.set_xlabel("batch limit (base pages)")
    axes.set_ylabel("CPUs of the machine")
    axes.set_title(title, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label("modelled rate (1,000 pages/s)")
    bar.outline.set_visible(False)
    if max(len(xs), len(ys)) <= MOST:
        _label(axes, grid)


def _label(axes: "Axes", grid: np.ndarray) -> None:
    low, high = np.nanmin(grid), np.nanmax(grid)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            # Letters on the dark half of the map are white.
            dark = value < (low + high) / 2
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )


def _ticks(values: list[int], none: int) -> tuple[list[float], list[str]]:
    """Centres and labels of at most MOST cells; 0 means that there is no limit."""
    step = -(-len(values) // MOST)
    shown = range(0, len(values), step)
    names = ["none" if values[i] == none else f"{values[i]:,}" for i in shown]
    return [i + 0.5 for i in shown], names
