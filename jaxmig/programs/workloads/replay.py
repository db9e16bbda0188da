"""A recorded trace played on the modelled machine, with or without a migration.

Each lane is a CPU that does its accesses in the recorded order, with the same gap between
all of them; pauses and bursts of the recording are not kept.  All pages have been touched
before, and TLBs are cold.

Source: the access kernel of jaxmig.time.access; timeline as for pmbench.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from jaxmig.programs import stalls
from jaxmig.programs.traces.accesses import GAP_NS, MAX_GAP_NS
from jaxmig.programs.workloads.streams import Streams
from jaxmig.programs.workloads.trace import Trace
from jaxmig.time.access import Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, Timetable, Totals, costs_of, timetable

BLOCK: Final = 1 << 13
Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Replayed:
    """The results of one run; times in ns."""

    kernel: str | None  # None: nothing migrated
    table: Timetable
    totals: Totals
    ran_ns: np.ndarray  # by lane
    gap_ns: int

    @property
    def walks_per_access(self) -> float:
        """Page walks per access."""
        return float(self.totals.walks.sum() / max(self.totals.accesses.sum(), 1))

    def waits(self, baseline: "Replayed", walk_ns: int) -> stalls.Stalls:
        """How long accesses waited; refills are walks beyond those of `baseline`."""
        walks = baseline.walks_per_access
        return stalls.of_totals(self.totals, self.ran_ns, walks, walk_ns)


def gap_of(trace: Trace) -> int:
    """The trace's own mean gap, ns, or GAP_NS where it has no times."""
    gap = trace.gap_ns
    return GAP_NS if gap is None else min(max(gap, 0), MAX_GAP_NS)


def run(
    trace: Trace,
    profile: Profile,
    kernel: str | None = None,
    *,
    batch: int = 512,
    copy: str = "cpu",
    gap_ns: int | None = None,
    trips: int = 1,
    source: int = 0,
    cpus: Sequence[int] | None = None,
    tick: Tick = lambda accesses: None,
) -> Replayed:
    """Play all accesses once; the migration starts with them and is always finished.

    Args:
      kernel: the release that migrates; None for no migration.
      batch: base pages at which a batch is closed; 0: no limit.
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      gap_ns: between two accesses of a lane; None: see `gap_of`.
      trips: how often all pages go to the other node; there and back is two.
      source: the node where the pages are first, 0 or 1.
      cpus: the CPU of each lane, instead of the trace's own.
      tick: called with the accesses done, block by block.
    Returns:
      Counts of the accesses and of the migration.
    """
    gap = gap_of(trace) if gap_ns is None else gap_ns
    table = timetable(
        profile,
        trace.folios,
        trace.huge,
        kernel=kernel or "6.3",
        batch=batch,
        copy=copy,
    )
    (sets, ways), (huge_sets, huge_ways) = profile.tlb, profile.tlb_huge
    lanes = len(trace.lanes)
    shape = Shape(lanes, trace.folios, trace.huge, sets, ways, huge_sets, huge_ways)
    longest = max(trace.accesses)
    draws = [trace.draw(i) for i in range(lanes)]
    r = Run(
        shape,
        costs_of(profile, gap),
        # Short traces compile and refill small blocks; a power of two shares them.
        Streams(draws, min(BLOCK, 1 << (longest - 1).bit_length()), lanes),
        table,
        trips=trips if kernel else 0,
        nodes=_nodes(cpus or trace.cpus, profile, source),
    )
    totals = r.go(accesses=trace.accesses, tick=tick)
    ran_ns = r.ended_ns.copy()
    return Replayed(kernel, table, r.finish(totals), ran_ns, gap)


def _nodes(cpus: Sequence[int], profile: Profile, source: int) -> list[int]:
    """Each lane's node, 0 being the one where the pages are first.

    CPUs are spread evenly over two nodes in order.
    """
    all_cpus = max(profile.cpus, max(cpus) + 1)
    return [min(c * 2 // all_cpus, 1) ^ source for c in cpus]
