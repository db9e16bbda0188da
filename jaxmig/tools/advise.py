"""The batch limit, mode and copy engine that move fastest within a stall budget.

Larger batches share a flush among more pages, but keep each page away longer.  The search
goes from coarse to fine: first every power of two, then for each kernel, mode and engine
the limits between the last that fits and the first that does not.  The stall of a page is
that of `report.window`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, release
from jaxmig.time.machines import Profile
from jaxmig.tools.sweep import Grid, Player, Row, Sweep

Tick = Callable[[str, float, float], None]
COARSE: Final = tuple(1 << k for k in range(15))  # base pages
FINE: Final = 16  # limits tried in each round between two neighbours
ROUNDS: Final = 2
STALLS: Final = ("p50", "p99", "max")


@dataclasses.dataclass(frozen=True)
class Advice:
    """The answer and its table.

    Attributes:
      best: the fastest row within the budget; None if there is none.
      linux: the same choice with Linux's own limit; None if it is serial.
      rows: the best limit of each kernel, mode and engine, fastest first; then the limit
        with the least stall of each that cannot meet the budget.
      tried: configurations in all.
    """

    best: Row | None
    linux: Row | None
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
    return Advice(
        best=best,
        linux=_linux(rows, best),
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
    high = min(above, key=lambda r: r["batch"])
    step = max(1, (high["batch"] - low) // FINE)
    return dataclasses.replace(
        grid,
        kernel=(best["kernel"],),
        mode=(best["mode"],),
        copy=(best["copy"],),
        batch=tuple(range(low + step, high["batch"], step)),
    )


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
