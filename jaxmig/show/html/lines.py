"""A column of a sweep over one of its axes, lines that are the same drawn once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jaxmig.show.html.model import Lines, Point
from jaxmig.show.html.parts import named, rounded

Row = Mapping[str, Any]
Line = tuple[tuple[Any, Any], ...]  # (place, value) in the order of the axis
AXES: Final = ("thp", "kernel", "mode", "cpus", "batch", "machine", "copy")
MOST_LINES: Final = 8
MOST_TICKS: Final = 5
MOST_PLACES: Final = 6  # labelled
EDGE: Final = 4  # percent above and below, where points have room


def lines_over(
    rows: Sequence[Row],
    axis: str,
    column: str,
    title: str,
    show: Callable[[float], str],
) -> Lines | None:
    """A line for each combination of the other axes, or for those that are the same.

    Places on the axis are evenly apart, as the axis was asked for; the scale of the
    column begins at 0.

    Args:
      rows: of a sweep.
      axis: the configuration's field that varies along a line.
      column: the number of a row that is drawn.
      title: of the figure.
      show: a number of the column as text.
    Returns:
      The lines; None if the axis has one value only.
    """
    # A batch limit of 0 is none, and more than all others.
    places = sorted(
        {r[axis] for r in rows}, key=lambda p: (axis == "batch" and not p, p)
    )
    if len(places) < 2:
        return None
    alike = _alike(rows, axis, column, places)
    top, ticks = _scale(max(r[column] for r in rows))
    at = {p: rounded(100 * (i + 0.5) / len(places)) for i, p in enumerate(places)}
    called = {p: _called(axis, p) for p in places}

    def height(value: float) -> float:
        return rounded(100 - EDGE - (100 - 2 * EDGE) * value / top)

    series = tuple(
        (name, tuple(
            Point(at[p], height(y), f"{axis} {called[p]}: {show(y)}", y) for p, y in line
        ))
        for line, name in list(alike.items())[:MOST_LINES]
    )  # fmt: skip
    step = -(-len(places) // MOST_PLACES)
    xticks = tuple((at[p], called[p]) for p in places[::step])
    yticks = tuple((height(t), show(t)) for t in ticks)
    left = len(alike) - len(series)
    note = f"Over {axis}." + (f" {left:,} lines more are in the table." if left else "")
    return Lines(title, series, xticks, yticks, note)


def _called(axis: str, place: Any) -> str:
    return "without limit" if axis == "batch" and not place else f"{place:,}"


def _alike(
    rows: Sequence[Row], axis: str, column: str, places: Sequence[Any]
) -> dict[Line, str]:
    """Different lines with the combinations of the other axes that they stand for."""
    others = [a for a in AXES if a != axis and len({r[a] for r in rows}) > 1]
    values: dict[tuple[Any, ...], dict[Any, Any]] = {}
    for r in rows:
        values.setdefault(tuple(r[a] for a in others), {})[r[axis]] = r[column]
    alike: dict[Line, list[tuple[Any, ...]]] = {}
    for combination, by in values.items():
        line = tuple((p, by[p]) for p in places if p in by)
        alike.setdefault(line, []).append(combination)
    return {line: _name(others, same) or column for line, same in alike.items()}


def _name(axes: Sequence[str], same: Sequence[tuple[Any, ...]]) -> str:
    """Combinations in few words: by axis, where they are all of some values."""
    by_axis = [
        list(dict.fromkeys(map(str, values))) for values in zip(*same, strict=True)
    ]
    if math.prod(map(len, by_axis)) == len(same):
        return "; ".join(_words(axes, map(named, by_axis)))
    return named([" ".join(_words(axes, one)) for one in same])


def _words(axes: Sequence[str], values: Any) -> Iterator[str]:
    return (f"{a} {value}" for a, value in zip(axes, values, strict=True))


def _scale(most: float) -> tuple[float, list[float]]:
    """The top of a scale, and its ticks, which are round numbers."""
    power = 10.0 ** math.floor(math.log10(most or 1))
    steps = (power * n for n in (0.2, 0.25, 0.5, 1, 2, 2.5))
    step = next(s for s in steps if most <= s * MOST_TICKS)
    n = max(math.ceil(most / step), 1)
    return n * step, [i * step for i in range(n + 1)]
