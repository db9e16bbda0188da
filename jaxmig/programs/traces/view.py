"""The text of DynamoRIO's `view` tool: records of its memory traces.

Reads and writes are kept; fetches, prefetches and flushes are skipped.  Markers give the
core, the page size, and the time in microseconds since 1601.  Times count from the first
marker here, since nanoseconds since 1601 do not fit into 64 bits.  Older versions of the
tool wrote neither a page size nor the number of the instruction.

Source: clients/drcachesim/tools/view.cpp of DynamoRIO.
"""

import re
from collections.abc import Iterator
from typing import Final

from jaxmig.programs.traces.accesses import (
    PAGE_SHIFT,
    UNKNOWN,
    Rows,
    TraceError,
    across,
    rows,
)
from jaxmig.programs.traces.source import Match, Source

LINE: Final = re.compile(
    rb"(?m)^[ \t]*+\d++(?:[ \t]++\d++)?:[ \t]++(?:W\d++\.)?T?(\d{1,9})[ \t]++(?:"
    rb"(read|write)[ \t]++(\d{1,4}) byte\(s\) @ 0x([0-9a-f]{1,16})\b[^\n]*+"
    rb"|<marker: timestamp (\d{1,17})>"
    rb"|<marker: tid \d++ on core (\d{1,9})>"
    rb"|<marker: page size (\d{1,19})>"
    rb"|(?!read|write|<marker: page size)[^\n]*+)$"
    rb"|^(?:[ \t]*+(?:\d++ : total instructions)?|Output format:|<--record#->[^\n]*+"
    rb"|[-=]++|View tool results:|Trace invariant checks passed)$"
)
LATEST_NS: Final = 1 << 62
PAGE_BYTES: Final = 1 << PAGE_SHIFT
ADVICE: Final = "no record of the view tool"


class _State:
    """The values of earlier markers."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.now = UNKNOWN
        self.core: dict[bytes, int] = {}

    def mark(self, tid: bytes, stamp: bytes, core: bytes) -> None:
        if stamp:
            self.first = int(stamp) if self.first is None else self.first
            # Another thread's records may be a little older than the first ones.
            self.now = max(int(stamp) - self.first, 0) * 1000
        if core:
            self.core[tid] = int(core)


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    state = _State()
    sized = False
    for number, found in source.matches(LINE, ADVICE):
        for i, m in enumerate(found, number):
            sized |= bool(m[6]) and _is_modelled(source, i, int(m[6]))
        block = _block(source, number, found, state)
        if len(block):
            yield block
    if not sized:
        source.assumed.append(f"pages of {PAGE_BYTES} bytes, the file names no size")


def _is_modelled(source: Source, line: int, size: int) -> bool:
    if size == PAGE_BYTES:
        return True
    advice = f"only {PAGE_BYTES} is modelled; record on a machine with such pages"
    raise TraceError(f"{source.name}:{line}: base pages of {size} bytes: {advice}")


def _block(source: Source, number: int, found: list[Match], state: _State) -> Rows:
    kept, line = [], []
    for i, (tid, kind, size, address, stamp, core, _) in enumerate(found, number):
        if kind:
            where = state.core.get(tid, UNKNOWN)
            at = int(address, 16)
            kept.append((at, int(size), int(tid), where, state.now, kind == b"write"))
            line.append(i)
        else:
            state.mark(tid, stamp, core)
            if state.now > LATEST_NS:
                raise source.error(i, stamp, "a timestamp centuries behind the first")
    address, size, tid, cpu, time, store = zip(*kept, strict=True) if kept else [()] * 6
    made = rows(address, tid=tid, cpu=cpu, time_ns=time, store=store)
    source.check(made["address"], line.__getitem__)
    return across(made, size)
