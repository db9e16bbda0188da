"""The parts of a page: plain data, which the template lays out.

Positions and sizes are percent of a figure, so that a page fits a phone and a slide.
"""

import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True)
class Cell:
    """The text of a cell, and the key by which its column is sorted."""

    text: str
    key: float | str


@dataclasses.dataclass(frozen=True)
class SortableTable:
    """A table that can be sorted by each column."""

    kind: ClassVar[str] = "table"
    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of a bar, `height` percent of it; `said` when it is pointed at."""

    x: float
    width: float
    said: str
    value: float
    color: int
    height: float = 100


@dataclasses.dataclass(frozen=True)
class Bar:
    """A row of parts with its name, and their sum as text."""

    name: str
    parts: tuple[Part, ...]
    total: str


@dataclasses.dataclass(frozen=True)
class Bars:
    """Bars on one scale."""

    kind: ClassVar[str] = "bars"
    title: str
    bars: tuple[Bar, ...]
    legend: tuple[str, ...] = ()  # of the colours, from 0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Box:
    """A function of a call tree."""

    depth: int
    x: float
    width: float
    name: str
    said: str
    value: float


@dataclasses.dataclass(frozen=True)
class Tree:
    """A call tree as boxes as wide as their time; a click zooms to one."""

    kind: ClassVar[str] = "tree"
    title: str
    boxes: tuple[Box, ...]
    note: str = ""

    @property
    def depth(self) -> int:
        """Rows of boxes."""
        return 1 + max((b.depth for b in self.boxes), default=0)


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a line; `y` is from the top."""

    x: float
    y: float
    said: str
    value: float


@dataclasses.dataclass(frozen=True)
class Lines:
    """Lines over one axis, with ticks as (position, text)."""

    kind: ClassVar[str] = "lines"
    title: str
    series: tuple[tuple[str, tuple[Point, ...]], ...]
    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]
    note: str = ""


Figure = SortableTable | Bars | Tree | Lines


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page: sentences, then figures."""

    title: str
    lines: tuple[str, ...]
    figures: tuple[Figure, ...]


@dataclasses.dataclass(frozen=True)
class Page:
    """The whole page: the command, its assumptions and its results."""

    title: str
    command: str
    versions: str
    assumed: tuple[str, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
