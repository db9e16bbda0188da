"""The formats of traces: what each is, how it is recorded, and how it is detected."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Final

from jaxmig.programs.traces import champsim, damon, lackey, perf, table, tracefs, view
from jaxmig.programs.traces.accesses import Rows, TraceError
from jaxmig.programs.traces.source import Source

CHAMPSIM: Final = re.compile(r"(^|\.)champsim(trace)?(\.[a-z]+)?$")
DAMON: Final = re.compile(rb'damon_aggregated:|"(?:snapshots|kdamond_idx|target_id)"')
VIEW: Final = re.compile(rb"<--record#->|<marker: |byte\(s\) @ 0x")
TRACEFS: Final = re.compile(rb"(?m)^# tracer:|^cpus=\d+$|^version = \d+$")


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of file."""

    name: str
    title: str
    recording: str  # the command that writes it
    read: Callable[[Source], Iterator[Rows]]


FORMATS: Final = {
    f.name: f
    for f in (
        Format(
            "perf",
            "perf script",
            "perf mem record --phys-data --data-page-size COMMAND; perf script "
            "-F comm,pid,tid,cpu,time,event,addr,data_src,weight,phys_addr,data_page_size",
            perf.read,
        ),
        Format(
            "tracefs",
            "tracefs or trace-cmd",
            "trace-cmd record -e exceptions:page_fault_user -F COMMAND; trace-cmd report",
            tracefs.read,
        ),
        Format(
            "lackey",
            "valgrind's lackey, Pin's pinatrace",
            "valgrind --tool=lackey --trace-mem=yes --log-file=FILE COMMAND",
            lackey.read,
        ),
        Format(
            "damon",
            "DAMON",
            "damo record -o FILE --output_type json PID",
            damon.read,
        ),
        Format(
            "view",
            "DynamoRIO's view tool",
            "drrun -t drmemtrace -offline -- COMMAND; "
            "drrun -t drmemtrace -indir DIR -tool view 2> FILE",
            view.read,
        ),
        Format(
            "champsim",
            "ChampSim",
            "pin -t champsim_tracer.so -o FILE -- COMMAND; xz FILE",
            champsim.read,
        ),
        Format(
            "csv",
            "CSV",
            "any tool: a line `time_ns,cpu,pid,tid,address,order,rw`, then the accesses",
            table.read,
        ),
    )
}


def detect(source: Source) -> Format:
    """The format of an open file, by its name or its first lines.

    Raises:
      TraceError: none of them.
    """
    if CHAMPSIM.search(source.name.rpartition("/")[2].lower()):
        return FORMATS["champsim"]
    name = _told(source.head)
    if name is None:
        known = ", ".join(FORMATS)
        what = "no trace that is recognised"
        raise TraceError(
            f"{source.name}: {what}; say which by `jaxmig replay --format`: {known}"
        )
    return FORMATS[name]


def _told(head: bytes) -> str | None:
    if b"\0" in head:
        return None
    # The last line may be cut off, and kernel events of no interest match no pattern.
    text = head.replace(b"\r\n", b"\n")
    for pattern, name in ((DAMON, "damon"), (VIEW, "view"), (TRACEFS, "tracefs")):
        if pattern.search(text):
            return name
    lines = [x for x in text.split(b"\n")[:200] if x.strip() and not x.startswith(b"#")]
    if lines and table.HEADER.match(lines[0]):
        return "csv"
    for pattern, group, name in (
        (tracefs.LINE, 1, "tracefs"),
        (perf.LINE, 2, "perf"),
        (lackey.LINE, 2, "lackey"),
    ):
        if any((m := pattern.fullmatch(line)) and m[group] for line in lines):
            return name
    if any(line.startswith((b"==", b"I  ")) for line in lines):
        return "lackey"
    return None
