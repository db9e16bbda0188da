"""Records, costs and rows as the figures of a page; only quotients are computed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from jaxmig import report
from jaxmig.report import units
from jaxmig.report.stretches import TimeStretch
from jaxmig.show.html.model import Bar, Bars, Box, Cell, Figure, SortableTable, Tree
from jaxmig.show.html.parts import alike, rounded, row
from jaxmig.show.html.timeline import timeline
from jaxmig.time.cost import Cost
from jaxmig.time.machines.terms import PHASES

Record = Mapping[str, Any]
MOST_ROWS: Final = 2000  # of a sweep's table: a page stays below 3 MB
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


def heading(
    headers: Sequence[str], rows: Sequence[Sequence[str]], title: str
) -> SortableTable:
    """A table of text as it was printed; its columns are sorted as text or numbers."""
    cells = tuple(tuple(Cell(text, _key(text)) for text in row) for row in rows)
    return SortableTable(title, tuple(headers), cells)


def calls(
    records: Sequence[Record],
    costs: Sequence[Cost],
    logged: Sequence[Sequence[TimeStretch]],
) -> Iterator[Figure]:
    """One call on several kernels: its table and what explains it.

    Args:
      logged: `report.stretches` of each; empty where no log was kept.
    """
    yield _table(records)
    yield _phases(records)
    yield timeline(records, costs, logged)
    yield _interrupts(records)
    for kernels, cost in alike(_kernels(records), costs, report.call_tree):
        yield _tree(report.call_tree(cost), kernels)


def rows_table(rows: Sequence[Mapping[str, Any]], title: str) -> SortableTable:
    """Rows of a sweep; the first MOST_ROWS of them."""
    some = rows[:MOST_ROWS]
    cells = tuple(tuple(Cell(str(r[c]), r[c]) for c in ROW_COLUMNS) for r in some)
    note = "Times in ns."
    if len(some) < len(rows):
        note += f" The first {len(some):,} of {len(rows):,} rows; all are in the CSV."
    return SortableTable(title, ROW_COLUMNS, cells, note)


def _table(records: Sequence[Record]) -> SortableTable:
    rows = []
    for r in records:
        cells = [Cell(f"{r['kernel']} {r['policy']}", r["kernel"])]
        cells += [
            Cell(show(n), n) for n, show in ((get(r), s) for _, get, s in COLUMNS)
        ]
        rows.append((*cells, Cell(r["errno"] or str(r["ret"]), r["errno"] or r["ret"])))
    headers = ("kernel", *(name for name, _, _ in COLUMNS), "result")
    return SortableTable("Kernels side by side", headers, tuple(rows))


def _end(record: Record, i: int) -> int:
    ends = record.get("time_ns_range") or [record["time_ns"]["total"]] * 2
    return int(ends[i])


def _phases(records: Sequence[Record]) -> Bars:
    longest = max((r["time_ns"]["total"] for r in records), default=0)
    bars = []
    times = [r["time_ns"] for r in records]
    for kernels, spent in alike(_kernels(records), times, lambda t: tuple(t.values())):
        said = [f"{kernels}, {p}: {units.duration(spent[p])}" for p in PHASES]
        parts = row([spent[p] for p in PHASES], longest, said)
        bars.append(Bar(kernels, parts, units.duration(spent["total"])))
    return Bars("Modelled time by phase", tuple(bars), tuple(PHASES))


def _interrupts(records: Sequence[Record]) -> Bars:
    """A bar for the CPUs that take as many; none for those that take no interrupt."""
    most = max((max(r["ipis_per_cpu"], default=0) for r in records), default=0)
    bars = []
    taken = [r["ipis_per_cpu"] for r in records]
    for kernels, by in alike(_kernels(records), taken, tuple):
        for n in sorted(set(by) - {0}, reverse=True):
            hit = [cpu for cpu, ipis in enumerate(by) if ipis == n]
            name = f"{kernels}, CPU{'s' * (len(hit) > 1)} {units.cpu_list(hit)}"
            each = " each" if len(hit) > 1 else ""
            said = f"{name}: {units.count(n)} IPIs{each}"
            bars.append(Bar(name, row([n], most, [said]), units.count(n) + each))
    note = "" if bars else "No CPU is interrupted."
    return Bars("TLB shootdown interrupts of each CPU", tuple(bars), (), note)


def _kernels(records: Sequence[Record]) -> list[str]:
    return [r["kernel"] for r in records]


def _tree(root: report.Node, kernels: str) -> Tree:
    boxes = []

    def place(node: report.Node, depth: int, value: float) -> None:
        share = 100 * node.ns / (root.ns or 1)
        if share < LEAST:
            return
        said = f"{node.name}: {units.duration(node.ns)}, {share:.2f} %"
        boxes.append(
            Box(depth, rounded(value), rounded(share), node.name, said, node.ns)
        )
        for child in node.children:
            place(child, depth + 1, value)
            value += 100 * child.ns / (root.ns or 1)

    place(root, 0, 0.0)
    note = "A click or Enter gives a box the whole width; once more closes it."
    return Tree(f"Where the time of {kernels} goes", tuple(boxes), note)


def _key(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text
