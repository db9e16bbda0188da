"""The batch limit, mode and copy engine that move fastest within a stall budget.

Larger batches share a flush among more pages, but keep each page away longer.  The search
goes from coarse to fine: first every power of two, then for each kernel, mode and engine
the limits between the last that fits and the first that does not.  The stall of a page is
that of `report.window`.
"""

import bisect
import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, release
from jaxmig.time.machines import Profile
from jaxmig.tools.sweep import AXES, Configuration, Grid, Player, Row, Sweep

Tick = Callable[[str, float, float], None]
COARSE: Final = tuple(1 << k for k in range(15))  # base pages
FINE: Final = 16  # limits tried in each round between two neighbours
ROUNDS: Final = 2
STALLS: Final = ("p50", "p99", "max")


SURE: Final = 0.1  # of the drawn machines: on no more the budget may break


@dataclasses.dataclass(frozen=True)
class Choice:
    """A row with its stall on machines whose costs are drawn from their ranges.

    Attributes:
      low, high: ends of the middle 80 %, ns.
      over: the share of the machines on which it exceeds the budget, 0 to 1.
    """

    row: Row
    low: int
    high: int
    over: float


@dataclasses.dataclass(frozen=True)
class Advice:
    """The answer and its table.

    Attributes:
      best: the fastest row within the budget; None if there is none.
      own: the fastest that the CPU copies, as in mainline Linux; `best` if it has none.
      sure: as `own`, with the largest limit that keeps the budget on nine of ten drawn
        machines; None if it is serial, or no limit does.
      linux: as `own`, with Linux's limit; None if it is serial.
      engine: `best`, if `own` is another one.
      rows: the best limit of each kernel, mode and engine, fastest first; then the limit
        with the least stall of each that cannot meet the budget.
      tried: configurations in all.
    """

    best: Row | None
    own: Choice | None
    sure: Choice | None
    linux: Choice | None
    engine: Choice | None
    rows: tuple[Row, ...]
    tried: int
    stall: str  # the column that the budget is for
    budget_ns: int


def engines(profile: Profile) -> tuple[str, ...]:
    """Copy engines whose speed on this machine was measured, the CPU first."""
    found = ["cpu"]
    for name, engine in profile.engines.items():
        for table in (engine.small, engine.huge):
            counts = [n for n, _ in table.rates] if table else []
            found += [f"{name}:{n}" for n in counts]
    # A count below the smallest measured for one size of folio has no known speed there.
    return tuple(c for c in dict.fromkeys(found) if _known(profile, c))


def advise(
    sweep: Sweep,
    budget_ns: int,
    stall: str = "p99",
    tick: Tick = lambda what, done, more: None,
) -> Advice:
    """The fastest configuration whose stall stays within the budget.

    Args:
      sweep: with the kernels, modes and engines to try; its batch limits are ignored.
      budget_ns: the longest stall allowed.
      stall: which of STALLS the budget is for.
      tick: called with the name of what was tried, the number of configurations done,
        and the number added to the total.
    Returns:
      The best row, and the best of each kernel, mode and engine.
    Raises:
      SleepsForever: where Linux would wait for something that never ends.
    """
    column = f"stall_ns.{stall}"
    player = Player(sweep)
    rows = _rows(player, [dataclasses.replace(sweep.grid, batch=COARSE)], tick)
    for _ in range(ROUNDS):
        # Engines change prices only: all of a round's limits are counted together.
        groups = _groups(rows).values()
        finer = [_between(sweep.grid, some, column, budget_ns) for some in groups]
        rows += _rows(player, [grid for grid in finer if grid], tick)
    best = _best(rows, column, budget_ns)
    # Mainline Linux copies on the CPU that migrates; copy engines need another kernel.
    own = _best([r for r in rows if r["copy"] == "cpu"], column, budget_ns) or best
    linux = _linux(rows, own)
    drawn = functools.partial(_choice, player, column, budget_ns)
    return Advice(
        best=best,
        own=drawn(own) if own else None,
        sure=_sure(player, sweep.grid, rows, own, drawn),
        linux=drawn(linux) if linux else None,
        engine=drawn(best) if best and best is not own else None,
        rows=tuple(_table(rows, column, budget_ns)),
        tried=len(rows),
        stall=column,
        budget_ns=budget_ns,
    )


