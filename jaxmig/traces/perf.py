"""Text of `perf script`: samples with a data address, or page faults as tracepoints.

Fields stand in perf's own order, whatever the order given to -F: comm, pid/tid, cpu,
time, period, event, addr, data_src, weight, phys_addr, data_page_size.  The data source
or else the event's name tells loads from stores; what neither tells is a load.

Source: process_event() in tools/perf/builtin-script.c, Linux 6.1.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from jaxmig.traces.accesses import UNKNOWN, Rows, rows
from jaxmig.traces.fields import KERNEL, KERNEL_HALF, NO_ADDRESS, fault, nanoseconds
from jaxmig.traces.source import Match, Source

LINE: Final = re.compile(
    rb"(?m)^[ \t]*(?:[^\n]{0,40}?[ \t]+)?(?:(\d{1,9}|-1)/)?(\d{1,9}|-1)[ \t]+"
    rb"(?:\[(\d{1,6})\][ \t]+)?(\d{1,9})\.(\d{3,9}):[ \t]*"
    rb"(?:\d+[ \t]+)?(?:([^ \t\n]+):(?=[ \t]|$))?[ \t]*"
    # A symbol in the end follows an instruction's address: that is none of memory.
    rb"([^\n]*=[^\n]*|[^\n]*(?<!\)))$"
    # A blank line, a comment, or a frame of a call chain.
    rb"|^(?:[ \t]*(?:#[^\n]*)?|[ \t]+[0-9a-f]{4,16} [^\n]*\))$"
)
FIELDS: Final = "comm,pid,tid,cpu,time,event,addr,phys_addr,weight,data_page_size"
ADVICE: Final = f"no sample; write the text by `perf script -F {FIELDS}`"
ADDRESS: Final = re.compile(rb"([0-9a-f]{1,16})(?=[ \t]|$)")
SIZE: Final = re.compile(rb"[ \t](\d{1,4})([KMG])[ \t]*$")
ORDER: Final = {b"K": -2, b"M": 8, b"G": 18}  # log2 of base pages of 1 K, 1 M, 1 G
Access = tuple[int, int, int, int, int, int, bool]


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    for found in source.matches(LINE, ADVICE):
        kept = [row for m in found if m[1] and (row := _row(m, source.notes))]
        if kept:
            address, pid, tid, cpu, time, order, store = zip(*kept, strict=True)
            yield rows(
                address,
                pid=pid,
                tid=tid,
                cpu=cpu,
                time_ns=time,
                order=order,
                store=store,
            )


def _row(m: Match, notes: Counter[str]) -> Access | None:
    pid, tid, cpu, seconds, fraction, event, body = m
    seen = fault(event, body) or _sample(event, body)
    if seen is None or seen[0] == 0:
        notes[NO_ADDRESS] += 1
        return None
    if seen[0] >= KERNEL_HALF:
        notes[KERNEL] += 1
        return None
    who = int(pid) if pid else UNKNOWN
    where = int(cpu) if cpu else UNKNOWN
    time = nanoseconds(seconds, fraction)
    return seen[0], who, int(tid), where, time, _order(body), seen[1]


def _sample(event: bytes, body: bytes) -> tuple[int, bool] | None:
    found = ADDRESS.match(body)
    if found is None:
        return None
    source = b"|OP " in body
    if b"(" in body and not source:
        return None
    store = b"|OP STORE" in body if source else b"store" in event
    return int(found[1], 16), store


def _order(body: bytes) -> int:
    """log2 of the page's base pages; 0 where the kernel does not tell (N/A)."""
    found = SIZE.search(body)
    if found is None or not int(found[1]):
        return 0
    return max(int(found[1]).bit_length() - 1 + ORDER[found[2]], 0)
