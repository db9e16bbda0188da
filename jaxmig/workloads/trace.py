"""A recorded trace as a program: its pages numbered, its accesses ready by thread.

load(path) reads the trace once.  Accesses go to a file without a name, thread by thread
in order, so that each thread can be played at its own pace; memory holds the pages, not
the accesses.  A lane is a CPU of the trace, or a thread where no CPU was recorded.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Final

import numpy as np

from jaxmig.machine import PAGE_BYTES, PMD_PAGES
from jaxmig.traces import UNKNOWN, Reading, Rows, TraceError
from jaxmig.workloads.streams import Draw

KEPT_BYTES: Final = 64 << 20  # of accesses in memory, before a file takes them
PMD_ORDER: Final = 9
WORD_BYTES: Final = 4
MAX_LANES: Final = 8192
MAX_ACCESSES: Final = 2**31 - 1  # of a lane: the device counts them
ACCESS: Final = np.dtype([("vpn", "<i8"), ("op", "<u2")])  # word << 1 | store
THREAD: Final = 1 << 32  # beyond every CPU's number: lanes that are threads
Tick = Callable[[int], None]


@dataclasses.dataclass
class Lane:
    """One CPU or thread of the trace, and where its accesses are kept."""

    cpu: int  # UNKNOWN if the lane is a thread
    tid: int
    accesses: int = 0
    first_ns: int = UNKNOWN
    last_ns: int = UNKNOWN
    parts: list[tuple[int, int]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Trace:
    """Accesses by lane; folios are the 2 MiB ones first, then base pages by address."""

    path: str
    title: str  # of its format
    lanes: tuple[Lane, ...]
    blocks: np.ndarray  # int64: vpn >> 9 of each 2 MiB folio
    pages: np.ndarray  # int64: vpn of each base page
    stores: int
    notes: dict[str, int]  # what was left out, by reason
    spool: IO[bytes]

    def __repr__(self) -> str:
        return f"Trace({self.path!r})"

    @property
    def huge(self) -> int:
        """Folios of 2 MiB."""
        return len(self.blocks)

    @property
    def folios(self) -> int:
        """Different folios."""
        return len(self.blocks) + len(self.pages)

    @property
    def base_pages(self) -> int:
        """Base pages of all folios."""
        return self.huge * PMD_PAGES + len(self.pages)

    @property
    def accesses(self) -> list[int]:
        """Accesses of each lane."""
        return [lane.accesses for lane in self.lanes]

    @property
    def gap_ns(self) -> int | None:
        """Mean time from one access of a lane to its next; None if no times are known."""
        timed = [x for x in self.lanes if x.first_ns >= 0 and x.accesses > 1]
        steps = sum(x.accesses - 1 for x in timed)
        return sum(x.last_ns - x.first_ns for x in timed) // steps if steps else None

    def folio(self, vpn: np.ndarray) -> np.ndarray:
        """The folio of each page."""
        base = self.huge + np.searchsorted(self.pages, vpn)
        if not self.huge:
            return base
        at = np.searchsorted(self.blocks, vpn >> PMD_ORDER)
        inside = self.blocks[np.minimum(at, self.huge - 1)] == vpn >> PMD_ORDER
        return np.where(inside, at, base)

    def draw(self, lane: int) -> Draw:
        """The accesses of a lane from its first one on; after the last, again."""
        parts = self._parts(lane)
        ready, at = next(parts), 0

        def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            nonlocal ready, at
            rows = [np.zeros(0, ACCESS)]
            while n > 0:
                if at == len(ready):
                    ready, at = next(parts), 0
                rows.append(ready[at : at + n])
                at, n = at + len(rows[-1]), n - len(rows[-1])
            taken = np.concatenate(rows)
            op = taken["op"].astype(np.int64)
            return self.folio(taken["vpn"]), op >> 1, op & 1

        return draw

    def _parts(self, lane: int) -> Iterator[np.ndarray]:
        """Its pieces, over and over."""
        while True:
            for offset, count in self.lanes[lane].parts:
                self.spool.seek(offset)
                data = self.spool.read(count * ACCESS.itemsize)
                yield np.frombuffer(data, ACCESS)


class _Spool(tempfile.SpooledTemporaryFile):
    """A file without a name that closes itself when nobody has it any more."""

    def __del__(self) -> None:
        self.close()


class _Pages:
    """Distinct numbers; those seen since the last merge wait until they are as many."""

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


class _Loading:
    """What grows while a trace is read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lanes: dict[int, Lane] = {}
        self.pages, self.blocks = _Pages(), _Pages()
        self.stores = self.end = 0
        self.spool: IO[bytes] = _Spool(KEPT_BYTES)

    def add(self, block: Rows) -> None:
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
            advice = f"over {MAX_LANES} threads; choose one process with --pid"
            raise TraceError(f"{self.path}: {advice}")
        lane.parts.append((self.end, len(rows)))
        self.end += self.spool.write(rows.tobytes())
        lane.accesses += len(rows)
        known = time_ns[time_ns >= 0]
        if known.size:
            lane.first_ns = int(known[0]) if lane.first_ns < 0 else lane.first_ns
            lane.last_ns = max(int(known[-1]), lane.first_ns)


def load(
    path: str,
    format: str | None = None,
    *,
    pid: int | None = None,
    skip: int = 0,
    most: int | None = None,
    tick: Tick = lambda n: None,
) -> Trace:
    """Reads a trace for playing; memory grows with its pages alone.

    Args:
      format: a name of traces.FORMATS; None to find out.
      pid: keep only the accesses of this process, or of this thread.
      skip, most: leave out so many accesses first, and stop after so many more.
      tick: told how many bytes of the file were read.
    Raises:
      TraceError: it cannot be read, has no access (left), or is of several processes.
    """
    reading, made = Reading(path, format, tick), _Loading(path)
    pids: set[int] = set()
    for block in chosen(reading, pid, skip, most):
        pids.update(np.unique(block["pid"]).tolist())
        if len(pids - {UNKNOWN}) > 1:
            found = ", ".join(map(str, sorted(pids - {UNKNOWN})[:8]))
            advice = f"of several processes ({found}); choose one with --pid"
            raise TraceError(f"{path}: {advice}")
        made.add(block)
    if any(lane.accesses > MAX_ACCESSES for lane in made.lanes.values()):
        raise TraceError(f"{path}: over 2^31 accesses of a thread; see --accesses")
    if not made.lanes:
        raise TraceError(f"{path}: no access left by --pid and --skip; change them")
    blocks = made.blocks.all()
    pages = made.pages.all()
    pages = pages[~np.isin(pages >> PMD_ORDER, blocks)]
    lanes = tuple(made.lanes[name] for name in sorted(made.lanes))
    notes = dict(reading.notes)
    return Trace(
        path, reading.title, lanes, blocks, pages, made.stores, notes, made.spool
    )


def chosen(
    reading: Reading, pid: int | None, skip: int, most: int | None
) -> Iterator[Rows]:
    """The blocks of a trace that are asked for, none of them empty."""
    left = most
    for block in reading:
        if pid is not None:
            block = block[(block["pid"] == pid) | (block["tid"] == pid)]
        past = min(skip, len(block))
        skip, block = skip - past, block[past:]
        if left is not None:
            block = block[:left]
            left -= len(block)
        if len(block):
            yield block
        if left == 0:
            return


__all__ = ["Lane", "Trace", "TraceError", "chosen", "load"]
