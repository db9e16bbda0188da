"""A process's memory as strips: what each page is, property by property.

Moments that say the same of every page share a strip, and a kind has one place, and so
one colour, at all moments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from jaxmig.show.plots.style import SERIES
from jaxmig.sources.footprint import CLOSED, MOVES, WHY, Footprint
from jaxmig.sources.snapshot import PageFlag as F, Snapshot
from jaxmig.state.frame import PMD_ORDER

COLUMNS: Final = 600
MOST_KINDS: Final = len(SERIES)
MOST_NAMED: Final = 4  # kernels in a title
GONE: Final = "not resident"
HUGETLB: Final = 64  # beside the orders of folios
ROWS: Final = 48
LEAST: Final = 0.08  # of a column's height


@dataclasses.dataclass(frozen=True, eq=False)
class Strip:
    """One property: its kinds, and each page's kind as an index of them."""

    title: str
    kinds: tuple[str, ...]
    of_page: np.ndarray

    @property
    def counts(self) -> list[int]:
        """Pages of each kind."""
        found: list[int] = np.bincount(self.of_page, minlength=len(self.kinds)).tolist()
        return found

    @property
    def cells(self) -> np.ndarray:
        """Kinds of ROWS x columns cells: a column stacks those of some neighbours.

        Each kind is as high as its share of the column, but never less than LEAST: a few
        pages that stay behind are what people look for.
        """
        n = len(self.of_page)
        columns = max(min(COLUMNS, n), 1)
        at = np.arange(n) * columns // max(n, 1)
        table = np.zeros((columns, max(len(self.kinds), 1)))
        np.add.at(table, (at, self.of_page), 1)
        share = table / table.sum(axis=1, keepdims=True).clip(1)
        high = np.where(share > 0, share.clip(LEAST), 0)
        high /= high.sum(axis=1, keepdims=True).clip(LEAST)
        below = high.cumsum(axis=1)[:, :-1]
        row = (np.arange(ROWS) + 0.5)[:, None, None] / ROWS
        kind: np.ndarray = (below[None] <= row).sum(axis=2)
        return kind


def footprint(snapshot: Snapshot, process: int = 0) -> Footprint:
    """The rows of one process of a snapshot; pages without a folio are rows, too."""
    mine = snapshot.select(process)
    return Footprint(
        vpn=snapshot.vpn[mine].astype(np.int64),
        order=snapshot.order[mine],
        node=snapshot.node[mine],
        hugetlb=snapshot.has(F.HUGETLB)[mine],
        file=snapshot.has(F.FILE)[mine],
        alone=snapshot.has(F.EXCLUSIVE)[mine],
        stays=np.where(snapshot.movable[mine], MOVES, CLOSED).astype(np.int8),
    )


def strips(before: Footprint, after: Mapping[str, Footprint]) -> list[Strip]:
    """What is drawn, property by property; moments that are the same share a strip."""
    moments = [_properties(f, before.vpn) for f in (before, *after.values())]
    drawn: list[Strip] = []
    for title, names in _names(before, *after.values()).items():
        codes = [m[title] for m in moments]
        kinds, rank = _ranked(names, codes)
        alike: list[tuple[np.ndarray, list[str]]] = []
        for of_page, when in zip(codes, ("", *after), strict=True):
            for other, whens in alike:
                if np.array_equal(other, of_page):
                    whens.append(when)
                    break
            else:
                alike.append((of_page, [when]))
        drawn += [
            Strip(_when(title, whens, after), kinds, rank[of_page])
            for of_page, whens in alike
        ]
    return drawn


def _when(title: str, whens: Sequence[str], after: Mapping[str, Footprint]) -> str:
    """The property, and after which kernels; "" is before."""
    if not after:
        return title
    kernels = [k for k in whens if k]
    said = ["before"] * ("" in whens)
    if len(kernels) > MOST_NAMED:
        said.append(f"after {kernels[0]} ... {kernels[-1]}")
    elif kernels:
        said.append(f"after {', '.join(kernels)}")
    return f"{title} {' and '.join(said)}"


def _names(*footprints: Footprint) -> dict[str, tuple[str, ...]]:
    """The kinds that each property can have, by number; the last is for gone pages."""
    nodes = 1 + max(int(f.node.max(initial=0)) for f in footprints)
    kinds = {
        "page size": (*(_size(order) for order in range(HUGETLB)), "hugetlb"),
        "node": tuple(f"node {n}" for n in range(nodes)),
        "sharing": ("anonymous, alone", "anonymous, shared", "file"),
        "migration": WHY,
    }
    return {title: (*names, GONE) for title, names in kinds.items()}


def _properties(footprint: Footprint, vpn: np.ndarray) -> dict[str, np.ndarray]:
    """The kind of each of the pages `vpn` by property; -1 where it is gone."""
    of_page = {
        "page size": np.where(footprint.hugetlb, HUGETLB, footprint.order),
        "node": footprint.node,
        "sharing": np.where(footprint.file, 2, np.where(footprint.alone, 0, 1)),
        "migration": footprint.stays,
    }
    at = np.minimum(np.searchsorted(footprint.vpn, vpn), max(len(footprint) - 1, 0))
    there = footprint.vpn[at] == vpn if len(footprint) else np.zeros(len(vpn), bool)
    found = {title: np.full(len(vpn), -1) for title in of_page}
    for title, codes in of_page.items():
        found[title][there] = codes[at[there]]
    return found


def _size(order: int) -> str:
    if order < PMD_ORDER:
        return f"{4 << order} KiB" + (" folio" if order else "")
    return f"{4 << order >> 10} MiB THP"


def _ranked(
    names: Sequence[str], moments: Sequence[np.ndarray]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Kinds that occur, and the place of each code in them.

    Those of most pages come first, at the first moment and then at all of them; beyond
    MOST_KINDS the rest is one kind.
    """
    n = len(names)
    counts = [np.bincount(codes % n, minlength=n) for codes in moments]
    total = np.sum(counts, axis=0)
    order = np.lexsort((-total, -counts[0]))
    order = order[total[order] > 0]
    rank = np.zeros(len(names), int)
    rank[order] = np.minimum(np.arange(len(order)), MOST_KINDS - 1)
    kinds = [names[i] for i in order]
    if len(kinds) > MOST_KINDS:
        kinds = [*kinds[: MOST_KINDS - 1], "others"]
    return tuple(kinds), rank
