"""The call tree as a flame graph: a box for each function, as wide as its time.

The root is at the bottom and callers are under callees, as Brendan Gregg draws them; but
siblings stand in the order in which they run, and the colour shows the phase.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from jaxmig.report.tree import Node
from jaxmig.show.plots.style import OF_PHASE, PALE, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PHASE_OF: Final = {
    "[the call itself]": "other",
    "alloc_migration_target": "alloc",
    "[lock, isolation, LRU add]": "other",
    "try_to_migrate_one": "unmap",
    "ptep_clear_flush": "flush",
    "set_tlb_ubc_flush_pending": "flush",
    "try_to_unmap_flush": "flush",
    "folios_mc_copy": "copy",
    "folio_copy": "copy",
    "folio_migrate_flags": "other",
    "[page cache]": "other",
    "lru_add_drain": "other",
    "remove_migration_ptes": "remap",
}
_DARK: Final = ("flush", "copy", "remap")  # phases whose colour takes white letters
_POINTS_A_LETTER: Final = 4.5  # at the size of the labels


def boxes(root: Node, pages: int) -> Iterator[tuple[str, float, float, int]]:
    """(name, left, width, depth) of every function; left and width in ns per page."""

    def below(node: Node, left: float, depth: int) -> Iterator:
        yield node.name, left, node.ns / pages, depth
        for child in node.children:
            yield from below(child, left, depth + 1)
            left += child.ns / pages

    return below(root, 0.0, 0)


def draw(
    axes: "Axes", root: Node, pages: int, widest: float, title: str, inches: float
) -> None:
    """Draw the tree on an x axis that ends at `widest` ns per page.

    Args:
      axes: on which it is drawn.
      pages: base pages that the call moved.
      inches: width of the axes; labels that do not fit are cut or left out.
    """
    from matplotlib.ticker import FuncFormatter

    letters = inches * 72 / _POINTS_A_LETTER
    deepest = 0
    for name, left, width, depth in boxes(root, max(pages, 1)):
        phase = PHASE_OF.get(name, "")
        face = OF_PHASE.get(phase, PALE)
        axes.barh(depth, width, 0.96, left, color=face, edgecolor="white", linewidth=1)
        label = _cut(name, int(width / widest * letters))
        color = "white" if phase in _DARK else "black"
        at = left + widest * 0.004
        axes.text(at, depth, label, va="center", fontsize=7, color=color, clip_on=True)
        deepest = max(deepest, depth)
    axes.set_xlim(0, widest)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: plain(x)))
    axes.set_ylim(-0.55, deepest + 0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("modelled time per page (ns)")
    axes.set_title(title, loc="left")


def _cut(name: str, room: int) -> str:
    """As much of a name as fits; nothing if fewer than four letters would."""
    if len(name) <= room:
        return name
    return f"{name[: room - 1]}…" if room > 4 else ""
