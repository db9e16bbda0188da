"""The panels of each command's picture."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION
from jaxmig.report.tree import Node
from jaxmig.show.plots import curves, flame, heat, phases
from jaxmig.show.plots.style import figure, named, rc
from jaxmig.time.machines.terms import PHASES
from jaxmig.tools.sweep.axes import AXES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]
Row = dict[str, Any]
MOST_BARS: Final = 12
BARS_HIGH: Final = 3.4  # inches
TREE_HIGH: Final = 2.1
BAR_WIDE: Final = 0.62
FEW_BARS: Final = 4  # whose names have room in one line


@dataclasses.dataclass(frozen=True)
class Group:
    """A call on several releases, with a call tree for each or without any."""

    title: str
    records: Sequence[Record]
    trees: Sequence[Node] = ()


def migration(groups: Sequence[Group], title: str = "") -> "Figure":
    """Calls on several releases: for each a panel of time by phase, then call trees.

    Releases that have the same times share a bar, and those with the same tree a tree.
    """
    panels = [p for g in groups for p in _of_call(g)]
    sizes = [BARS_HIGH if tree is None else TREE_HIGH for _, _, tree, _ in panels]
    widest = max((t.ns / max(n, 1) for _, n, t, _ in panels if t), default=0)
    most = max((len(_bars_of(g)) for g in groups), default=0)
    wide = max(8.0, BAR_WIDE * most + 2)
    made = figure(wide, sum(sizes))
    with rc():
        axes = made.subplots(len(panels), 1, height_ratios=sizes, squeeze=False)
        for at, (g, pages, tree, head) in zip(axes[:, 0], panels, strict=True):
            if tree is None:
                bars = _bars_of(g)
                moved = [r["vmstat"]["pgmigrate_success"] for _, r in bars]
                names = [name.replace(" ", "\n") for name, _ in bars]
                if len(bars) <= FEW_BARS:
                    names = [name for name, _ in bars]
                phases.draw(at, names, [r["time_ns"] for _, r in bars], moved)
            else:
                flame.draw(at, tree, pages, widest or 1.0, head, wide - 1.8)
            if g.title:
                at.set_title(f"{g.title}\n{at.get_title(loc='left')}", loc="left")
        if title:
            made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def _of_call(group: Group) -> list[tuple[Group, int, Node | None, str]]:
    """Its panels: bars, then each different tree with the pages that it moved."""
    alike: dict[tuple[Node, int], list[Record]] = {}
    for r, tree in zip(group.records, group.trees, strict=False):
        pages = r["vmstat"]["pgmigrate_success"]
        alike.setdefault((tree, pages), []).append(r)
    found: list[tuple[Group, int, Node | None, str]] = [(group, 0, None, "")]
    for (tree, pages), some in alike.items():
        found.append((group, pages, tree, f"Where the time of {_names(some)} goes"))
    return found


def _bars_of(group: Group) -> list[tuple[str, Record]]:
    """A bar for the releases that moved as many pages in the same times."""
    alike: dict[tuple[int, ...], list[Record]] = {}
    for r in group.records:
        key = (r["vmstat"]["pgmigrate_success"], *(r["time_ns"][p] for p in PHASES))
        alike.setdefault((*key, r["policy"] == "serial"), []).append(r)
    return [(_names(some), some[0]) for some in alike.values()]


def sweep(rows: Sequence[Row], title: str = "") -> "Figure":
    """A picture over the axes that vary; in each panel the others have one value."""
    many = {name for name in AXES if len({r[name] for r in rows}) > 1}
    drawn: list[tuple[Any, list[Row], str]] = []
    if "batch" in many:
        # Gain and cost over the batch number, as asked for on linux-mm in May 2026.
        panels = (curves.rate, curves.stall, curves.total, curves.first)
        free = [n for n in ("batch", "copy") if n in many]
        drawn += [(draw, *_held(rows, *free)) for draw in panels]
    if "cpus" in many:
        drawn += [(curves.ipis, *_held(rows, "cpus"))]
    if {"batch", "cpus"} <= many:
        drawn += [(_heat, *_held(_one_kernel(rows), "batch", "cpus"))]
    others = [n for n in many if n not in ("batch", "cpus", "kernel", "machine")]
    if not drawn or others or len(drawn) % 2:
        drawn += [(_bars, *_held(rows, *others))]
    made = figure(11.0 if len(drawn) > 1 else 7.0, 3.9 * -(-len(drawn) // 2))
    with rc():
        for axes, (draw, some, held) in zip(
            _panels(made, len(drawn)), drawn, strict=True
        ):
            draw(axes, some)
            axes.set_title(f"{axes.get_title(loc='left')}\n{held}", loc="left")
        if title:
            made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def _panels(made: "Figure", n: int) -> list["Axes"]:
    """Two panels in each row; a last one that is alone has the picture's width."""
    grid = made.add_gridspec(-(-n // 2), min(n, 2))
    alone = n - 1 if n % 2 else n
    found = [made.add_subplot(grid[i // 2, i % 2]) for i in range(alone)]
    if n > alone:
        found.append(made.add_subplot(grid[-1, :]))
    return found


def _held(rows: Sequence[Row], *free: str) -> tuple[list[Row], str]:
    """Rows with one value on every axis but `free`, kernel and machine; and a caption.

    A sample may have too few such rows; then all rows are shown, by their median.
    """
    chosen = {
        name: _usual(name, {r[name] for r in rows})
        for name in AXES
        if name not in (*free, "kernel", "machine")
    }
    some = [r for r in rows if all(r[n] == value for n, value in chosen.items())]
    if free and len({tuple(r[n] for n in free) for r in some}) < 2:
        return list(rows), "median over everything else"
    return some, ", ".join(_said(n, v) for n, v in chosen.items())


def _usual(name: str, found: set[Any]) -> Any:
    """The value to show: Linux's batch limit, the most CPUs, else the least value."""
    if name == "batch":
        below = [n for n in found if 0 < n <= NR_MAX_BATCHED_MIGRATION]
        return max(below, default=min(found))
    if name == "copy" and "cpu" in found:
        return "cpu"
    return max(found) if name == "cpus" else min(found)


def _said(name: str, value: Any) -> str:
    if name == "batch":
        return f"batch limit {value or 'none'}"
    words = {
        "thp": f"{value} % THP",
        "cpus": f"{value} CPUs",
        "copy": f"{value} copy",
        "mode": str(value),
    }
    return words[name]


def _one_kernel(rows: Sequence[Row]) -> list[Row]:
    """Rows of the last kernel and the first machine: a heat map shows one of each."""
    kernel, machine = rows[-1]["kernel"], rows[0]["machine"]
    return [r for r in rows if r["kernel"] == kernel and r["machine"] == machine]


def _heat(axes: "Axes", rows: Sequence[Row]) -> None:
    heat.draw(axes, rows, f"Rate of {rows[0]['kernel']}, {rows[0]['machine']}")


def _bars(axes: "Axes", rows: Sequence[Row]) -> None:
    shown = list(rows)[:MOST_BARS]
    phases.draw(
        axes,
        [_bar_name(r, shown) for r in shown],
        [{p: r[f"time_ns.{p}"] for p in PHASES} for r in shown],
        [r["vmstat.pgmigrate_success"] for r in shown],
    )
    if len(rows) > len(shown):
        title = axes.get_title(loc="left")
        axes.set_title(f"{title}: the first {len(shown)} of {len(rows)}", loc="left")


def _bar_name(row: Row, rows: Sequence[Row]) -> str:
    """The kernel, and the other values in which this bar differs from the others."""
    parts = [row["kernel"]]
    for name in ("machine", "thp", "copy", "mode"):
        if len({other[name] for other in rows}) > 1:
            parts.append(f"{row[name]} % THP" if name == "thp" else str(row[name]))
    return "\n".join(parts)


def _names(records: Sequence[Record]) -> str:
    """Kernels with the policy that they have."""
    by_policy: dict[str, list[str]] = {}
    for r in records:
        by_policy.setdefault(r["policy"], []).append(r["kernel"])
    return ", ".join(f"{named(k)} {policy}" for policy, k in by_policy.items())
