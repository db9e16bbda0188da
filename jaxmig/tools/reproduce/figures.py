"""One line for each published figure, with all its predictions.

A publication may leave settings open (running CPUs, whether a kernel deferred flushes).
Then a figure has several predictions, which are its interval.  It counts as within 10 %
only if its whole interval is; whether it lies inside the interval is a separate column.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from jaxmig.tools.reproduce.row import Row


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published number and the interval of its predictions."""

    id: str
    what: str
    unit: str
    published: float
    low: float
    high: float
    kernels: tuple[str, ...]
    fitted: bool
    unknown: str  # the settings over which the interval extends

    @property
    def errors(self) -> tuple[float, float]:
        """Errors of both ends, percent of the published figure."""
        low, high = (
            100 * (x - self.published) / abs(self.published)
            for x in (self.low, self.high)
        )
        return low, high

    @property
    def inside(self) -> bool:
        """Whether the published figure lies in the interval."""
        return self.low <= self.published <= self.high

    def within(self, percent: float) -> bool:
        """Whether the error of every prediction is at most `percent`."""
        return max(map(abs, self.errors)) <= percent

    def record(self) -> dict[str, Any]:
        """The figure as plain data."""
        made = dataclasses.asdict(self) | {"kernels": list(self.kernels)}
        return made | {"errors_percent": list(self.errors), "inside": self.inside}


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The rows, with equal predictions of a figure as one row.

    Releases that agree share a row, whose `kernel` names them all.
    """
    found: dict[object, Row] = {}
    for r in rows:
        key = (r.published, r.source_figure, r.predicted_before, r.predicted_after)
        key = (*key, r.extra.get("cpus"), r.extra.get("setsize_mib"), r.unit)
        seen = found.get(key)
        if seen is None:
            found[key] = r
        elif r.kernel not in seen.kernel.split(", "):
            found[key] = dataclasses.replace(seen, kernel=f"{seen.kernel}, {r.kernel}")
    return list(found.values())


def figures(rows: Iterable[Row]) -> list[Figure]:
    """The published figures that rows predict, in order."""
    groups: dict[object, list[Row]] = {}
    for r in rows:
        groups.setdefault((r.published, r.source_figure, r.unit), []).append(r)
    return [_figure(group) for group in groups.values()]


def _figure(group: list[Row]) -> Figure:
    first = group[0]
    pairs = [pair for r in group if (pair := r.compared) is not None]
    values = [predicted for _, predicted in pairs]
    kernels = dict.fromkeys(k for r in group for k in r.kernel.split(", "))
    return Figure(
        id=first.figure_id,
        what=_common([r.what for r in group]),
        unit="%" if first.compares_change else first.unit,
        published=pairs[0][0],
        low=min(values),
        high=max(values),
        kernels=tuple(kernels),
        fitted=any(r.fitted for r in group),
        unknown=_unknown(group),
    )


def _unknown(group: list[Row]) -> str:
    cpus = sorted({r.extra["cpus"] for r in group if "cpus" in r.extra})
    if len(cpus) > 1:
        return f"{cpus[0]} to {cpus[-1]} running CPUs"
    return "the kernel" if len({r.compared for r in group}) > 1 else ""


def _common(texts: list[str]) -> str:
    """The common beginning of all texts, in whole parts."""
    first = texts[0]
    while not all(t.startswith(first) for t in texts):
        first = first.rpartition(" ")[0]
    return first.rstrip(" -:,")


def summary(found: Sequence[Figure]) -> str:
    """Numbers of figures by size of error, with fitted ones apart, in words."""
    free = [f for f in found if not f.fitted]
    return (
        f"{len(found)} published figures: of {len(free)} predicted from other sources "
        f"{_near(free)}; of {len(found) - len(free)} fitted to their own table "
        f"{_near([f for f in found if f.fitted])}"
    )


def _near(some: Sequence[Figure]) -> str:
    ten, quarter = (sum(f.within(p) for f in some) for p in (10, 25))
    wide = sum(f.inside and not f.within(25) for f in some)
    text = f"{ten} within 10 %, {quarter} within 25 %"
    return text + (f", {wide} inside a wider interval" if wide else "")