def _known(profile: Profile, copy: str) -> bool:
    try:
        profile.copy_speedups(copy)
    except ValueError:
        return False
    return True


def _rows(player: Player, grids: Sequence[Grid], tick: Tick) -> list[Row]:
    wanted = [grid.at(i) for grid in grids for i in range(len(grid))]
    tick("batch limits", 0, len(wanted))
    return player.play(wanted, lambda done: tick("batch limits", done, 0))


def _best(rows: Iterable[Row], column: str, budget_ns: int) -> Row | None:
    """The fastest row within the budget; of equals, the one with the least stall."""
    fitting = [r for r in rows if r[column] <= budget_ns]
    # max() keeps the first of equals, and sync, the system call's mode, comes first.
    return max(fitting, key=lambda r: (_rate(r), -r[column]), default=None)


def _choice(player: Player, column: str, budget_ns: int, row: Row) -> Choice:
    point = column.partition(".")[2].replace("max", "most")
    stalls = player.stalls(_point(row), point)
    low, high = np.quantile(stalls, (0.1, 0.9))
    over = float(np.mean(stalls > budget_ns))
    return Choice(
        row, min(round(low), row[column]), max(round(high), row[column]), over
    )


def _sure(
    player: Player,
    grid: Grid,
    rows: Sequence[Row],
    own: Row | None,
    drawn: Callable[[Row], Choice],
) -> Choice | None:
    """The largest limit that keeps the budget on nearly all machines."""
    if own is None or own["policy"] == "serial":
        return None
    alike = [r for r in rows if all(r[n] == own[n] for n in ("kernel", "mode", "copy"))]
    alike.sort(key=lambda r: r["batch"])
    found: Choice | None = None
    for _ in range(ROUNDS + 1):
        # A larger batch keeps its pages away for longer, on every machine.
        safe = bisect.bisect_right(alike, SURE, key=lambda r: drawn(r).over)
        if not safe:
            return found
        found, above = drawn(alike[safe - 1]), alike[safe : safe + 1]
        finer = _finer(grid, found.row, above[0]["batch"]) if above else None
        if finer is None:
            return found
        made = player.play([finer.at(i) for i in range(len(finer))], lambda done: None)
        alike = [found.row, *made, *above]
    return found


def _point(row: Row) -> Configuration:
    return Configuration(**{name: row[name] for name in AXES})


def _rate(row: Row) -> float:
    return row["vmstat.pgmigrate_success"] / max(row["time_ns.total"], 1)


def _between(
    grid: Grid, rows: Sequence[Row], column: str, budget_ns: int
) -> Grid | None:
    """A grid of limits between a group's best and the next larger one that was tried."""
    best = _best(rows, column, budget_ns)
    if best is None or not release(best["kernel"]).batched:
        return None
    low = best["batch"]
    above = [r for r in rows if r["batch"] > low]
    if not above:
        return None
    return _finer(grid, best, min(r["batch"] for r in above))


def _finer(grid: Grid, row: Row, high: int) -> Grid | None:
    """A grid of limits between a row's and a larger one; None if there is none."""
    step = max(1, (high - row["batch"]) // FINE)
    limits = tuple(range(row["batch"] + step, high, step))
    only = {name: (row[name],) for name in ("kernel", "mode", "copy")}
    return dataclasses.replace(grid, **only, batch=limits) if limits else None


def _groups(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by kernel, mode and engine; serial kernels only with the CPU's copy."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for r in rows:
        if r["policy"] == "batched" or r["copy"] == "cpu":
            groups.setdefault((r["kernel"], r["mode"], r["copy"]), []).append(r)
    return groups


def _linux(rows: Iterable[Row], best: Row | None) -> Row | None:
    if best is None or best["policy"] == "serial":
        return None
    chosen = {n: best[n] for n in ("kernel", "mode", "copy")}
    chosen["batch"] = NR_MAX_BATCHED_MIGRATION
    found = [r for r in rows if all(r[n] == v for n, v in chosen.items())]
    return found[0] if found else None


def _table(rows: Sequence[Row], column: str, budget_ns: int) -> list[Row]:
    found = []
    for some in _groups(rows).values():
        best = _best(some, column, budget_ns)
        found.append(best or min(some, key=lambda r: r[column]))
    return sorted(found, key=lambda r: (r[column] > budget_ns, -_rate(r)))
