"""`--plot`: pictures of what a command found."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxmig import plots, report
from jaxmig.cli import output
from jaxmig.cli.errors import Failure
from jaxmig.cost import Cost
from jaxmig.plots import PlotError
from jaxmig.sweep import Row


def check(path: str | None) -> None:
    """Raises Failure for a picture that could not be drawn, before the work."""
    if path:
        try:
            plots.check(path)
        except PlotError as error:
            raise Failure(str(error)) from None
        output.check(path)


def migration(
    path: str | None,
    records: Sequence[report.records.Record],
    costs: Sequence[Cost] = (),
    title: str = "",
) -> None:
    """Calls side by side, if a picture was asked for."""
    if path:
        trees = [report.call_tree(cost) for cost in costs]
        _save(plots.migration(records, trees, title), path)


def sweep(path: str | None, rows: Sequence[Row]) -> None:
    """A sweep, if a picture was asked for."""
    if path and rows:
        _save(plots.sweep(rows), path)


def trade_off(
    path: str | None, points: Sequence[Mapping[str, float]], title: str
) -> None:
    """Batch limits while a program runs, if a picture was asked for."""
    if path:
        _save(plots.trade_off(points, title), path)


def _save(figure: Any, path: str) -> None:
    try:
        plots.save(figure, path)
    except PlotError as error:
        raise Failure(str(error)) from None
