"""Serial migration of base pages as lanes: what the loop of `serial_pages.py` comes to.

Pages of a serial call meet only in free memory, and through frames that one page gives
back and the next one takes.  Where memory is enough and nobody on the list lies on the
target node, each page's fate can be read off its row: it moves in the first pass, was
freed, or is tried in every pass and stays.

On a device that starts a kernel for each operation of a trip, the loop costs tens of
microseconds a page; there calls in which no page stays are worked here, all pages at
once.  The loop stays what a processor runs, and what decides the cases left.

Source: migrate_pages(), unmap_and_move() in mm/migrate.c, Linux 6.1 and 6.2.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, xla
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.machine import NOWHERE
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.policy import serial_pages
from jaxmig.policy.apply import apply
from jaxmig.policy.call import Call, List
from jaxmig.policy.folio import Where
from jaxmig.policy.look import Seen, look
from jaxmig.policy.plan import Listed, Outcome, Plan
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@pytree
class Fates:
    """What becomes of each page; padding is none of these."""

    moved: Mask
    freed: Mask
    kept: Mask  # somebody holds a reference: all passes try in vain


def fates(src: Lanes, row: Int32[Array, "lanes 4"], seen: Seen) -> Fates:
    """Fates of pages that get a destination whenever they ask for one."""
    there, refs = src != NOWHERE, row[:, REFCOUNT]
    free = refs - seen.maps == frame.cache_refs(row[:, FLAGS])
    live = there & (refs != 0)
    return Fates(live & free, there & (refs == 0), live & ~free)


def registers(f: Fates, seen: Seen, passes: int) -> Int32[Array, " registers"]:
    """What the trips of a call with these fates count (see `serial_pages`)."""
    tries = f.moved + f.kept * passes
    mapped = f.moved & (seen.maps > 0)
    sums = lanes.totals(f.kept, f.moved, f.freed, mapped, tries, tries * seen.maps)
    return jnp.stack([*sums, jnp.zeros_like(sums[0])])


def flushes(f: Fates, seen: Seen, mms: int, passes: int) -> Int32[Array, " mms"]:
    """Entries of each address space that are flushed."""
    times = (f.moved + f.kept * passes) * seen.held
    if mms == 1:
        return lanes.totals(times)[0][None]
    return jnp.zeros(mms, jnp.int32).at[seen.mm].add(times, mode="drop")


def migrate_serial(
    rules: Rules, k: Call, at: Where, passes: int = serial_pages.PASSES
) -> Call:
    """The whole call on `k.todo`, at once where that is the same, else in the loop."""
    size, folios = k.todo.size, k.todo.folios
    src = jnp.where(jnp.arange(folios.shape[0]) < size, folios, NOWHERE)
    mms = k.m.cpus.mask.shape[0]
    row, seen = look(rules, k.m, src, jnp.zeros(mms, bool))
    f = fates(src, row, seen)
    here = (src != NOWHERE) & (k.m.node_of(src) == at.node)
    hard = f.kept | here | (f.freed & (seen.maps > 0))
    at_once = ~lanes.some(hard)[0] & (size <= k.m.nfree[at.node])

    def all_pages(k: Call) -> Call:
        m = apply(k.m, src, Known(row, seen.words), *_plan(f), at)
        k = k.set(m=m, todo=List(folios, jnp.zeros_like(size)))
        reg = registers(f, seen, passes)
        told = flushes(f, seen, mms, passes)
        return serial_pages.settle(rules, k, reg, told, at, dropped=False)

    return serial_pages.migrate_serial_pages(
        rules, xla.when(at_once, all_pages, k), at, passes
    )


def _plan(f: Fates) -> tuple[Plan, Listed]:
    no: Bool[Array, " lanes"] = f.moved & False
    once = f.moved.astype(jnp.int32)
    first = Outcome(once, once * 0, f.moved, once, no)
    plan = Plan(f.freed, first, None, f.moved, f.moved, no, once * 0, None)
    return plan, Listed(f.moved, no)
