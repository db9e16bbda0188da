"""A program and a migration on one timeline.

What a thread sees at a time follows from three times of the folio it wants: its entry
is cleared at the unmap time, stale translations die when the flush reaches its CPU, and
the remap time ends the wait.  So the lanes run on by themselves up to the next time
at which the migrator needs to know about them: when it sends a flush, it must know who
is awake; when the flush has reached everybody, the folios move.

Times are int32 ns from the end of the last flush; `Clock` holds what came before.

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
UNMAP, FLUSH, IDLE = range(3)  # what the migrator is doing
SECOND: Final = np.int32(10**9)
POISON: Final = np.uint32(0xDEADBEEF)


@pytree
class MigratorPrices:
    """Of the migrator, ns; see `timetable.Timetable`."""

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
    """Where the migration is."""

    phase: Number
    segment: Number  # of the trip
    trip: Number
    due: Number  # end of the phase
    limit: Lanes  # how far each lane may run
    told: Mask  # interrupted by the flush under way
    start_s: Number  # the time that is 0 on the lanes' clocks: seconds
    start_ns: Number  # and ns
    flushes: Number  # requests that a CPU could have got
    silent: Number  # of those, requests that interrupted nobody
    moved: Number  # folios, this block
    end_s: Number  # end of the last trip
    end_ns: Number


@pytree
class World:
    """Everything on the timeline."""

    access: Access
    window: MigrationWindow
    migrator: Migrator
