"""Many configurations of one migration: grids, their counts, their prices, a file.

    axes.py     the axes of a grid, and the order of its rows
    memory.py   the target as a machine, with a share of it in huge pages
    counts.py   the counts of a call, without moving a page
    program.py  many calls in one compiled program, on one device or several
    engine.py   counts: each distinct call runs once
    many.py     the same from Python, for any machines: `count_many`
    pricing.py  counts times machine profiles, one matrix product
    rows.py     configuration and counts as a row
    journal.py  rows on disk: whole lines, resumable, parts merged
    play.py     the whole sweep, in windows of about a second

The order of the rows depends only on the configuration, and no row depends on this
computer's speed: a sweep that was killed and resumed, or divided among processes, gives
the same bytes.
"""

from jaxmig.host.ranges import AxisError, values
from jaxmig.tools.sweep.axes import AXES, Configuration, Grid
from jaxmig.tools.sweep.engine import CallRunner, CallTally, SweptCall
from jaxmig.tools.sweep.journal import Journal, JournalError
from jaxmig.tools.sweep.many import count_many
from jaxmig.tools.sweep.play import Player, Sweep, play
from jaxmig.tools.sweep.rows import COLUMNS, Row

__all__ = [
    "AXES",
    "COLUMNS",
    "AxisError",
    "CallRunner",
    "CallTally",
    "Configuration",
    "Grid",
    "Journal",
    "JournalError",
    "Player",
    "Row",
    "Sweep",
    "SweptCall",
    "count_many",
    "play",
    "values",
]
