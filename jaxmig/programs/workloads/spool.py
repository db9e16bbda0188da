"""Accesses of a trace, sorted from the file's order into that of their threads.

They are written once, lane by lane within a block, to a temporary file without a name;
the first KEPT_BYTES stay in memory.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.programs.traces import UNKNOWN, Rows, TraceError
from jaxmig.state.machine import PAGE_BYTES

KEPT_BYTES: Final = 64 << 20
PMD_ORDER: Final = 9
WORD_BYTES: Final = 4
MAX_LANES: Final = 8192
ACCESS: Final = np.dtype([("vpn", "<i8"), ("op", "<u2")])  # word << 1 | store
THREAD: Final = 1 << 32  # added to the tid of a lane that is a thread, beyond every CPU


@dataclasses.dataclass
class Lane:
    """One CPU or thread of the trace, and where its accesses are kept."""

    cpu: int  # UNKNOWN if the lane is a thread
    tid: int
    accesses: int = 0
    first_ns: int = UNKNOWN
    last_ns: int = UNKNOWN
    parts: list[tuple[int, int]] = dataclasses.field(default_factory=list)


class _File(tempfile.SpooledTemporaryFile):
    """A temporary file that is closed with its last reference."""

    def __del__(self) -> None:
        self.close()


class _Distinct:
    """Distinct numbers; new ones are merged once they are as many as the merged ones."""

    def __init__(self) -> None:
        self._merged, self._new, self._waiting = np.zeros(0, np.int64), [], 0

    def add(self, numbers: np.ndarray) -> None:
        self._new.append(np.unique(numbers))
        self._waiting += len(self._new[-1])
        if self._waiting > max(len(self._merged), 1 << 18):
            self.all()

    def all(self) -> np.ndarray:
        """Sorted."""
        self._merged = np.unique(np.concatenate([self._merged, *self._new]))
        self._new, self._waiting = [], 0
        return self._merged


class Spool:
    """The accesses of a trace in order of lanes, with its pages and counts.

    Raises:
      TraceError: more lanes than a machine has CPUs, or no room for the accesses.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lanes: dict[int, Lane] = {}
        self.pages, self.blocks = _Distinct(), _Distinct()
        self.stores = self.end = 0
        self.pids: set[int] = set()
        self.strays: set[int] = set()  # threads whose process is not known
        self._file = _File(KEPT_BYTES)

    def add(self, block: Rows) -> None:
        """Keep the accesses of a block."""
        self.pids.update(np.unique(block["pid"]).tolist())
        stray = (block["pid"] < 0) & (block["tid"] >= 0)
        self.strays.update(np.unique(block["tid"][stray]).tolist())
        vpn = (block["address"] // PAGE_BYTES).astype(np.int64)
        self.pages.add(vpn)
        large = block["order"] >= PMD_ORDER
        if large.any():
            self.blocks.add(vpn[large] >> PMD_ORDER)
        self.stores += int(block["store"].sum())
        made = np.empty(len(block), ACCESS)
        word = block["address"] % PAGE_BYTES // WORD_BYTES
        made["vpn"], made["op"] = vpn, word.astype(np.uint16) << 1 | block["store"]
        cpu, tid = block["cpu"].astype(np.int64), block["tid"].astype(np.int64)
        key = np.where(cpu >= 0, cpu, np.maximum(tid, 0) + THREAD)
        order = np.argsort(key, kind="stable")
        names, first = np.unique(key[order], return_index=True)
        for name, rows in zip(names, np.split(order, first[1:]), strict=True):
            self._put(int(name), made[rows], block["time_ns"][rows])

    def _put(self, name: int, rows: np.ndarray, time_ns: np.ndarray) -> None:
        made = (UNKNOWN, name - THREAD) if name >= THREAD else (name, UNKNOWN)
        lane = self.lanes.setdefault(name, Lane(*made))
        if len(self.lanes) > MAX_LANES:
            advice = f"over {MAX_LANES} threads; choose one with `jaxmig replay --pid`"
            raise TraceError(f"{self.path}: {advice}")
        lane.parts.append((self.end, len(rows)))
        self._write(rows.tobytes())
        lane.accesses += len(rows)
        known = time_ns[time_ns >= 0]
        if known.size:
            lane.first_ns = int(known[0]) if lane.first_ns < 0 else lane.first_ns
            lane.last_ns = max(int(known[-1]), lane.first_ns)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            where = tempfile.gettempdir()
            text = f"no room for its accesses in {where} ({error.strerror}); set TMPDIR"
            raise TraceError(f"{self.path}: {text}") from None
        self.end += len(data)

    def parts(self, lane: Lane) -> Iterator[np.ndarray]:
        """The accesses of a lane, over and over, a piece at a time."""
        while True:
            for offset, count in lane.parts:
                self._file.seek(offset)
                data = self._file.read(count * ACCESS.itemsize)
                yield np.frombuffer(data, ACCESS)
