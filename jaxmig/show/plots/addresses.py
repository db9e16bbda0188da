"""A process's memory from end to end: page sizes, nodes, sharing, what may not move.

Resident pages stand side by side in the order of their addresses, as if areas touched;
a column stacks the kinds of some neighbours by their shares, and shows any that occurs.
Legends count all pages exactly.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from jaxmig.show.plots.strips import MOST_KINDS, footprint, strips
from jaxmig.show.plots.style import GREY, SERIES, figure, rc
from jaxmig.sources.footprint import Footprint
from jaxmig.sources.snapshot import Snapshot
from jaxmig.state.machine import PAGE_BYTES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED: Final = 0.12  # share of the pages from which on an area has its name below
BAND: Final = 1.15  # inches of a strip with four kinds at most
LINE: Final = 0.19  # of each more

Named = Sequence[tuple[int, str]]  # first page number and name of each area


def target_map(snapshot: Snapshot, process: int = 0, title: str = "") -> "Figure":
    """The picture of one process: a strip a property, names of large areas below."""
    return moved_map(footprint(snapshot, process), {}, snapshot.named(process), title)


def moved_map(
    before: Footprint, after: Mapping[str, Footprint], named: Named, title: str = ""
) -> "Figure":
    """The same memory before a migration and after each kernel's.

    Args:
      after: by kernel; pages that are gone by then keep their place.
      named: areas, by their first page.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    drawn = strips(before, after)
    high = [BAND + LINE * max(np.count_nonzero(s.counts) - 4, 0) for s in drawn]
    made = figure(11.0, 1.0 + sum(high))
    colors = ListedColormap(list(SERIES))
    with rc():
        panels = made.subplots(
            len(drawn), 1, sharex=True, height_ratios=high, squeeze=False
        )[:, 0]
        mib = max(len(before), 1) * PAGE_BYTES / 2**20
        for axes, strip in zip(panels, drawn, strict=True):
            axes.imshow(
                strip.cells, aspect="auto", cmap=colors, vmin=0, vmax=MOST_KINDS - 1,
                interpolation="nearest", origin="lower", extent=(0, mib, 0, 1),
            )  # fmt: skip
            axes.set_yticks([])
            axes.set_title(strip.title, loc="left")
            of_kinds = zip(strip.kinds, strip.counts, SERIES, strict=False)
            handles = [Patch(color=c, label=f"{k}: {n:,}") for k, n, c in of_kinds if n]
            axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1.3))
        _areas(panels[-1], before.vpn, named, mib)
        panels[-1].set_xlabel("resident memory in the order of addresses (MiB)")
        if title:
            made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def _areas(axes: "Axes", vpn: np.ndarray, named: Named, mib: float) -> None:
    """Borders and names of the areas that are wide enough for them."""
    n, first = len(vpn), [start for start, _ in named]
    edges = [*np.searchsorted(vpn, first).tolist(), n]
    for (_, path), left, right in zip(named, edges[:-1], edges[1:], strict=True):
        if right - left < NAMED * n or left == right:
            continue
        name = path.rpartition("/")[2] or "anonymous"
        for edge in (left, right):
            axes.axvline(edge / n * mib, color=GREY, linewidth=0.8)
        middle = (left + right) / 2 / n * mib
        name = "".join(c if c.isprintable() else "?" for c in name)[:14]
        axes.text(middle, -0.12, name, ha="center", va="top", fontsize=7,
                  transform=axes.get_xaxis_transform())  # fmt: skip
    axes.tick_params(axis="x", pad=12)
