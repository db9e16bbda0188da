"""A machine of a few pages as plain text: page table, TLBs, frames of two nodes."""

import string
import textwrap
from typing import Final

import numpy as np

from jaxmig.state import frame, pte
from jaxmig.state.machine import NOWHERE, Machine

LETTERS: Final = string.ascii_uppercase + string.digits + string.punctuation
LEGEND: Final = (
    "An entry or a TLB slot names a frame: 1a is frame a of node 1. *a is a migration "
    "entry that remembers frame a; 0a! in a TLB is stale: the page table says "
    "otherwise. In memory a letter is what a frame holds: A if a page lives there, (A) "
    "if it holds a copy that is not mapped yet or not any more."
)
MARGIN: Final = 13
CELL: Final = 4


class Picture:
    """The state of a machine as rows of cells, one for each page or frame."""

    def __init__(self, m: Machine, pages: int) -> None:
        self.pages = pages
        self.per_node = m.geometry.frames_per_node
        entries = np.asarray(m.pte)[:pages]
        table = [self.entry(pfn, bits) for pfn, bits in entries.tolist()]
        self.rows = [("page", [str(i) for i in range(pages)]), ("page table", table)]
        self.rows += [(f"TLB, CPU {c}", row) for c, row in self.tlbs(m, entries)]
        self.memory = [
            (f"node {n}", self.frames(m, n)) for n in range(m.geometry.nodes)
        ]

    def entry(self, pfn: int, bits: int) -> str:
        """One page-table entry."""
        if bits & pte.MIGRATION:
            return f"*{pfn % self.per_node:x}"
        return self.name(pfn) if bits & pte.PRESENT else "."

    def name(self, pfn: int) -> str:
        """A frame's node and its number there."""
        return f"{pfn // self.per_node}{pfn % self.per_node:x}"

    def tlbs(self, m: Machine, entries: np.ndarray) -> list[tuple[int, list[str]]]:
        """A row for each CPU that runs a process."""
        mm, tags = np.asarray(m.cpus.mm), np.asarray(m.tlb.entry)
        cached, ways = np.asarray(m.tlb.pfn), tags.shape[1] // len(mm)
        rows = []
        for cpu in np.flatnonzero(mm != NOWHERE).tolist():
            row = ["."] * self.pages
            for slot in zip(*np.nonzero(tags != NOWHERE), strict=True):
                page = int(tags[slot])
                if slot[1] // ways == cpu and page < self.pages:
                    pfn, (now, bits) = int(cached[slot]), entries[page].tolist()
                    stale = now != pfn or bits & pte.MIGRATION
                    row[page] = self.name(pfn) + ("!" if stale else "")
            rows.append((cpu, row))
        return rows

    def frames(self, m: Machine, node: int) -> list[str]:
        """The contents of the first frames of a node."""
        first = node * self.per_node
        if m.memory is None:
            raise ValueError("a picture needs contents")
        words = np.asarray(m.memory)[first : first + self.pages, 0]
        flags = np.asarray(m.frame)[first : first + self.pages, frame.FLAGS]
        cells = []
        for word, bits in zip(words.tolist(), flags.tolist(), strict=True):
            letter = LETTERS[word - 1] if word else "."
            owned = bits & frame.KIND != frame.FREE
            cells.append(letter if owned or not word else f"({letter})")
        return cells

    def text(self, width: int, before: "Picture | None" = None) -> str:
        """All rows in blocks that fit `width`; cells that differ from `before` are bold."""
        per_line = max(1, (width - MARGIN) // CELL)
        old = [r for _, r in (*before.rows, *before.memory)] if before else []
        now = [*self.rows, *self.memory]
        lines = []
        for first in range(0, self.pages, per_line):
            for i, (name, row) in enumerate(now):
                if name == "node 0":
                    lines.append(
                        _line("frame", _numbers(self.pages), [], first, per_line)
                    )
                lines.append(_line(name, row, old[i] if old else [], first, per_line))
            if first + per_line < self.pages:
                lines.append("")
        return "\n".join(lines)


def _numbers(pages: int) -> list[str]:
    return [f"{i:x}" for i in range(pages)]


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most `width` columns."""
    return textwrap.fill(text, max(width, 20))


def _line(name: str, row: list[str], old: list[str], first: int, count: int) -> str:
    """One row; cells that differ from `old` are bold."""
    cells = []
    for i in range(first, min(first + count, len(row))):
        cell = f"{row[i]:>{CELL}}"
        changed = bool(old) and old[i] != row[i]
        cells.append(f"\x1b[1m{cell}\x1b[0m" if changed else cell)
    return f"  {name:<{MARGIN - 2}}{''.join(cells)}".rstrip()
