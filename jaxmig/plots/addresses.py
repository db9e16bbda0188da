"""A process's memory from end to end: page sizes, nodes, sharing, what may not move.

Resident pages stand side by side in the order of their addresses, as if areas touched;
a column is the commonest kind of some neighbours; of what may not move, any shows.
Legends count all pages exactly.
"""

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PAGE_BYTES
from jaxmig.plots.style import GREY, SERIES, figure, rc
from jaxmig.snapshot import PageFlag as F, Snapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS: Final = 600
MOST_KINDS: Final = len(SERIES)
NAMED: Final = 0.12  # share of the pages from which on an area has its name below


@dataclasses.dataclass(frozen=True)
class Strip:
    """One property: the kinds that occur, and each page's kind as an index of them."""

    title: str
    kinds: tuple[str, ...]
    of_page: np.ndarray
    rare: bool = False  # a column shows its rarest kind: a few pages are the point

    @property
    def counts(self) -> list[int]:
        """Pages of each kind."""
        found: list[int] = np.bincount(self.of_page, minlength=len(self.kinds)).tolist()
        return found


def strips(s: Snapshot, process: int = 0) -> list[Strip]:
    """What is drawn of a process, page by page in the order of its rows."""
    mine = s.select(process)
    order, node = s.order[mine].astype(int), s.node[mine]
    file, alone = (s.has(flag)[mine] for flag in (F.FILE, F.EXCLUSIVE))
    huge = np.where(order >= PMD_ORDER, "THP", "folio")
    size = [f"{4 << k} KiB" if k < PMD_ORDER else f"{4 << k >> 10} MiB" for k in order]
    sizes = [f"{n} {w}" if k else n for n, w, k in zip(size, huge, order, strict=True)]
    held = np.where(
        file, "file", np.where(alone, "anonymous, alone", "anonymous, shared")
    )
    hugetlb = s.has(F.HUGETLB)[mine]
    moves = np.where(s.movable[mine], "can move", "may not move")
    return [
        _strip("page size", np.where(hugetlb, "hugetlb", sizes)),
        _strip("node", np.char.add("node ", node.astype(str))),
        _strip("sharing", held),
        dataclasses.replace(_strip("migration", moves), rare=True),
    ]


def _strip(title: str, words: np.ndarray) -> Strip:
    """Kinds by how many pages they have; beyond MOST_KINDS the rest is one."""
    kinds, index, counts = np.unique(words, return_inverse=True, return_counts=True)
    rank = np.empty(len(kinds), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(kinds))
    names = [str(kinds[i]) for i in np.argsort(-counts, kind="stable")]
    of_page = np.minimum(rank[index], MOST_KINDS - 1)
    if len(names) > MOST_KINDS:
        names = [*names[: MOST_KINDS - 1], "others"]
    return Strip(title, tuple(names), of_page)


def target_map(s: Snapshot, process: int = 0, title: str = "") -> "Figure":
    """The picture: a strip a property, names of large areas below."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    drawn = strips(s, process)
    made = figure(11.0, 1.0 + 1.15 * len(drawn))
    colors = ListedColormap(list(SERIES))
    with rc():
        panels = made.subplots(len(drawn), 1, sharex=True)
        pages = len(drawn[0].of_page)
        mib = pages * PAGE_BYTES / 2**20
        for axes, strip in zip(panels, drawn, strict=True):
            cells = _commonest(strip)[None, :]
            axes.imshow(
                cells, aspect="auto", cmap=colors, vmin=0, vmax=MOST_KINDS - 1,
                interpolation="nearest", extent=(0, mib, 0, 1),
            )  # fmt: skip
            axes.set_yticks([])
            axes.set_title(strip.title, loc="left")
            named = zip(strip.kinds, strip.counts, SERIES, strict=False)
            handles = [Patch(color=c, label=f"{k}: {n:,}") for k, n, c in named]
            axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1.3))
        _areas(panels[-1], s, process, mib)
        panels[-1].set_xlabel("resident memory in the order of addresses (MiB)")
        if title:
            made.suptitle(title, x=0.01, ha="left", fontsize=9)
    return made


def _commonest(strip: Strip) -> np.ndarray:
    """The kind of each column; kinds stand in order of their pages, most first."""
    n = len(strip.of_page)
    columns = min(COLUMNS, n)
    at = np.arange(n) * columns // n
    table = np.zeros((columns, len(strip.kinds)), int)
    np.add.at(table, (at, strip.of_page), 1)
    last = table.shape[1] - 1 - (table[:, ::-1] > 0).argmax(axis=1)
    found: np.ndarray = last if strip.rare else table.argmax(axis=1)
    return found


def _areas(axes: "Axes", s: Snapshot, process: int, mib: float) -> None:
    """Borders and names of the areas that are wide enough for them."""
    area = s.area[s.select(process)]
    n, cut = len(area), np.flatnonzero(np.diff(area)) + 1
    edges = np.r_[0, cut, n]
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if last - first < NAMED * n:
            continue
        path = s.areas.path[int(area[first])].rpartition("/")[2] or "anonymous"
        for edge in (first, last):
            axes.axvline(edge / n * mib, color=GREY, linewidth=0.8)
        middle = (first + last) / 2 / n * mib
        name = "".join(c if c.isprintable() else "?" for c in path)[:14]
        # A dollar sign would begin a formula.
        axes.text(middle, -0.12, name.replace("$", r"\$"), ha="center", va="top",
                  fontsize=7, transform=axes.get_xaxis_transform())  # fmt: skip
    axes.tick_params(axis="x", pad=12)
