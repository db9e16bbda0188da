"""Many configurations of one migration: grids, their counts, their prices, a file.

    axes.py     what is varied, and the order of the rows
    memory.py   the target as a machine, with a share of it in huge pages
    counts.py   what a call counts, without moving a page
    program.py  many calls in one compiled program, on one device or several
    engine.py   counts: each distinct call runs once
    many.py     the same from Python, for any machines: `count_many`
    pricing.py  counts times machine profiles, one matrix product
    rows.py     configuration and counts as a row
    journal.py  rows on disk: whole lines, resumed where they end, parts merged
    play.py     all of it, in windows of about a second

The order of the rows follows from the configuration alone, and a row holds nothing that
this computer's speed could change: a sweep that was killed and resumed, or cut among
processes, ends in the same bytes.
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
