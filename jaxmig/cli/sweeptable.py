"""The rows of a sweep on the screen: what was varied, and what came of it."""

from collections.abc import Iterable, Sequence
from typing import Final

from jaxmig import report
from jaxmig.report import units
from jaxmig.tools.sweep import AXES, Row

MOST: Final = 20  # rows that are all shown
BEST: Final = 8  # shown of more


def text(made: Sequence[Row], axes: Sequence[str], width: int | None) -> str:
    """All rows if they are few, else the fastest, and how many more there are.

    Args:
      made: the rows of the sweep.
      axes: names of those with several values.
      width: of the terminal; None for no limit.
    """
    few = len(made) <= MOST
    shown = made if few else sorted(made, key=lambda r: -r["pages_per_s"])[:BEST]
    moved = len({r["vmstat.pgmigrate_success"] for r in made}) > 1
    base = "cpu" if "copy" in axes and any(r["copy"] == "cpu" for r in made) else ""
    headers = [*(_HEADS.get(name, name) for name in axes), *["pages moved"] * moved]
    headers += ["modelled time", "80 % range", "longest stall"]
    headers.append(f"against {base or 'the first'}")
    before = {_rest(r): r for r in made if r["copy"] == base}
    rows = []
    for r in shown:
        cells = [str(r[name]) for name in axes]
        cells += [units.count(r["vmstat.pgmigrate_success"])] * moved
        cells += [
            units.duration(r["time_ns.total"]),
            units.span(r["time_ns_low"], r["time_ns_high"], units.duration),
            units.duration(r["stall_ns.max"]),
            _against(r, before.get(_rest(r)) if base else made[0]),
        ]
        rows.append(cells)
    left = [i for i, name in enumerate(axes) if isinstance(made[0][name], str)]
    drawn = report.table(headers, rows, "simple", width, left)
    return (
        drawn if few else f"The fastest:\n\n{drawn}\n\n{len(made) - BEST:,} more rows."
    )


def overlapping(made: Sequence[Row], best: Row) -> str:
    """A sentence if the best row's range of times overlaps those of others."""
    n = sum(
        r["time_ns_low"] < best["time_ns_high"] and r is not best
        for r in made
        if r["time_ns.total"] >= best["time_ns.total"]
    )
    if not n:
        return ""
    them = "that of another" if n == 1 else f"those of {n:,} others"
    line = f"Its 80 % range overlaps {them}"
    if _one(r["machine"] for r in made):
        line += "; all have the same costs, so that ratios are surer than times"
    return f"{line}."


_HEADS: Final = {"cpus": "CPUs", "batch": "batch limit", "thp": "% in THPs"}


def _one(values: Iterable[str]) -> bool:
    return len(set(values)) == 1


def _rest(row: Row) -> tuple[object, ...]:
    """The settings of a row besides its copy engine."""
    return tuple(row[name] for name in AXES if name != "copy")


def _against(row: Row, base: Row | None) -> str:
    old = base["time_ns.total"] if base else 0
    if base is row or not old:
        return "-"
    return f"{100 * (row['time_ns.total'] - old) / old:+.1f} %"
