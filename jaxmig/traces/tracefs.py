"""The text of tracefs' trace file and of `trace-cmd report`: page faults, with writes.

Both are `TASK-TID [CPU] flags SECONDS: event: key=value ...`, with the process in
brackets where options/record-tgid is on; in trace-cmd's latency form the CPU begins the
flags.  Events that touch no page of a process are passed over and counted.

Source: trace_print_context() in kernel/trace/trace_output.c, Linux 6.3.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from jaxmig.traces.accesses import UNKNOWN, Rows, rows
from jaxmig.traces.fields import KERNEL, KERNEL_HALF, NO_ADDRESS, fault, nanoseconds
from jaxmig.traces.source import Match, Source

LINE: Final = re.compile(
    rb"(?m)^[ \t]*[^\n]{1,40}?-(\d{1,9})[ \t]+(?:\([ \t]*([\d-]{1,9})\)[ \t]+)?"
    rb"(?:\[(\d{1,6})\]|(\d{1,6})[^ \t\n\d][^ \t\n]*)[ \t]+(?:[^ \t\n]{1,12}[ \t]+)?"
    rb"(\d{1,9})\.(\d{3,9}):[ \t]+([\w:.-]+):[ \t]*([^\n]*)$"
    rb"|^CPU:?[ \t]?\d+ (?:\[(LOST) (\d{1,9}) EVENTS\]|[^\n]*)$"
    rb"|^(?:[ \t]*(?:#[^\n]*)?|cpus=\d+|version = \d+|[ \t]*=>[^\n]*)$"
)
ADVICE: Final = "no event of tracefs or `trace-cmd report`"
LOST: Final = "events that the kernel lost (a larger buffer_size_kb keeps them)"
Access = tuple[int, int, int, int, int, bool]


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    for found in source.matches(LINE, ADVICE):
        kept = [row for m in found if (row := _row(m, source.notes))]
        if kept:
            address, pid, tid, cpu, time, store = zip(*kept, strict=True)
            yield rows(address, pid=pid, tid=tid, cpu=cpu, time_ns=time, store=store)


def _row(m: Match, notes: Counter[str]) -> Access | None:
    tid, pid, cpu, latency, seconds, fraction, event, body, lost, many = m
    if lost:
        notes[LOST] += int(many)
    if not tid:
        return None
    seen = fault(event, body)
    if seen is None:
        notes[NO_ADDRESS] += 1
        return None
    if seen[0] >= KERNEL_HALF:
        notes[KERNEL] += 1
        return None
    who = int(pid) if pid.isdigit() else UNKNOWN
    where = int(cpu or latency)
    return seen[0], who, int(tid), where, nanoseconds(seconds, fraction), seen[1]
