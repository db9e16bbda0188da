"""memhog: one thread that writes all its memory from end to end, again and again.

One access stands for the 4 KiB of a page that memset() writes without interruption.

Source: memhog.c of numactl 2.0.19.
"""

import dataclasses
from typing import Final

import numpy as np

from jaxmig.programs.workloads.streams import Streams, fixed
from jaxmig.state.machine import PAGE_BYTES, PMD_PAGES
from jaxmig.time.access import Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, Timetable, Totals, costs_of, timetable

UNIT: Final = 10 << 20  # bytes for each dot
PAGE_NS: Final = 400  # memset() of 4 KiB at 10 GB/s (assumed)
BLOCK: Final = 1 << 14


@dataclasses.dataclass
class Hogged:
    """What one run did; times in ns."""

    table: Timetable
    totals: Totals
    ran_ns: int
    trip_ns: int


def dots(size: int) -> int:
    """Dots printed in one repeat; the last one may stand for less than UNIT bytes."""
    return -(-size // UNIT)


def run(
    size: int,
    repeats: int,
    profile: Profile,
    kernel: str | None,
    *,
    thp: bool = False,
    batch: int = 512,
    copy: str = "cpu",
) -> Hogged:
    """Passes over the memory, during which it migrates once to the other node.

    Args:
      size: bytes of the memory.
      repeats: passes; the first one touches the pages, before the migration.
      kernel: the release that migrates; None for no migration.
      thp: whether the memory is in THPs, but for its end.
      batch: base pages at which a batch is closed; 0: no limit.
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
    Returns:
      Counts and times of the passes after the first, ns.
    """
    pages = -(-size // PAGE_BYTES)
    huge = pages // PMD_PAGES if thp else 0
    folios = pages - huge * (PMD_PAGES - 1)
    table = timetable(
        profile, folios, huge, kernel=kernel or "6.3", batch=batch, copy=copy
    )
    (sets, ways), (huge_sets, huge_ways) = profile.tlb, profile.tlb_huge
    shape = Shape(1, folios, huge, sets, ways, huge_sets, huge_ways)
    ops = _writes(pages, huge)
    r = Run(
        shape,
        costs_of(profile, PAGE_NS),
        Streams([fixed(ops)], BLOCK, 1),
        table,
        touched=False,
    )
    # The first pass touches the pages; the migration starts after it.
    r.go(accesses=pages)
    r.again(int(kernel is not None))
    totals = r.go(accesses=max(repeats - 1, 1) * pages)
    ran_ns = int(r.ended_ns[0])
    totals = r.finish(totals)  # the program may end before the migration
    return Hogged(table, totals, ran_ns, totals.trips_ns)


def _writes(pages: int, huge: int) -> np.ndarray:
    """One pass over the memory: (folio, word, store) for each base page."""
    page, large = np.arange(pages), huge * PMD_PAGES
    folio = np.where(page < large, page // PMD_PAGES, page - large + huge)
    return np.stack([folio, np.zeros(pages, int), np.ones(pages, int)], 1)
