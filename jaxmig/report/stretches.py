"""A call in time: batch after batch, with what each took, sent, and kept waiting.

Made from the call's log; serial releases have no batches, so there it is folio after
folio.  Neighbours are taken together until there are few.
"""

import dataclasses
from typing import Final

import numpy as np

from jaxmig.report.timed import Traced
from jaxmig.state import log

MOST: Final = 64  # stretches of a call
BATCHES: Final = (log.BATCH, log.HUGETLBS)


@dataclasses.dataclass(frozen=True)
class TimeStretch:
    """Some neighbouring batches, or folios of a serial release.

    Attributes:
      first, last: their numbers from 1.
      begin: modelled ns since the call began.
      ns: modelled ns of each phase, in the order of PHASES.
      ipis: shootdown interrupts sent.
      stall: the longest time that a page was away, of those put back here; ns.
    """

    first: int
    last: int
    begin: int
    ns: tuple[int, ...]
    ipis: int
    stall: int


def stretches(traced: Traced) -> list[TimeStretch]:
    """A traced call's, at most MOST; none without a log."""
    rows = traced.rows
    if not len(rows):
        return []
    begins = _begins(rows)
    n = min(len(begins), MOST)
    firsts = [i * len(begins) // n for i in range(n)]
    # What is before the first batch belongs to it.
    cuts = [0, *(int(begins[i]) for i in firsts[1:])]
    spent = traced.spent()
    clock = spent.sum(axis=1).cumsum()
    sent = np.where(rows[:, 0] == log.CPUS, np.bitwise_count(rows[:, 2].view("u4")), 0)
    away = _away(rows, clock)
    made = []
    for i, (a, b) in enumerate(zip(cuts, [*cuts[1:], len(rows)], strict=True)):
        last = firsts[i + 1] if i + 1 < n else len(begins)
        made.append(
            TimeStretch(
                first=firsts[i] + 1,
                last=last,
                begin=int(clock[a - 1]) if a else 0,
                ns=tuple(spent[a:b].sum(axis=0).tolist()),
                ipis=int(sent[a:b].sum()),
                stall=int(away[a:b].max()),
            )
        )
    return made


def _begins(rows: np.ndarray) -> np.ndarray:
    """Where each batch begins, or, if there are none, each folio."""
    batch = (rows[:, 0] == log.BEGIN) & np.isin(rows[:, 1], BATCHES)
    if batch.any():
        return np.flatnonzero(batch)
    step = np.flatnonzero(rows[:, 0] == log.FOLIO)
    head = rows[step, 1]
    other = np.diff(head, prepend=-1) != 0
    return step[other] if len(step) else np.zeros(1, int)


def _away(rows: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """ns since the unmapping of a folio began, at the row that put an entry back; else 0.

    A serial release clears and flushes an entry before it writes the migration entry:
    the page is away from the first of these on.
    """
    step = np.where(rows[:, 0] == log.FOLIO, np.arange(len(rows)), 0)
    began = clock[np.maximum.accumulate(step)]
    at = np.flatnonzero(np.isin(rows[:, 0], (log.SET, log.REMOVE)))
    at = at[np.argsort(rows[at, 1], kind="stable")]
    kind, entry = rows[at, 0], rows[at, 1]
    pair = (kind[:-1] == log.SET) & (kind[1:] == log.REMOVE) & (entry[:-1] == entry[1:])
    away = np.zeros(len(rows), np.int64)
    away[at[1:][pair]] = clock[at[1:][pair]] - began[at[:-1][pair]]
    return away
