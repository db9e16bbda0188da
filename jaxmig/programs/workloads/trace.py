"""A recorded trace as a program: numbered pages, and accesses sorted by thread.

load(path) reads the trace once.  Accesses go to a temporary file, thread by thread in
order, so that each thread can be played by itself; memory holds only the pages.  A lane
is a CPU of the trace, or a thread where no CPU was recorded.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from jaxmig.programs.traces import UNKNOWN, Reading, Rows, TraceError
from jaxmig.programs.workloads.spool import ACCESS, PMD_ORDER, Lane, Spool
from jaxmig.programs.workloads.streams import Draw
from jaxmig.state.machine import PMD_PAGES

MAX_ACCESSES: Final = 2**31 - 1  # of a lane: the device counts them
Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Trace:
    """Accesses by lane; folios are the 2 MiB ones first, then base pages by address."""

    path: str
    title: str  # of its format
    lanes: tuple[Lane, ...]
    blocks: np.ndarray  # int64: vpn >> 9 of each 2 MiB folio
    pages: np.ndarray  # int64: vpn of each base page
    stores: int
    notes: dict[str, int]  # records left out, by reason
    assumed: tuple[str, ...]
    spool: Spool

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
    def cpus(self) -> tuple[int, ...]:
        """The CPU of each lane; threads without one are assumed to run on 1, 2 ..."""
        return tuple(x.cpu if x.cpu >= 0 else i for i, x in enumerate(self.lanes, 1))

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
        """The accesses of a lane from its first one on, repeated after the last."""
        parts = self.spool.parts(self.lanes[lane])
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


def load(
    path: str,
    format: str | None = None,
    *,
    pid: int | None = None,
    skip: int = 0,
    most: int | None = None,
    tick: Tick = lambda n: None,
) -> Trace:
    """Read a trace for playing; memory grows with its pages alone.

    Args:
      path: a file, or - for standard input.
      format: a name of traces.FORMATS; None to detect it.
      pid: keep only the accesses of this process, or of this thread.
      skip, most: skip so many accesses, then keep at most so many.
      tick: called with the bytes read since the last call.
    Returns:
      The trace, whose accesses are in a temporary file.
    Raises:
      TraceError: it cannot be read, has no access (left), or is of several processes.
    """
    reading, spool = Reading(path, format, tick), Spool(path)
    for block in chosen(reading, pid, skip, most):
        spool.add(block)
        if len(spool.pids - {UNKNOWN}) > 1:
            found = ", ".join(map(str, sorted(spool.pids - {UNKNOWN})[:8]))
            advice = (
                f"of several processes ({found}); choose one with `jaxmig replay --pid`"
            )
            raise TraceError(f"{path}: {advice}")
    if any(lane.accesses > MAX_ACCESSES for lane in spool.lanes.values()):
        raise TraceError(
            f"{path}: over 2^31 accesses of a thread; see `jaxmig replay --accesses`"
        )
    if not spool.lanes:
        raise TraceError(f"{path}: no access left by --pid and --skip; change them")
    return _trace(reading, spool)


def _trace(reading: Reading, spool: Spool) -> Trace:
    blocks, pages = spool.blocks.all(), spool.pages.all()
    assumed = list(reading.assumed)
    if len(spool.strays) > 1:
        assumed.append(
            f"{len(spool.strays)} threads whose process was not recorded are one process "
            "(--pid keeps one thread)"
        )
    return Trace(
        path=spool.path,
        title=reading.title,
        lanes=tuple(spool.lanes[name] for name in sorted(spool.lanes)),
        blocks=blocks,
        pages=pages[~np.isin(pages >> PMD_ORDER, blocks)],
        stores=spool.stores,
        notes=dict(reading.notes),
        assumed=tuple(assumed),
        spool=spool,
    )


def chosen(
    reading: Reading, pid: int | None, skip: int, most: int | None
) -> Iterator[Rows]:
    """The accesses of a trace that the arguments choose.

    Args:
      pid: keep only the accesses of this process, or of this thread; None: of all.
      skip, most: skip so many accesses, then keep at most so many; None: all.
    Returns:
      Blocks, none of them empty.
    """
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
