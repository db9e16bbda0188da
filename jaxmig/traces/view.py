"""The text of DynamoRIO's `view` tool: records of its memory traces.

Reads and writes are kept; fetches, prefetches and flushes are passed over.  Markers
tell the core, and the time in microseconds since 1601: kept from the first one on,
since its nanoseconds do not fit into 64 bits.

Source: clients/drcachesim/tools/view.cpp of DynamoRIO.
"""

import re
from collections.abc import Iterator
from typing import Final

from jaxmig.traces.accesses import UNKNOWN, Rows, across, rows
from jaxmig.traces.source import Match, Source

LINE: Final = re.compile(
    rb"(?m)^[ \t]*\d+[ \t]+\d+:[ \t]+(?:W\d+\.)?T?(\d{1,9})[ \t]+(?:"
    rb"(read|write)[ \t]+(\d{1,4}) byte\(s\) @ 0x([0-9a-f]{1,16})\b[^\n]*"
    rb"|<marker: timestamp (\d{1,17})>"
    rb"|<marker: tid \d+ on core (\d{1,9})>"
    rb"|(?!read|write)[^\n]*)$"
    rb"|^(?:[ \t]*|Output format:|<--record#->[^\n]*|[-=]+|View tool results:"
    rb"|[ \t]*\d+ : total instructions|Trace invariant checks passed)$"
)
ADVICE: Final = "no record of the view tool"


class _State:
    """What earlier markers said."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.now = UNKNOWN
        self.core: dict[bytes, int] = {}

    def mark(self, tid: bytes, stamp: bytes, core: bytes) -> None:
        if stamp:
            self.first = int(stamp) if self.first is None else self.first
            self.now = (int(stamp) - self.first) * 1000
        if core:
            self.core[tid] = int(core)


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    state = _State()
    for found in source.matches(LINE, ADVICE):
        block = _block(found, state)
        if len(block):
            yield block


def _block(found: list[Match], state: _State) -> Rows:
    kept = []
    for tid, kind, size, address, stamp, core in found:
        if kind:
            where = state.core.get(tid, UNKNOWN)
            at = int(address, 16)
            kept.append((at, int(size), int(tid), where, state.now, kind == b"write"))
        else:
            state.mark(tid, stamp, core)
    address, size, tid, cpu, time, store = zip(*kept, strict=True) if kept else [()] * 6
    made = rows(address, tid=tid, cpu=cpu, time_ns=time, store=store)
    return across(made, size)
