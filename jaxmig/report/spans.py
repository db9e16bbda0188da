"""The outline of a call's log: nested spans, down to single folios if they are few.

The parts of a span are inner spans, and ranges of rows that no inner span holds.  With
many folios the smallest span is a batch; with many batches, or none, it is a chunk of
folios.
"""

import dataclasses
import itertools
from typing import Any, Final

import numpy as np

from jaxmig.state import log

CHUNK: Final = 512  # folios of the smallest chunk
LEVEL: Final = {
    log.CALL: 0,
    log.HUGETLBS: 1,
    log.BATCH: 1,
    log.SPLIT: 2,
    log.ALONE: 2,
    log.UNMAP: 3,
    log.SEND: 3,
    log.MOVE: 3,
}
FOLIO_LEVEL: Final = 4
NAMES: Final = {
    log.CALL: ("migrate_pages", "migrate_pages"),
    log.HUGETLBS: ("migrate_hugetlbs", "batch"),
    log.BATCH: ("batch {}", "batch"),
    log.SPLIT: ("pieces of split folios", "batch"),
    log.ALONE: ("one folio, synchronously", "batch"),
    log.UNMAP: ("migrate_folio_unmap", "stage"),
    log.SEND: ("try_to_unmap_flush", "stage"),
    log.MOVE: ("migrate_folio_move", "stage"),
}
Ranges = list[tuple[int, int]]


@dataclasses.dataclass
class Span:
    """A stretch of the call, which takes the time of its parts."""

    name: str
    cat: str
    level: int
    args: dict[str, Any]
    parts: list["Span | Ranges"] = dataclasses.field(default_factory=list)

    def add(self, first: int, last: int) -> None:
        """Append rows that belong to no inner span."""
        if not self.parts or isinstance(self.parts[-1], Span):
            self.parts.append([])
        ranges = self.parts[-1]
        if isinstance(ranges, list):
            ranges.append((first, last))


@dataclasses.dataclass(frozen=True)
class Outline:
    """The outermost spans, one for each list; whether spans stand for several folios."""

    spans: list[Span]
    aggregated: bool


def outline(rows: np.ndarray, cpus: int, share: int, max_folios: int) -> Outline:
    """The outline of a log.

    Args:
      rows: int32[rows, log.COLUMNS].
      cpus: of the machine.
      share: slices that this outline may take, about.
      max_folios: folios that are shown one by one.
    Returns:
      Spans in the order of the log.
    """
    kinds = rows[:, 0]
    folios = int((kinds == log.FOLIO).sum())
    begins = int((kinds == log.BEGIN).sum())
    heads = np.unique(rows[kinds == log.FOLIO, 1]).size
    ipis = rows[kinds == log.CPUS, 2].astype(np.uint32)
    taken = int(np.unpackbits(ipis.view(np.uint8)).sum())
    if heads <= max_folios and 5 * folios + 2 * begins + taken <= share:
        return Outline(_walk(rows, _edges(rows)), False)
    # A stage has its phases, and one slice on every CPU.
    batched = (kinds == log.BEGIN) & (rows[:, 1] == log.BATCH)
    if batched.any() and begins * (5 + cpus) <= share:
        bare = rows.copy()
        bare[kinds == log.FOLIO, 0] = log.COUNT
        return Outline(_walk(bare, _edges(bare)), True)
    chunk = max(CHUNK, -(-folios * (8 + cpus) // share))
    return Outline(_chunks(rows, chunk, share // (8 + cpus)), True)


def _edges(rows: np.ndarray) -> list[int]:
    marks = np.isin(rows[:, 0], (log.BEGIN, log.END, log.FOLIO))
    return [*np.flatnonzero(marks).tolist(), len(rows)]


def _walk(rows: np.ndarray, edges: list[int]) -> list[Span]:
    """Spans from the rows that begin and end them."""
    done: list[Span] = []
    stack: list[Span] = []
    batch = 0
    for first, last in itertools.pairwise(edges):
        kind, what, n, _, _, _ = rows[first].tolist()
        level = FOLIO_LEVEL if kind == log.FOLIO else LEVEL[what]
        span = None
        if kind == log.BEGIN:
            name, cat = NAMES[what]
            span = Span(name.format(batch), cat, level, {"folios": n} if n else {})
            batch += what == log.BATCH
        elif kind == log.FOLIO:
            args = {"pfn": what, "pages": 1 << n}
            span = Span(f"folio {what:#x}", "folio", level, args)
            if stack and stack[-1].name == span.name:
                span = None  # the same folio's next step
                level += 1
        while stack and stack[-1].level >= level:
            stack.pop()
        if span is not None:
            (stack[-1].parts if stack else done).append(span)
            stack.append(span)
        if stack:
            stack[-1].add(first, last)
    return done


def _chunks(rows: np.ndarray, size: int, most: int) -> list[Span]:
    """Each list as spans of `size` folios, without batches and stages.

    More than `most` lists are one span together.
    """
    calls = np.flatnonzero((rows[:, 0] == log.BEGIN) & (rows[:, 1] == log.CALL))
    calls = calls[:1] if len(calls) > most else calls
    done = []
    for first, last in itertools.pairwise([*calls.tolist(), len(rows)]):
        name, cat = NAMES[log.CALL]
        call = Span(name, cat, 0, {"folios": int(rows[first, 2])})
        steps = np.flatnonzero(rows[first:last, 0] == log.FOLIO) + first
        cuts = [first, *steps[size::size].tolist(), last]
        for i, (a, b) in enumerate(itertools.pairwise(cuts)):
            title = f"folio steps {i * size} to {min((i + 1) * size, len(steps)) - 1}"
            part = Span(title, "batch", 1, {})
            part.add(int(a), int(b))
            call.parts.append(part)
        done.append(call)
    return done
