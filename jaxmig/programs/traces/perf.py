"""Text of `perf script`: samples with a data address, or page faults as tracepoints.

Fields stand in perf's own order, whatever the order given to -F: comm, pid/tid, cpu,
time, period, event, addr, data_src, weight, ip with its symbol, phys_addr,
data_page_size.  Stores are recognised by the data source, or by the event's name without
one; everything else is a load.  A sample may be followed by its call chain, a frame on
each line, with source lines.  Task events (fork, mmap ...) are skipped.

Source: process_event() in tools/perf/builtin-script.c, sample__fprintf_callchain() in
tools/perf/util/evsel_fprintf.c, Linux 6.1.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from jaxmig.programs.traces.accesses import (
    KERNEL_START,
    LARGEST_ORDER,
    UNKNOWN,
    Rows,
    rows,
)
from jaxmig.programs.traces.fields import NO_ADDRESS, fault, nanoseconds
from jaxmig.programs.traces.source import Match, Source

LINE: Final = re.compile(
    # Possessive quantifiers (++) never backtrack: the time is linear in the line.
    rb"(?m)^[ \t]*+(?:[^ \t\n][^\n]{0,40}?[ \t]++)?(?:(\d{1,9}|-1)/)?(\d{1,9}|-1)[ \t]++"
    rb"(?:\[(\d{1,6})\][ \t]++)?(\d{1,9}+)\.(\d{3,9}+):[ \t]*+"
    rb"(?:PERF_RECORD_([^\n]++)|(?:(?:\d++[ \t]++)?([^ \t\n]+):(?=[ \t]|$))?"
    rb"([^\n]*+))$"
    # An empty line or a comment; a frame of a call chain, its source line, or registers.
    rb"|^(?:([ \t]*+(?:#[^\n]*+)?)|([ \t]++[0-9a-f]{1,16}(?:[ \t][^\n]*+)?"
    rb"|  [^ \t\n][^\n]*+|[ \t]++(?:0x|ABI:)[^\n]*+|\|\d[^\n]*+))$"
)
FIELDS: Final = "comm,pid,tid,cpu,time,event,addr,phys_addr,weight,data_page_size"
ADVICE: Final = f"no sample; write the text by `perf script -F {FIELDS}`"
ALONE: Final = "no sample before this frame of a call chain; give the whole text"
CODE: Final = (
    "no sample of memory, but of an instruction; record with `perf record -d` and "
    f"print addr: perf script -F {FIELDS}"
)
ODD_SIZE: Final = "no sample: no size of a page"
LOST: Final = "events that perf lost (a larger -m keeps them)"
LOST_RECORD: Final = re.compile(rb"LOST[ \t]+lost[ \t]+(\d{1,18})")
ADDRESS: Final = re.compile(rb"[ \t]*+([0-9a-f]{1,16})(?=[ \t]|$)")
COLUMN: Final = 17  # where an address ends after its event: a blank, 16 digits
# Events whose address has its own symbol (sample_addr_correlates_sym()).
OF_FAULTS: Final = re.compile(rb"(?:page-|minor-|major-)?faults(?::\w*)?")
TRACEPOINT: Final = re.compile(rb"[a-z_0-9]+:(?![ukhpPGHSDWIe]+$)\w+")
SIZE: Final = re.compile(rb"[ \t](\d{1,4})([KMG])[ \t]*$")
ORDER: Final = {b"K": -2, b"M": 8, b"G": 18}  # log2 of base pages of 1 K, 1 M, 1 G
Access = tuple[int, int, int, int, int, int, bool]


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    chain = False  # whether a frame may come next
    for number, found in source.matches(LINE, ADVICE):
        kept, line = [], []
        for i, m in enumerate(found, number):
            if m[9]:
                if not chain:
                    raise source.error(i, m[9], ALONE)
                continue
            chain = bool(m[1]) and not m[5]
            row = _row(m, source.notes) if m[1] else None
            if isinstance(row, str):
                raise source.error(i, m[7].strip(), row)
            if row:
                kept.append(row)
                line.append(i)
        if kept:
            address, pid, tid, cpu, time, order, store = zip(*kept, strict=True)
            made = rows(
                address,
                pid=pid,
                tid=tid,
                cpu=cpu,
                time_ns=time,
                order=order,
                store=store,
            )
            source.check(made["address"], line.__getitem__)
            yield made


def _row(m: Match, notes: Counter[str]) -> Access | str | None:
    """A sample's access, what is wrong with it, or None if it has no address."""
    pid, tid, cpu, seconds, fraction, task, event, body, _, _ = m
    if task:
        if lost := LOST_RECORD.match(task):
            notes[LOST] += int(lost[1])
        return None
    seen = fault(event, body) or _sample(event, body)
    if isinstance(seen, str):
        return seen
    if seen is None or seen[0] == 0:
        notes[NO_ADDRESS] += 1
        return None
    order = _order(body)
    if order is None and seen[0] < KERNEL_START:
        return ODD_SIZE
    who = int(pid) if pid else UNKNOWN
    where = int(cpu) if cpu else UNKNOWN
    time = nanoseconds(seconds, fraction)
    return seen[0], who, int(tid), where, time, order or 0, seen[1]


def _sample(event: bytes, body: bytes) -> tuple[int, bool] | str | None:
    found = ADDRESS.match(body)
    if found is None or TRACEPOINT.fullmatch(event):
        return None
    source = b"|OP " in body
    if not source and _is_code(event, body, found):
        return CODE
    store = b"|OP STORE" in body if source else b"store" in event
    return int(found[1], 16), store


def _is_code(event: bytes, body: bytes, first: re.Match[bytes]) -> bool:
    """Whether the only number before a symbol is an instruction's address."""
    rest = body[first.end() :].strip()
    if not rest.endswith(b")") or ADDRESS.match(rest):
        return False
    # An address ends a column earlier than an instruction's.
    return not (OF_FAULTS.fullmatch(event) and first.end() == COLUMN)


def _order(body: bytes) -> int | None:
    """log2 of the page's base pages; 0 where the kernel does not tell (N/A)."""
    found = SIZE.search(body)
    if found is None:
        return 0
    size = int(found[1])
    order = size.bit_length() - 1 + ORDER[found[2]]
    power = size > 0 and size & (size - 1) == 0
    return order if power and 0 <= order <= LARGEST_ORDER else None
