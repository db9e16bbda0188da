"""Records, costs and rows as the figures of a page; nothing is computed but quotients."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jaxmig import report
from jaxmig.cost import Cost
from jaxmig.html.model import (
    Bar,
    Bars,
    Box,
    Cell,
    Figure,
    Lines,
    Part,
    Point,
    Table,
    Tree,
)
from jaxmig.machines.terms import PHASES
from jaxmig.report import units
from jaxmig.report.window import FLUSH, MOVE, UNMAP

Record = Mapping[str, Any]
MOST_ROWS: Final = 2000  # of a sweep's table: a page stays below 3 MB
MOST_BATCHES: Final = 64  # of a time line
MOST_LINES: Final = 8
TICKS: Final = 4
LEAST: Final = 0.05  # percent of a tree that a box must have to be drawn
COLUMNS: Final = (
    ("pages moved", lambda r: r["vmstat"]["pgmigrate_success"], units.count),
    ("failed", lambda r: r["vmstat"]["pgmigrate_fail"], units.count),
    ("flush requests", lambda r: r["vmstat"]["nr_tlb_remote_flush"], units.count),
    ("IPIs", lambda r: sum(r["ipis_per_cpu"]), units.count),
    ("modelled time", lambda r: r["time_ns"]["total"], units.duration),
    ("80 % range, from", lambda r: _end(r, 0), units.duration),
    ("to", lambda r: _end(r, 1), units.duration),
    ("longest stall", lambda r: r["stall_ns"]["max"], units.duration),
    ("taken from other CPUs", lambda r: r["stolen_ns"], units.duration),
)  # fmt: skip
ROW_COLUMNS: Final = (
    *("thp", "kernel", "mode", "cpus", "running", "batch", "machine", "copy"),
    *("vmstat.pgmigrate_success", "vmstat.nr_tlb_remote_flush"),
    *("vmstat.nr_tlb_remote_flush_received", "time_ns.total", "pages_per_s"),
    *("stall_ns.p50", "stall_ns.p99", "stall_ns.max"),
)


def heading(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> Table:
    """A table of text as it was printed; its columns are sorted as text or numbers."""
    cells = tuple(tuple(Cell(text, _key(text)) for text in row) for row in rows)
    return Table(title, tuple(headers), cells)


def calls(records: Sequence[Record], costs: Sequence[Cost]) -> Iterator[Figure]:
    """One call on several kernels: its table and what explains it."""
    yield _table(records)
    yield _phases(records)
    yield _times(records, costs)
    yield _interrupts(records)
    alike: dict[report.Node, list[str]] = {}
    for r, cost in zip(records, costs, strict=True):
        alike.setdefault(report.call_tree(cost), []).append(r["kernel"])
    for tree, kernels in alike.items():
        yield _tree(tree, ", ".join(kernels))


def rows_table(rows: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Rows of a sweep; the first MOST_ROWS of them."""
    some = rows[:MOST_ROWS]
    cells = tuple(tuple(Cell(str(r[c]), r[c]) for c in ROW_COLUMNS) for r in some)
    note = "Times in ns."
    if len(some) < len(rows):
        note += f" The first {len(some):,} of {len(rows):,} rows; all are in the CSV."
    return Table(title, ROW_COLUMNS, cells, note)


