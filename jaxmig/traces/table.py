"""Plain CSV: a line of column names, then one access a line.

`address` (0x... or decimal) or `vpn` must be there; `time_ns`, `cpu`, `pid`, `tid`,
`order` and `rw` (R, W, read, write, load, store, 0, 1) may be, and may be empty.
Other columns are passed over.
"""

import csv
import re
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from jaxmig.traces.accesses import PAGE_SHIFT, UNKNOWN, Rows, TraceError, rows
from jaxmig.traces.source import Source

NAMES: Final = ("time_ns", "cpu", "pid", "tid", "address", "order", "rw")
KINDS: Final = {
    **dict.fromkeys(("r", "read", "l", "load", "0", "false", ""), False),
    **dict.fromkeys(("w", "write", "s", "store", "1", "true"), True),
}
OTHER: Final = {"addr": "address", "time": "time_ns", "store": "rw", "is_write": "rw"}
NUMBER: Final = re.compile(r"-?[1-9][0-9]{0,19}|0|0[xX][0-9a-fA-F]{1,16}")
PART: Final = 1 << 15
HEADER: Final = re.compile(
    rb"(?mi)^[ \t]*(?:\w+,[ \t]*)*(?:address|addr|vpn)[ \t]*(?:,|\r?$)"
)


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    columns: dict[str, int] | None = None
    kept: list[tuple] = []
    for number, text in source.lines():
        # Nothing here is quoted over several lines, so a line is a row.
        for i, line in enumerate(text.split(b"\n"), number):
            if not line.strip() or line.lstrip().startswith(b"#"):
                continue
            try:
                (cells,) = csv.reader([line.decode()], strict=True)
                if columns is None:
                    columns = _columns(cells)
                else:
                    kept.append(_row(cells, columns))
            except UnicodeDecodeError:
                raise source.error(i, line, "not UTF-8") from None
            except (ValueError, csv.Error) as error:
                raise source.error(i, line, str(error)) from None
            if len(kept) == PART:
                yield _block(kept)
                kept = []
    if kept:
        yield _block(kept)


def _columns(cells: list[str]) -> dict[str, int]:
    names = [c.strip().lower() for c in cells]
    found = {OTHER.get(name, name): i for i, name in enumerate(names)}
    if len(found) != len(names):
        raise ValueError("a column twice")
    if "address" not in found and "vpn" not in found:
        raise ValueError("no column named address or vpn")
    return found


def _row(cells: list[str], columns: dict[str, int]) -> tuple:
    if len(cells) != len(columns):
        raise ValueError(f"{len(cells)} cells under {len(columns)} column names")

    def number(name: str, least: int, most: int, absent: int) -> int:
        text = cells[columns[name]].strip() if name in columns else ""
        if not text:
            return absent
        value = int(text, 0) if NUMBER.fullmatch(text) else None
        if value is None or not least <= value <= most:
            raise ValueError(f"{name} is no number from {least} to {most}")
        return value

    if "address" in columns:
        address = number("address", 0, 2**64 - 1, -1)
    else:
        address = number("vpn", 0, 2 ** (64 - PAGE_SHIFT) - 1, -1) << PAGE_SHIFT
    if address < 0:
        raise ValueError("no address")
    kind = cells[columns["rw"]].strip().lower() if "rw" in columns else ""
    if kind not in KINDS:
        raise ValueError(f"rw {kind!r} is neither R nor W")
    time = number("time_ns", UNKNOWN, 2**63 - 1, UNKNOWN)
    who = [number(n, UNKNOWN, 2**31 - 1, UNKNOWN) for n in ("pid", "tid", "cpu")]
    return address, time, *who, number("order", 0, 18, 0), KINDS[kind]


def _block(kept: list[tuple]) -> Rows:
    address, time, pid, tid, cpu, order, store = zip(*kept, strict=True)
    return rows(
        np.array(address, np.uint64),
        time_ns=time, pid=pid, tid=tid, cpu=cpu, order=order, store=store,
    )  # fmt: skip


def write(blocks: Iterator[Rows], emit: Callable[[str], object]) -> int:
    """The lines of a CSV that `read` gives back equal; how many accesses it has."""
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


__all__ = ["HEADER", "NAMES", "TraceError", "read", "write"]
