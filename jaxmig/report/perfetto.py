"""Calls as Chrome trace events, the JSON that ui.perfetto.dev opens.

    process  a kernel; its calls follow one another
    track    a CPU: on the migrating one slices inside slices (call, batch, stage,
             folio, and innermost the phases of the cost model), on the others the
             shootdowns that interrupt it

The phases of a call sum exactly to its record's `time_ns`.  Times are in microseconds,
as the format requires, with three decimals: whole nanoseconds.  Large calls show batches,
or chunks of folios, instead of folios, with one slice on each CPU for all interrupts of a
batch or chunk.

Source: Trace Event Format, complete ("X") and metadata ("M") events.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.report.spans import Outline, Span, outline
from jaxmig.report.timed import Traced, flush_of
from jaxmig.state import log
from jaxmig.time.cost import PHASES

MAX_FOLIOS: Final = 20_000  # shown one by one
MAX_SLICES: Final = 200_000  # of about 150 bytes each
Event = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TraceDocument:
    """The document, and whether some slices stand for several folios."""

    document: dict[str, Any]
    aggregated: bool


def trace(traced: Sequence[Traced]) -> TraceDocument:
    """All calls of all kernels as one document."""
    kernels = list(dict.fromkeys(t.record["kernel"] for t in traced))
    start = dict.fromkeys(kernels, 0)
    events: list[Event] = []
    share = MAX_SLICES // max(len(traced), 1)
    aggregated = False
    for t in traced:
        kernel = t.record["kernel"]
        made = _CallSlices(t, kernels.index(kernel) + 1, start[kernel], share)
        events += made.events()
        start[kernel] = made.end
        aggregated |= made.outline.aggregated
    shown = [*_names(traced, kernels), *events]
    about = {"displayTimeUnit": "ns", "otherData": {"time": "modelled by jaxmig"}}
    return TraceDocument({"traceEvents": shown} | about, aggregated)


def _names(traced: Sequence[Traced], kernels: list[str]) -> Iterator[Event]:
    """Metadata: names and order of processes and tracks."""
    for pid, kernel in enumerate(kernels, 1):
        mine = [t for t in traced if t.record["kernel"] == kernel]
        title = f"Linux {kernel} ({mine[0].record['policy']})"
        yield _meta("process_name", pid, 0, name=title)
        yield _meta("process_sort_index", pid, 0, sort_index=pid)
        migrating = {t.cpu for t in mine}
        for cpu in range(max(len(t.tasks) for t in mine)):
            role = " (migrates)" if cpu in migrating else ""
            yield _meta("thread_name", pid, cpu, name=f"CPU {cpu}{role}")
            yield _meta("thread_sort_index", pid, cpu, sort_index=cpu)


def _meta(kind: str, pid: int, tid: int, **args: Any) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


class _CallSlices:
    """The slices of one record; `end`, ns, is when the next record may begin."""

    def __init__(self, traced: Traced, pid: int, start: int, share: int) -> None:
        self.t, self.pid, self.start = traced, pid, start
        self.rows = traced.rows
        self.spent = traced.spent()
        self.outline: Outline = outline(self.rows, len(traced.tasks), share, MAX_FOLIOS)
        self.flush = flush_of(self.rows)
        self.flushed = self.spent[:, PHASES.index("flush")].cumsum()
        self.is_cpus = np.flatnonzero(self.rows[:, 0] == log.CPUS)
        self.free = dict.fromkeys(range(len(traced.tasks)), start)
        self.end = start + traced.cost.total

    def events(self) -> list[Event]:
        """All slices, parents before the slices inside them."""
        r = self.t.record
        args = {k: r[k] for k in ("ret", "errno", "vmstat", "time_ns", "batches")}
        made = [self.slice(self.t.title, "call", self.start, self.t.cost.total, args)]
        now = self.start
        for span in self.outline.spans:
            now = self.span(span, now, made)
        # A handler may still run when the call is over.
        self.end = max(self.end, *self.free.values())
        return made

    def span(self, one: Span, now: int, events: list[Event]) -> int:
        """Append the slices of a span from `now` on; returns its end, ns."""
        at = len(events)
        began = now
        for part in one.parts:
            if isinstance(part, Span):
                now = self.span(part, now, events)
            else:
                now = self.phases(part, now, events)
        if now > began or one.cat == "migrate_pages":
            events.insert(
                at, self.slice(one.name, one.cat, began, now - began, one.args)
            )
        return now

    def phases(
        self, ranges: list[tuple[int, int]], now: int, events: list[Event]
    ) -> int:
        """Append a slice for each phase of these rows together; returns its end, ns."""
        sums = sum(self.spent[a:b].sum(axis=0) for a, b in ranges)
        for phase, ns in zip(PHASES, np.asarray(sums).tolist(), strict=True):
            if phase == "flush":
                self.interrupts(ranges, now, events)
            if ns:
                events.append(self.slice(phase, "phase", now, ns, {}))
            now += ns
        return now

    def interrupts(
        self, ranges: list[tuple[int, int]], now: int, events: list[Event]
    ) -> None:
        """Append the handlers that the flushes of these rows run on other CPUs."""
        for a, b in ranges:
            base = self.flushed[a - 1] if a else 0
            lo, hi = np.searchsorted(self.is_cpus, (a, b))
            some = self.is_cpus[lo:hi]
            if self.outline.aggregated:
                self.together(some, now, events)
                continue
            for i in some.tolist():
                ns = self.t.handler_ns[int(self.rows[self.flush[i], 4])]
                for cpu in log.cpus_of(self.rows[i, 2], self.rows[i, 1]):
                    begin = now + int(self.flushed[i] - base)
                    args = {"pages": self.pages(i, cpu)}
                    self.handler("TLB shootdown", cpu, begin, ns, args, events)
            now += int(self.spent[a:b, PHASES.index("flush")].sum())

    def together(self, flushes: np.ndarray, now: int, events: list[Event]) -> None:
        """Append one slice on each CPU for the interrupts of many flushes."""
        _, first, ipis, _, _, _ = self.rows[flushes].T
        words = np.ascontiguousarray(ipis).astype("<u4").view(np.uint8).reshape(-1, 4)
        hit = np.unpackbits(words, axis=1, bitorder="little").astype(np.int64)
        price = np.asarray(self.t.handler_ns)[self.rows[self.flush[flushes], 4]]
        for word in np.unique(first).tolist():
            mine = first == word
            count, ns = hit[mine].sum(axis=0), price[mine] @ hit[mine]
            for k in np.flatnonzero(count).tolist():
                n = int(count[k])
                args = {"ipis": n}
                name = f"{n} TLB shootdowns"
                self.handler(name, word + k, now, float(ns[k]), args, events)

    def pages(self, i: int, cpu: int) -> int:
        """The pages that the handler drops, as tlb_flush prints them."""
        _, first, _, full, one, _ = self.rows[i].tolist()
        bit = 1 << cpu - first
        return log.ALL if full & bit else int(bool(one & bit))

    def handler(
        self, name: str, cpu: int, begin: int, ns: float, args: Any, events: list[Event]
    ) -> None:
        """Append an interrupt handler, which starts once its CPU is free.

        Args:
          begin: ns, the earliest start.
          ns: of the handler.
          args: shown with the slice.
          events: to which it is appended.
        """
        # A CPU takes one interrupt after the other.
        begin = max(begin, self.free[cpu])
        self.free[cpu] = begin + round(ns)
        events.append(self.slice(name, "ipi", begin, round(ns), args, cpu))

    def slice(
        self,
        name: str,
        cat: str,
        begin: int,
        ns: int,
        args: dict[str, Any],
        cpu: int | None = None,
    ) -> Event:
        """A complete event ("ph": "X").

        Args:
          cat: the category.
          begin: ns from the trace's start.
          ns: how long it takes.
          args: shown with the slice; none if empty.
          cpu: whose track; None for the migrating CPU's.
        Returns:
          The event, with times in microseconds.
        """
        made: Event = {
            "name": name,
            "cat": cat,
            "ph": "X",
            "ts": begin / 1000,
            "dur": ns / 1000,
            "pid": self.pid,
            "tid": self.t.cpu if cpu is None else cpu,
        }
        return made | {"args": args} if args else made
