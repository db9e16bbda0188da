"""The kernel's migration selftest: one page moves there and back while threads read it.

Each call is a list of one folio, so that batching never helps.

Source: tools/testing/selftests/mm/migration.c, Linux 6.3.
"""

from typing import Final

import numpy as np

from jaxmig.programs.workloads.streams import Streams, fixed
from jaxmig.time.access import Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, Totals, costs_of, timetable

BLOCK: Final = 1 << 10
READ_NS: Final = 5  # the readers' loop (assumed)
CALL_NS: Final = 10_000  # entering and leaving move_pages(), with its drain (assumed)


def run(
    profile: Profile, kernel: str, moves: int, *, readers: int = 2, thp: bool = False
) -> Totals:
    """Calls of move_pages(MPOL_MF_MOVE_ALL) for one address of a mapping of 2 MiB.

    Args:
      kernel: the release that migrates.
      moves: calls.
      readers: threads that read the address all the time.
      thp: whether the mapping is a THP, which moves whole; else the other 511 pages stay.
    Returns:
      Counts of the readers and of the migration.
    """
    shape = Shape(readers, 1 if thp else 512, huge=int(thp), words=1)
    table = timetable(profile, 1, int(thp), kernel=kernel, pause=CALL_NS)
    reads = np.zeros((1, 3), np.int64)
    streams = Streams([fixed(reads) for _ in range(readers)], BLOCK, readers)
    costs = costs_of(profile, READ_NS)
    return Run(shape, costs, streams, table, trips=moves).go()
