"""Pictures of results, as PNG or SVG; matplotlib comes with the extra `plot`.

    style.py    colours that everyone can tell apart, and how axes look
    phases.py   modelled time per page, stacked by phase, release beside release
    flame.py    the call tree as boxes as wide as their time
    curves.py   interrupts over CPUs; rate and stall over the batch limit
    heat.py     one number over two axes of a sweep
    strips.py   a process's memory page by page: size, node, sharing, what may not move
    addresses.py these as a picture, before and after a migration
    tradeoff.py what a batch limit gives and takes while a program runs
    figures.py  which of them a command's picture consists of

Every function draws numbers that a table or a row already has, and computes only
quotients.  Nothing here uses pyplot, so no window opens and no state is shared.
"""

from jaxmig.show.plots.addresses import moved_map, target_map
from jaxmig.show.plots.figures import Group, migration, sweep
from jaxmig.show.plots.style import PlotError, check, save
from jaxmig.show.plots.tradeoff import trade_off

__all__ = [
    "Group",
    "PlotError",
    "check",
    "migration",
    "moved_map",
    "save",
    "sweep",
    "target_map",
    "trade_off",
]
