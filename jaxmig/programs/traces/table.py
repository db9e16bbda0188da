"""Plain CSV: a line of column names, then a line for each access.

`address` (0x... or decimal) or `vpn` must be there; `time_ns`, `cpu`, `pid`, `tid`,
`order` and `rw` (R, W, read, write, load, store, 0, 1) may be, and may be empty.
Other columns are passed over, and named.  Nothing is quoted but, perhaps, their cells.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import numpy as np

from jaxmig.programs.traces.accesses import PAGE_SHIFT, UNKNOWN, Rows, rows
from jaxmig.programs.traces.source import Match, Source

NAMES: Final = ("time_ns", "cpu", "pid", "tid", "address", "order", "rw")
OTHER: Final = {"addr": "address", "time": "time_ns", "store": "rw", "is_write": "rw"}
LOADS: Final = (b"r", b"read", b"l", b"load", b"0", b"false", b"")
STORES: Final = (b"w", b"write", b"s", b"store", b"1", b"true")
PLACE: Final = rb"[1-9][0-9]{0,%d}|0|0[xX][0-9a-fA-F]{1,%d}"
NUMBER: Final = rb"-1|" + PLACE + rb"|"  # or unknown
HEADER: Final = re.compile(
    rb"(?mi)^[ \t]*+(?:\w++,[ \t]*+)*(?:address|addr|vpn)[ \t]*+(?:,|\r?$)"
)
# For each column: decimal and hexadecimal digits that fit, and the range in words.
CELLS: Final = {
    "address": (PLACE % (19, 16), "a number below 2^64"),
    "vpn": (PLACE % (14, 13), "a page number below 2^52"),
    "time_ns": (NUMBER % (17, 15), "whole ns"),
    "order": (rb"1[0-8]|[0-9]|", "log2 of the page's base pages"),
    "rw": (b"|".join(reversed(STORES + LOADS)), "R or W"),
} | dict.fromkeys(("cpu", "pid", "tid"), (NUMBER % (8, 7), "a number below 10^9"))
IGNORED: Final = rb'"[^"\n]*+"|[^",\n]*+'


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    columns: list[str] = []
    for number, text in source.lines():
        if not columns:
            columns, number, text = _header(source, number, text)
        if not columns or not text:
            continue
        line = _line(columns)
        found = source.found(number, text, line, partial(_wrong, columns))
        line = [i for i, m in enumerate(found, number) if m[0]]
        yield _block(source, [m for m in found if m[0]], columns, line)


def _header(source: Source, number: int, text: bytes) -> tuple[list[str], int, bytes]:
    """The column names, and the text after them with the number of its first line."""
    lines = text.split(b"\n")
    for i, line in enumerate(lines):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        cells = [c.strip().lower() for c in line.decode("utf-8", "replace").split(",")]
        names = [OTHER.get(cell, cell) for cell in cells]
        if len(set(names)) < len(names):
            raise source.error(number + i, line, "a column twice")
        if not {"address", "vpn"} & set(names):
            raise source.error(number + i, line, "no column named address or vpn")
        if over := [repr(n[:20]) for n in names if n not in CELLS]:
            more = f" and {len(over) - 3} more" if len(over) > 3 else ""
            source.assumed.append(f"columns {', '.join(over[:3])}{more} do not matter")
        return names, number + i + 1, b"\n".join(lines[i + 1 :])
    return [], number, b""


def _line(columns: list[str]) -> re.Pattern[bytes]:
    """A line's pattern: group 1 is the line, then a group for each known column."""
    parts = [
        rb"[ \t]*+(" + CELLS[c][0] + rb")[ \t]*+"
        if c in CELLS
        else rb"(?:" + IGNORED + b")"
        for c in columns
    ]
    skipped = rb"|[ \t]*+(?:#[^\n]*+)?"
    return re.compile(rb"(?mi)^(?:(" + b",".join(parts) + rb")" + skipped + rb")$")


def _wrong(columns: list[str], line: bytes) -> str:
    """What is wrong with a line that does not match."""
    cells = line.split(b",")
    if len(cells) != len(columns):
        return f"{len(cells)} cells under {len(columns)} column names"
    for name, cell in zip(columns, cells, strict=True):
        pattern, what = CELLS.get(name, (IGNORED, "a cell without quotes inside"))
        if not re.fullmatch(pattern, cell.strip(), re.IGNORECASE):
            return f"{name} is not {what}"
    return "no row"


def _block(
    source: Source, found: list[Match], columns: list[str], line: list[int]
) -> Rows:
    known = [c for c in columns if c in CELLS]
    cells = (
        dict(zip(known, list(zip(*found, strict=True))[1:], strict=True))
        if found
        else {}
    )
    if not cells:
        return rows([])

    def numbers(name: str, absent: int) -> list[int]:
        texts = cells.get(name)
        return (
            [int(t, 0) if t else absent for t in texts]
            if texts
            else [absent] * len(found)
        )

    if "address" in cells:
        address = numbers("address", 0)
    else:
        address = [vpn << PAGE_SHIFT for vpn in numbers("vpn", 0)]
    for i, number in enumerate(address):
        # Twenty digits can exceed 64 bits.
        if number >> 64:
            raise source.error(line[i], str(number).encode(), "an address beyond 2^64")
    source.check(np.asarray(address, np.uint64), line.__getitem__)
    others = {n: numbers(n, UNKNOWN) for n in ("time_ns", "pid", "tid", "cpu")}
    store = [t.lower() in STORES for t in cells.get("rw", [b""] * len(found))]
    return rows(address, **others, order=numbers("order", 0), store=store)


def write(blocks: Iterator[Rows], emit: Callable[[str], object]) -> int:
    """Emit the lines of a CSV that `read` reads back equal; returns its accesses."""
    emit(",".join(NAMES) + "\n")
    done = 0
    for block in blocks:
        columns = [block[n].tolist() for n in ("time_ns", "cpu", "pid", "tid")]
        columns += [block[n].tolist() for n in ("address", "order", "store")]
        lines = [
            f"{t},{c},{p},{i},{a:#x},{o},{'RW'[s]}\n"
            for t, c, p, i, a, o, s in zip(*columns, strict=True)
        ]
        emit("".join(lines))
        done += len(block)
    return done


__all__ = ["HEADER", "NAMES", "read", "write"]
