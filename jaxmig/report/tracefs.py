"""The call as /sys/kernel/tracing/trace would show it: text, one event a line.

    migratepages-1000    [000] .....     1.000002: mm_migrate_pages_start: mode=...

Events, fields and their spelling are those of include/trace/events/migrate.h and tlb.h.
Time stamps are modelled: the sum of the prices of all earlier rows.  A handler on an
interrupted CPU has the time at which all CPUs have answered.  Entries have the format of
x86-64 with four-level page tables, on every architecture.  arm64 has no tlb_flush events,
and neither have broadcasts by INVLPGB.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.report.timed import PMD_PAGES, Traced, flush_of
from jaxmig.state import log, pte
from jaxmig.state.events import LOGGED

HEADER: Final = """\
# tracer: nop
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""
# By number, as in enum tlb_flush_reason.
REASONS: Final = (
    "flush on task switch",
    "remote shootdown",
    "local shootdown",
    "local mm shootdown",
    "remote ipi send",
    "remote wrong CPU",
)
REMOTE, LOCAL, LOCAL_MM, SEND, WRONG = range(1, 6)
MODES: Final = {
    "async": "MIGRATE_ASYNC",
    "sync_light": "MIGRATE_SYNC_LIGHT",
    "sync": "MIGRATE_SYNC",
}
PLAIN, NO_PREEMPT, IN_HANDLER = ".....", "...1.", "d.h1."
FIRST_NS: Final = 10**9
GAP_NS: Final = 10**6  # between two calls
# Software types of swap entries that stand for migration, behind 23 swap files.
SWP_TYPES: Final = {pte.READ: 24, pte.READ_EXCLUSIVE: 25, pte.WRITABLE: 26}
SWP_PFN_BITS: Final = 34
# The bits of a present entry; _PAGE_NX is always set, as these pages hold data.
PRESENT_BITS: Final = (
    (pte.WRITE, 1 << 1),
    (pte.YOUNG, 1 << 5),
    (pte.DIRTY, 1 << 6),
    (pte.HUGE, 1 << 7),
    (pte.UFFD_WP, 1 << 10),
    (pte.SOFT_DIRTY, 1 << 11),
)
USER, GLOBAL_AS_PROT_NONE, NX = 1 << 2, 1 << 8, 1 << 63


def text(traced: Sequence[Traced]) -> Iterator[str]:
    """The lines of the file, each with its end; calls follow one another in time."""
    yield HEADER
    now = FIRST_NS
    for t in traced:
        yield f"# {t.title}\n"
        yield from _CallLines(t, now).lines()
        now += t.cost.total + GAP_NS


def present(pfn: int, bits: int) -> int:
    """An entry that maps a frame."""
    word = pfn << 12 | USER | NX
    word |= GLOBAL_AS_PROT_NONE if bits & pte.PROT_NONE else 1
    return word | sum(there for here, there in PRESENT_BITS if bits & here)


def migration(pfn: int, bits: int) -> int:
    """A migration entry: a swap entry whose offset is a frame and two bits."""
    offset = pfn
    offset |= (1 << SWP_PFN_BITS) if bits & pte.YOUNG else 0
    offset |= (1 << SWP_PFN_BITS + 1) if bits & pte.DIRTY else 0
    # Inverted against L1TF: no speculative access to a cache line at a low address.
    word = (~offset << 14 & (1 << 64) - 1) >> 5
    word |= SWP_TYPES[bits & pte.KIND] << 59
    word |= 1 << 1 if bits & pte.SOFT_DIRTY else 0
    return word | (1 << 2 if bits & pte.UFFD_WP else 0)


