"""Published figures beside predictions.

Predictions use machine profiles that were made from figures published before batching.
A row whose prediction used a number of the table that it is compared with is marked
`fitted`.  Errors are printed as they are, with their likely cause.
"""

from collections.abc import Iterator

from jaxmig.tools.reproduce.arm64 import arm64
from jaxmig.tools.reproduce.calls import garg, garg_few, garg_later, ziyan
from jaxmig.tools.reproduce.figures import Figure, distinct, figures, summary
from jaxmig.tools.reproduce.headline import HEADERS, headline
from jaxmig.tools.reproduce.intel import RUNNING, Tick, intel
from jaxmig.tools.reproduce.row import Row

__all__ = [
    "HEADERS",
    "RUNNING",
    "Figure",
    "Row",
    "distinct",
    "figures",
    "headline",
    "rows",
    "summary",
]


def rows(tick: Tick = lambda what: None) -> Iterator[Row]:
    """Every row; those that run a program first."""
    yield from intel(tick)
    yield from arm64()
    yield from garg()
    yield from garg_few()
    yield from garg_later()
    yield from ziyan()