def lines_over(
    rows: Sequence[Mapping[str, Any]],
    axis: str,
    column: str,
    title: str,
    show: Callable[[float], str],
) -> Lines | None:
    """A column over an axis, a line for each combination of the other axes.

    None where there is nothing to draw a line through.  Places on the axis are evenly
    apart, as the axis was asked for; the scale of the column begins at 0.
    """
    places = sorted({r[axis] for r in rows})
    others = [a for a in ROW_COLUMNS[:8] if a not in (axis, "running")]
    several = [a for a in others if len({r[a] for r in rows}) > 1]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for r in rows:
        name = ", ".join(f"{a} {r[a]}" for a in several) or column
        lines.setdefault(name, []).append(r)
    if len(places) < 2:
        return None
    most = max(r[column] for r in rows) or 1
    at = {place: 100 * (i + 0.5) / len(places) for i, place in enumerate(places)}
    drawn = itertools.islice(lines.items(), MOST_LINES)
    series = tuple(
        (
            name,
            tuple(
                Point(
                    _round(at[r[axis]]),
                    _round(100 - 100 * r[column] / most),
                    f"{axis} {r[axis]:,}: {show(r[column])}",
                    r[column],
                )
                for r in sorted(some, key=lambda r: r[axis])
            ),
        )
        for name, some in drawn
    )
    step = -(-len(places) // 6)
    xticks = tuple((_round(at[p]), f"{p:,}") for p in places[::step])
    ticks = [i / TICKS for i in range(TICKS + 1)]
    yticks = tuple((100 - 100 * t, show(most * t)) for t in ticks)
    left = len(lines) - len(series)
    note = f"Over {axis}." + (f" {left:,} lines more are in the table." if left else "")
    return Lines(title, series, xticks, yticks, note)


def _table(records: Sequence[Record]) -> Table:
    rows = []
    for r in records:
        cells = [Cell(f"{r['kernel']} {r['policy']}", r["kernel"])]
        cells += [
            Cell(show(n), n) for n, show in ((get(r), s) for _, get, s in COLUMNS)
        ]
        rows.append((*cells, Cell(r["errno"] or str(r["ret"]), r["errno"] or r["ret"])))
    headers = ("kernel", *(name for name, _, _ in COLUMNS), "result")
    return Table("Kernels side by side", headers, tuple(rows))


def _end(r: Record, i: int) -> int:
    ends = r.get("time_ns_range") or [r["time_ns"]["total"]] * 2
    return int(ends[i])


def _phases(records: Sequence[Record]) -> Bars:
    longest = max((r["time_ns"]["total"] for r in records), default=0)
    bars = []
    for r in records:
        times = [(p, r["time_ns"][p]) for p in PHASES]
        said = [f"{r['kernel']}, {p}: {units.duration(ns)}" for p, ns in times]
        parts = _row([ns for _, ns in times], longest, said)
        bars.append(Bar(r["kernel"], parts, units.duration(r["time_ns"]["total"])))
    return Bars("Modelled time by phase", tuple(bars), tuple(PHASES))


def _times(records: Sequence[Record], costs: Sequence[Cost]) -> Bars:
    """Batch after batch, each with its unmapping, its flush and its moving."""
    longest = max((r["time_ns"]["total"] for r in records), default=0)
    bars = []
    for r, cost in zip(records, costs, strict=True):
        lists = r["batches"] or r["vmstat"]["pgmigrate_success"] or 1
        n = min(lists, MOST_BATCHES)
        ipis = sum(r["ipis_per_cpu"]) / lists
        spent = [sum(cost.places.get(p, 0) for p in ps) for ps in (UNMAP, FLUSH, MOVE)]
        what = "batch" if r["batches"] else "page"
        each = (
            f"{units.duration(spent[0] / lists)} to unmap, "
            f"{units.duration(spent[1] / lists)} to flush with {ipis:,.3g} IPIs, "
            f"{units.duration(spent[2] / lists)} to move; a page is away for up to "
            f"{units.duration(r['stall_ns']['max'])}"
        )
        group = lists / n
        name = f"{r['kernel']}, {units.count(lists)} {what}"
        name += "" if lists == 1 else "es" if r["batches"] else "s"
        said = []
        for i in range(n):
            first, last = round(i * group) + 1, round((i + 1) * group)
            which = (
                f"{what} {first:,}" if first == last else f"{what} {first:,}-{last:,}"
            )
            said += [f"{r['kernel']}, {which} of {lists:,}: {each}"] * 3
        parts = _row([ns / n for _ in range(n) for ns in spent], longest, said, 3)
        bars.append(Bar(name, parts, units.duration(sum(spent))))
    note = "By the means of the call: real batches differ."
    return Bars("The call in time", tuple(bars), ("unmap", "flush", "move"), note)


def _interrupts(records: Sequence[Record]) -> Bars:
    most = max((max(r["ipis_per_cpu"], default=0) for r in records), default=0)
    bars = []
    for r in records:
        for first, last, n in _alike(r["ipis_per_cpu"]):
            cpus = f"CPU {first}" if first == last else f"CPUs {first}-{last}"
            name = f"{r['kernel']}, {cpus}"
            each = " each" if last > first else ""
            said = f"{name}: {units.count(n)} IPIs{each}"
            bars.append(Bar(name, _row([n], most, [said]), units.count(n) + each))
    note = "" if bars else "No CPU is interrupted."
    return Bars("TLB shootdown interrupts of each CPU", tuple(bars), (), note)


def _alike(by: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """First and last CPU of neighbours that take as many, and how many, where any."""
    for n, some in itertools.groupby(enumerate(by), key=lambda pair: pair[1]):
        cpus = [cpu for cpu, _ in some]
        if n:
            yield cpus[0], cpus[-1], n


def _row(
    values: Sequence[float], longest: float, said: Sequence[str], colors: int = 8
) -> tuple[Part, ...]:
    parts, x = [], 0.0
    for i, (value, text) in enumerate(zip(values, said, strict=True)):
        width = 100 * value / (longest or 1)
        if value:
            parts.append(Part(_round(x), _round(width), text, value, i % colors))
        x += width
    return tuple(parts)


def _tree(root: report.Node, kernels: str) -> Tree:
    boxes = []

    def place(node: report.Node, depth: int, x: float) -> None:
        share = 100 * node.ns / (root.ns or 1)
        if share < LEAST:
            return
        said = f"{node.name}: {units.duration(node.ns)}, {share:.2f} %"
        boxes.append(Box(depth, _round(x), _round(share), node.name, said, node.ns))
        for child in node.children:
            place(child, depth + 1, x)
            x += 100 * child.ns / (root.ns or 1)

    place(root, 0, 0.0)
    note = "A click or Enter gives a box the whole width; once more closes it."
    return Tree(f"Where the time of {kernels} goes", tuple(boxes), note)


def _round(percent: float) -> float:
    return round(percent, 4)


def _key(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text
