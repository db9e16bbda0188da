"""A program and a migration on one timeline.

What a thread finds depends on three times of the folio that it accesses: its entry is
cleared at the unmap time, stale translations are dropped when the flush reaches the CPU,
and a wait ends at the remap time.  So lanes run independently up to the next time at which
the migrator needs their state: when it sends a flush it must know which CPUs are awake;
when the flush has reached all CPUs, the folios move.

Times are int32 ns from the end of the last flush, which is at `start_s` and `start_ns` of
the `Migrator`.

Source: flush_tlb_func() and leave_mm() in arch/x86/mm/tlb.c, migrate_pages_batch() in
mm/migrate.c, Linux 6.3.
"""

from typing import Final

import numpy as np
from jaxtyping import Array, Int32

from jaxmig.state.pytree import pytree
from jaxmig.time.access import Access, MigrationWindow
from jaxmig.time.access.state import Lanes, Mask

Number = Int32[Array, ""]
UNMAP, FLUSH, IDLE = range(3)  # phases of the migrator
SECOND: Final = np.int32(10**9)
POISON: Final = np.uint32(0xDEADBEEF)


@pytree
class MigratorPrices:
    """Prices of the migrator's work, ns; see `timetable.Timetable`."""

    move_base: Number
    move_huge: Number
    engine_base: Number
    engine_huge: Number
    flush_first: Number
    flush_next: Number
    flush_lazy: Number
    broadcast: Number
    broadcast_all: Number
    handler_page: Number
    handler_full: Number
    call: Number
    first_copy: Number
    fits: Number  # folios
    beyond: Number
    beyond_huge: Number


@pytree
class DeviceTimetable:
    """The timetable on the device."""

    rows: Int32[Array, "room 5"]  # first, count, unit, kind, moved
    segments: Number  # rows of a trip
    trips: Number
    folios: Number  # that move
    pause: Number  # between two trips
    nodes: Int32[Array, " 2"]  # where the memory is first, and the other
    prices: MigratorPrices


@pytree
class Migrator:
    """The progress of the migration."""

    phase: Number
    segment: Number  # of the trip
    trip: Number
    due: Number  # end of the phase
    limit: Lanes  # how far each lane may run
    told: Mask  # interrupted by the flush under way
    start_s: Number  # the time at which the lanes' clocks are 0: seconds
    start_ns: Number  # and ns
    flushes: Number  # requests while some CPU held the mm
    silent: Number  # of those, requests that interrupted no CPU
    moved: Number  # folios, this block
    end_s: Number  # end of the last trip
    end_ns: Number


@pytree
class World:
    """The state of program and migration."""

    access: Access
    window: MigrationWindow
    migrator: Migrator
