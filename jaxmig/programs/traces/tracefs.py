"""The text of tracefs' trace file and of `trace-cmd report`: page faults, with writes.

Both are `TASK-TID [CPU] flags SECONDS: event: key=value ...`, with the process in
brackets where options/record-tgid is on; in trace-cmd's latency form the CPU begins the
flags.  Events that touch no page of a process are skipped and counted.

Source: trace_print_context() in kernel/trace/trace_output.c, Linux 6.3.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from jaxmig.programs.traces.accesses import UNKNOWN, Rows, rows
from jaxmig.programs.traces.fields import NO_ADDRESS, fault, nanoseconds
from jaxmig.programs.traces.source import Match, Source

LINE: Final = re.compile(
    # Possessive quantifiers (++) never backtrack: the time is linear in the line.
    rb"(?m)^[ \t]*+[^\n]{1,40}?-(\d{1,9}+)[ \t]++(?:\([ \t]*+([\d-]{1,9})\)[ \t]++)?"
    rb"(?:\[(\d{1,6})\]|(\d{1,6}+)[^ \t\n\d][^ \t\n]*+)[ \t]++"
    rb"(?:[^ \t\n]{1,12}+[ \t]++)?"
    rb"(\d{1,9})\.(\d{3,9}):[ \t]++([\w:.-]+):[ \t]*+([^\n]*+)$"
    rb"|^CPU:?[ \t]?\d++ (?:\[(LOST) (\d{1,9}) EVENTS\]|[^\n]*+)$"
    rb"|^(?:[ \t]*+(?:#[^\n]*+|=>[^\n]*+)?|cpus=\d++|version = \d++)$"
)
ADVICE: Final = "no event of tracefs or `trace-cmd report`"
LOST: Final = "events that the kernel lost (a larger buffer_size_kb keeps them)"
Access = tuple[int, int, int, int, int, bool]


def read(source: Source) -> Iterator[Rows]:
    """Blocks of accesses."""
    for number, found in source.matches(LINE, ADVICE):
        seen = [_row(m, source.notes) for m in found]
        kept = [row for row in seen if row]
        if kept:
            where = [i for i, row in enumerate(seen, number) if row]
            address, pid, tid, cpu, time, store = zip(*kept, strict=True)
            made = rows(address, pid=pid, tid=tid, cpu=cpu, time_ns=time, store=store)
            source.check(made["address"], where.__getitem__)
            yield made


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
    who = int(pid) if pid.isdigit() else UNKNOWN
    where = int(cpu or latency)
    return seen[0], who, int(tid), where, nanoseconds(seconds, fraction), seen[1]