class _CallLines:
    """The lines of one record, from time `start` on, ns."""

    def __init__(self, traced: Traced, start: int) -> None:
        self.t, self.rows = traced, traced.rows
        spent = traced.spent().sum(axis=1)
        self.at = start + np.cumsum(spent) - spent  # when each row begins
        self.end = start + int(spent.sum())
        kinds = self.rows[:, 0]
        # A flush ends where the first row after those of its CPUs begins.
        after = np.append(self.at[1:], self.end)
        self.done = np.where(kinds == log.COUNT, after, 0)
        self.flush = flush_of(self.rows)
        self.address = traced.places.address(self.rows[:, 1])
        shown = (log.BEGIN, log.SET, log.REMOVE, log.PIECES, log.FLUSH, log.CPUS)
        self.shown = np.flatnonzero(np.isin(kinds, (*shown, log.STATS)))

    def lines(self) -> Iterator[str]:
        calls = iter(self.t.calls)
        call, first, batch = None, 0, 0
        for i in self.shown.tolist():
            kind, *words = self.rows[i].tolist()
            if kind == log.BEGIN:
                if words[0] == log.CALL:
                    call, first = next(calls), i
                    yield self.line(i, PLAIN, "mm_migrate_pages_start", _how(call))
            elif kind == log.STATS:
                fields = f"{self.stats(first, i, words)} {_how(call)}"
                yield self.line(i, PLAIN, "mm_migrate_pages", fields)
            elif kind == log.FLUSH:
                batch = words[3]
                yield from self.sender(i, words)
            elif kind == log.CPUS:
                yield from self.handlers(i, words, bool(batch))
            else:
                yield from self.entries(i, kind, words)

    def line(
        self, i: int, flags: str, event: str, fields: str, cpu: int | None = None
    ) -> str:
        """One line of the file.

        Args:
          i: the row of the log, which gives the time.
          flags: latency flags, as tracefs prints them.
          fields: of the event, as text.
          cpu: the CPU that prints it; None for the migrating one.
        Returns:
          The line with its end.
        """
        ns = int(self.at[i])
        if cpu is None:
            cpu = self.t.cpu
        elif flags == IN_HANDLER:
            ns = self.answered(i)
        comm, pid = self.t.tasks[cpu]
        stamp = f"{ns // 10**9:5d}.{ns % 10**9 // 1000:06d}"
        return f"{comm:>16}-{pid:<7d} [{cpu:03d}] {flags} {stamp}: {event}: {fields}\n"

    def answered(self, i: int) -> int:
        """The end, ns, of the flush that row `i` belongs to."""
        while i < len(self.rows) and self.rows[i, 0] != log.COUNT:
            i += 1
        return int(self.done[i]) if i < len(self.rows) else self.end

    def stats(self, first: int, last: int, words: Sequence[int]) -> str:
        failed, thp_failed, thp_split, split, _ = words
        counts = self.rows[first:last]
        counts = counts[counts[:, 0] == log.COUNT]
        made = [_sum(counts, f"{n}_success") for n in ("pgmigrate", "thp_migration")]
        values = {
            "nr_succeeded": made[0],
            "nr_failed": failed,
            "nr_thp_succeeded": made[1],
            "nr_thp_failed": thp_failed,
            "nr_thp_split": thp_split,
        }
        if self.t.counts_splits:
            values["nr_split"] = split
        return " ".join(f"{name}={n}" for name, n in values.items())

    def sender(self, i: int, words: Sequence[int]) -> Iterator[str]:
        _, sent, own, batch, _ = words
        if sent != log.NONE:
            yield self.line(i, NO_PREEMPT, "tlb_flush", _flush(sent, SEND))
        if own != log.NONE:
            reason = LOCAL if batch else LOCAL_MM
            yield self.line(i, NO_PREEMPT, "tlb_flush", _flush(own, reason))

    def handlers(self, i: int, words: Sequence[int], batch: bool) -> Iterator[str]:
        first, ipis, full, one, _ = words
        for cpu in log.cpus_of(ipis, first):
            bit = 1 << cpu - first
            pages = log.ALL if full & bit else int(bool(one & bit))
            # A CPU that runs the flushed address space always has something to drop.
            reason = REMOTE if pages or batch else WRONG
            fields = _flush(pages, reason)
            yield self.line(i, IN_HANDLER, "tlb_flush", fields, cpu)

    def entries(self, i: int, kind: int, words: Sequence[int]) -> Iterator[str]:
        _, pfn, bits, order, _ = words
        address = int(self.address[i])
        if kind == log.PIECES:
            # A split huge entry is traced only where its pieces are mapped again.
            for k in range(min(order, PMD_PAGES)):
                word = present(pfn + k, bits & ~pte.HUGE)
                fields = f"addr={address + (k << 12):x}, pte={word:x} order=0"
                yield self.line(i, NO_PREEMPT, "remove_migration_pte", fields)
            return
        name = "set" if kind == log.SET else "remove"
        word = (migration if kind == log.SET else present)(pfn, bits)
        fields = f"addr={address:x}, pte={word:x} order={order}"
        yield self.line(i, NO_PREEMPT, f"{name}_migration_pte", fields)


def _how(call: Any) -> str:
    return f"mode={MODES[call.mode]} reason={call.reason}"


def _flush(pages: int, reason: int) -> str:
    return f"pages:{pages} reason:{REASONS[reason]} ({reason})"


def _sum(counts: np.ndarray, name: str) -> int:
    i = LOGGED.index(name)
    _, ones, many, amount = counts.T[:4].astype(np.int64)
    return int(((ones >> i & 1) + (many >> i & 1) * amount).sum())
