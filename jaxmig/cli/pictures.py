"""`--plot`: pictures of a command's results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxmig import report
from jaxmig.cli import output
from jaxmig.cli.errors import Failure
from jaxmig.host.refused import WrongUse
from jaxmig.host.terminal import printable
from jaxmig.show import plots
from jaxmig.show.plots import PlotError
from jaxmig.sources.snapshot import Snapshot
from jaxmig.time.cost import Cost
from jaxmig.tools.sweep import Row

if TYPE_CHECKING:
    from jaxmig.tools.job import Outcome


def check(path: str | None) -> None:
    """Raise Failure for a picture that cannot be drawn, WrongUse for its name."""
    if path is not None:
        try:
            plots.check(path)
        except WrongUse:
            raise
        except PlotError as error:
            raise Failure(str(error)) from None
        output.check(path)


def migration(
    path: str | None,
    calls: Iterable[tuple[str, Sequence[report.records.Record], Sequence[Cost]]],
    title: str = "",
) -> None:
    """Draw calls on several kernels, each under its name, if `--plot` was given."""
    if path:
        groups = [
            plots.Group(printable(name), records, [report.call_tree(c) for c in costs])
            for name, records, costs in calls
        ]
        if not groups:
            raise Failure(f"{path}: no call was played, so there is nothing to draw")
        _save(plots.migration(groups, _lines(title)), path)


def sweep(path: str | None, rows: Sequence[Row], title: str) -> None:
    """Draw a sweep, if `--plot` was given."""
    if path and rows:
        _save(plots.sweep(rows, _lines(title)), path)


def target_map(path: str | None, snapshot: Snapshot, title: str) -> None:
    """Draw the only process of a snapshot, if `--plot` was given."""
    if path:
        _save(plots.target_map(snapshot, 0, _lines(title)), path)


def moved_map(
    path: str | None,
    outcomes: Sequence["Outcome"],
    areas: Sequence[tuple[int, str]],
    title: str,
) -> None:
    """Draw what a target maps before the call and after each kernel's.

    Args:
      path: of the picture; None: none was asked for.
      outcomes: of the kernels, with their footprints.
      areas: first page and name of each of the target's areas.
      title: of the picture.
    """
    before = outcomes[0].before
    if path and before is not None:
        after = {o.record["kernel"]: o.after for o in outcomes if o.after is not None}
        named = [(first, printable(name)) for first, name in areas]
        _save(plots.moved_map(before, after, named, _lines(title)), path)


def trade_off(
    path: str | None, points: Sequence[Mapping[str, float]], title: str
) -> None:
    """Draw batch limits while a program runs, if `--plot` was given."""
    if path:
        _save(plots.trade_off(points, title), path)


def _lines(title: str) -> str:
    return "\n".join(map(printable, title.split("\n")))


def _save(figure: Any, path: str) -> None:
    try:
        plots.save(figure, path)
    except PlotError as error:
        raise Failure(str(error)) from None
