"""migrate_pages() since 6.3 for base pages, all batches of a call at once.

With nobody else running, nothing couples two batches of base pages but free memory, and
that only when it ends.  So a call is data-parallel over its pages: the number of a
batch is a segment id, its flush a reduction over the segment.  A loop over chunks keeps
the arrays of one trip in the cache; where a chunk ends has nothing to do with batches.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
"""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, pte, wall
from jaxmig.events import Events
from jaxmig.frame import FLAGS, REFCOUNT, RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc, copypage, flush, lanes, remap, unmap
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.policy import fates
from jaxmig.policy.call import Call, Stats
from jaxmig.policy.folio import SLEEPS, Where, freed_under_us
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]
COPY_STEP: Final = 128  # pages: half a MiB, what stays in a second-level cache


@pytree
class Seen:
    """What the page tables say of each folio, before anything is done."""

    mm: Lanes  # address space of the first mapping
    maps: Lanes
    held: Lanes  # mappings that a TLB may hold
    counted: Lanes  # mappings whose flush this release puts off
    later: Lanes  # mappings that a TLB may hold once they were put back: no NUMA hints
    words: Int32[Array, "lanes 2"] | None  # of the only entry; None if some are shared


@pytree
class Plan:
    """What becomes of each folio of a chunk."""

    freed: Mask
    first: fates.Stage
    second: fates.Stage | None
    unmapped: Mask  # at some time
    moved: Mask
    released: Mask  # of those, by their driver: only to be freed


def look(
    rules: Rules, m: Machine, src: Lanes, put_off: Bool[Array, " mms"]
) -> tuple[Int32[Array, "lanes 4"], Seen]:
    """Rows and mappings of the folios."""
    row = wall.read(src, lambda: lanes.rows(m.frame, src))
    first = jnp.where(src == NOWHERE, NOWHERE, _chain(m, row))
    zero = jnp.zeros_like(first)

    def step(c: tuple) -> tuple:
        seen, entry = c
        here = entry != NOWHERE
        old, following = wall.read(entry, lambda: lanes.entry_of(m, entry))
        bits = old[:, pte.BITS]
        held = here & pte.accessible(bits)
        counted = held if rules.release.checks_pte_accessible else here
        counted &= put_off[jnp.where(here, pte.mm_of(bits), 0)]
        first_mm = jnp.where(seen.maps == 0, pte.mm_of(bits), seen.mm)
        seen = Seen(
            first_mm,
            seen.maps + here,
            seen.held + held,
            seen.counted + counted,
            seen.later + (here & ~pte.has(bits, pte.VM_PROT_NONE)),
            None if m.geometry.shared else old,
        )
        return seen, following

    start = (Seen(zero, zero, zero, zero, zero, None), first)
    seen, _ = lanes.along_chains(m.geometry.shared, step, start)
    return row, seen


def _chain(m: Machine, row: Int32[Array, "lanes 4"]) -> Lanes:
    """First entries of the folios' chains; nobody walks those of a driver's pages."""
    if m.conditions is None:
        return row[:, RMAP]
    movable = frame.kind(row[:, FLAGS]) == frame.MOVABLE_OPS
    return jnp.where(movable, NOWHERE, row[:, RMAP])


def plan(
    rules: Rules, m: Machine, src: Lanes, row: Int32[Array, "lanes 4"], seen: Seen
) -> tuple[Plan, fates.Folios]:
    """Fates of the folios over all stages and passes."""
    there = src != NOWHERE
    left, marks = seen_conditions(m, src, row)
    freed = there & freed_under_us(rules, row, marks)
    f = fates.Folios(row, seen.maps, left, marks, there & ~freed)
    if not rules.release.async_first or rules.mode == "async":
        a = fates.stage(rules, f, fates.ALL_PASSES, False, f.live)
        return Plan(freed, a, None, a.unmapped, a.moved, _released(f, a.moved)), f
    a = fates.stage(rules, f, fates.ASYNC_PASSES, False, f.live)
    after = _after(f, a)
    todo = f.live & ~a.moved
    y = fates.stage(rules, after, fates.SYNC_PASSES, not rules.memalloc, todo)
    unmapped, moved = a.unmapped | y.unmapped, a.moved | y.moved
    return Plan(freed, a, y, unmapped, moved, _released(f, moved)), f


def _released(f: fates.Folios, moved: Mask) -> Mask:
    return moved & f.movable & ((f.marks & cond.RELEASED) != 0)


def seen_conditions(
    m: Machine, src: Lanes, row: Int32[Array, "lanes 4"]
) -> tuple[fates.States, Lanes]:
    """Conditions of the folios with these rows, nothing if the machine has none."""
    c = m.conditions
    if c is None:
        none = jnp.zeros(src.shape, jnp.int32)
        return (none,) * len(cond.STATES), none
    # Most folios have none: theirs are not fetched from memory.
    some = frame.has(row[:, FLAGS], frame.CONDITIONED)
    at = jnp.where(some, src, NOWHERE)
    rows = wall.read(at, lambda: lanes.rows(c, at))
    return cond.unpack(jnp.where(some[:, None], rows, 0))


def _gone(f: fates.Folios, s: fates.Stage) -> Lanes:
    """References that a stage found gone."""
    extra = f.marks >> cond.EXTRA_SHIFT
    pin = fates.pin_refs(f.row)
    return jnp.where(s.extra_gone, extra, 0) + jnp.where(s.pin_gone, pin, 0)


def _marks(f: fates.Folios, s: fates.Stage) -> Lanes:
    low = (1 << cond.EXTRA_SHIFT) - 1
    marks = jnp.where(s.extra_gone, f.marks & low, f.marks)
    return jnp.where(s.pin_gone, marks & ~cond.PIN_HELD, marks)


def _after(f: fates.Folios, s: fates.Stage) -> fates.Folios:
    row = f.row.at[:, REFCOUNT].add(-_gone(f, s))
    return fates.Folios(row, f.maps, s.left, _marks(f, s), f.live)


def pendings(
    m: Machine,
    src: Lanes,
    row: Int32[Array, "lanes 4"],
    seen: Seen,
    where: Mask,
    local: Lanes,
    slots: int,
    put_off: Bool[Array, " mms"],
    rules: Rules,
) -> Bool[Array, "batches mms"]:
    """Which address spaces each batch of the chunk has something pending of."""
    mms = put_off.shape[0]
    none = jnp.zeros((slots, mms), bool)
    if not m.geometry.shared:
        owes = where & (seen.counted > 0)
        return none.at[jnp.where(owes, local, slots), seen.mm].set(True, mode="drop")

    def step(c: tuple) -> tuple:
        pending, entry = c
        old, following = wall.read(entry, lambda: lanes.entry_of(m, entry))
        bits = old[:, pte.BITS]
        mm = jnp.where(entry == NOWHERE, 0, pte.mm_of(bits))
        counted = pte.accessible(bits) | (not rules.release.checks_pte_accessible)
        owes = (entry != NOWHERE) & counted & put_off[mm]
        at = jnp.where(owes, local, slots)
        return pending.at[at, mm].set(True, mode="drop"), following

    first = jnp.where(where, _chain(m, row), NOWHERE)
    return lanes.along_chains(True, step, (none, first))[0]


def immediates(
    m: Machine,
    row: Int32[Array, "lanes 4"],
    seen: Seen,
    p: Plan,
    put_off: Bool[Array, " mms"],
) -> Int32[Array, " mms"]:
    """Rounds of one entry each, by address space."""
    mms = put_off.shape[0]
    a, y = p.first, p.second
    times_a = a.unmapped + a.pin_tries
    times_y = 0 if y is None else y.unmapped + y.pin_tries
    none = jnp.zeros(mms, jnp.int32)
    if not m.geometry.shared:
        n = jnp.where(put_off[seen.mm], 0, times_a) * seen.held
        late = jnp.where(a.unmapped, seen.later, seen.held)
        return none.at[seen.mm].add(n + times_y * late)

    def step(c: tuple) -> tuple:
        total, entry = c
        old, following = wall.read(entry, lambda: lanes.entry_of(m, entry))
        bits = old[:, pte.BITS]
        mm = jnp.where(entry == NOWHERE, 0, pte.mm_of(bits))
        held = pte.accessible(bits)
        later = jnp.where(a.unmapped, ~pte.has(bits, pte.VM_PROT_NONE), held)
        n = jnp.where(put_off[mm], 0, times_a) * held + times_y * later
        return total.at[mm].add(jnp.where(entry != NOWHERE, n, 0)), following

    some = p.unmapped | ((times_a + times_y) > 0)
    first = jnp.where(some, _chain(m, row), NOWHERE)
    return lanes.along_chains(True, step, (none, first))[0]


def book(
    ev: Events,
    stats: Stats,
    seen: Seen,
    p: Plan,
    drained: Mask,
    live: Mask,
) -> tuple[Events, Stats]:
    """Count what a chunk did (all sums are below 2^32: a chunk is small)."""
    a, y = p.first, p.second
    total = lambda x: x.sum(dtype=jnp.int32)  # noqa: E731
    failed = live & ~p.moved
    both = lambda name: getattr(a, name) + (0 if y is None else getattr(y, name))  # noqa: E731
    walks = a.unmapped.astype(jnp.int32) + (0 if y is None else y.unmapped)
    cleared = total(seen.maps * walks + both("pin_tries"))
    late = (a.unmapped + a.pin_tries) * seen.counted
    tries = total(both("tries"))
    ev = ev.add(
        pgmigrate_success=total(p.moved) + total(p.freed),
        allocs=tries,
        alloc_pages=tries,
        tries=tries,
        ptes_cleared=cleared,
        ptes_deferred=total(late),
        moves=total(both("looks")),
        folios_moved=total(p.moved & ~p.released),
        pages_copied=total(p.moved & ~p.released),
        ptes_set=total(seen.maps * walks),
        lru_drains=total(p.moved & drained),
    )
    n = total(failed)
    return ev, stats.add(failed=n, failed_pages=n)


@pytree
class Carry:
    """What one chunk hands to the next."""

    k: Call
    owed: Owed
    marked: Bool[Array, ""]
    flushed: Bool[Array, ""]  # by others: what was let go, what drivers moved


def chunk_of(size: int, chunk: int) -> int:
    """Lanes a trip: no more than the list has room for."""
    return min(chunk, size)


def migrate_chunk(
    rules: Rules, c: Carry, i: Index, at: Where, limit: Index, safe: Index, width: int
) -> Carry:
    """Pages i * width ... of the list, as far as they are below `safe`."""
    k, owed = c.k, c.owed
    m, cpus = k.m, k.m.cpus
    start = i * width
    folios = k.todo.folios
    # The last slice of a list that chunks do not fill begins earlier: slices clamp.
    first = jnp.minimum(start, folios.shape[0] - width)
    index = first + jnp.arange(width, dtype=jnp.int32)
    src = wall.read(i, lambda: jax.lax.dynamic_slice_in_dim(folios, first, width))
    src = jnp.where((index >= start) & (index < safe), src, NOWHERE)
    put_off = flush.deferrable(rules, cpus, at.cpu)
    row, seen = look(rules, m, src, put_off)
    p, f = plan(rules, m, src, row, seen)
    # Rounds owed, batch by batch; the last batch of the chunk may go on in the next.
    base = start // limit
    local = index // limit - base
    owes = p.first.unmapped | (p.first.pin_tries > 0)
    slots = width + 1
    pending = pendings(m, src, row, seen, owes, local, slots, put_off, rules)
    pending = pending.at[0].set(pending[0] | owed.open)
    end = jnp.minimum(start + width, safe)
    whole = end // limit - base
    closed = jnp.arange(slots) < whole
    more = immediates(m, row, seen, p, put_off)
    owed = dataclasses.replace(
        owed,
        open=jnp.where(whole < slots, pending[jnp.minimum(whole, slots - 1)], False),
        immediate=owed.immediate + more,
    )
    ev, owed = flush.close(rules, k.ev, owed, cpus, at.cpu, pending, closed)
    live = f.live
    put_off_lane = put_off[seen.mm]
    mlocked = frame.has(row[:, FLAGS], frame.MLOCKED)
    drained = mlocked if rules.release.arm64_defers else seen.maps > 0
    ev, stats = book(ev, k.stats, seen, p, drained, live)
    # The page tables have been read already: unmap must not overtake that.
    first = row[:, RMAP]
    for looked in (seen.mm, more, pending[0].astype(jnp.int32)):
        first = wall.after(first, looked)
    known = Known(row.at[:, RMAP].set(first), seen.words)
    m = apply(m, src, known, p, f, at)
    again = (
        live
        & ~p.moved
        & p.unmapped
        & ~f.movable
        & ((~put_off_lane) | _second_unmapped(p))
    )
    m = flush.mark(m, src, again)
    asleep = p.first.asleep if p.second is None else p.first.asleep | p.second.asleep
    k = k.set(
        m=m,
        ev=ev,
        stats=stats,
        error=jnp.where(asleep.any(), SLEEPS, k.error),
        remaining=k.remaining + (live & ~p.moved).sum(dtype=jnp.int32),
    )
    flushed = (p.freed | (p.moved & f.movable)).any()
    return Carry(k, owed, c.marked | again.any(), c.flushed | flushed)


def _second_unmapped(p: Plan) -> Mask:
    return p.first.unmapped & False if p.second is None else p.second.unmapped


def apply(
    m: Machine,
    src: Lanes,
    known: Known,
    p: Plan,
    f: fates.Folios,
    at: Where,
) -> Machine:
    """The four phases on the arrays."""
    last = p.first if p.second is None else p.second
    m, gone = _wear_out(m, src, p, f, last)
    m, known = unmap.unmap(m, src, known, p.unmapped & ~f.movable, gone)
    moved, freed = p.moved & ~p.released, p.freed | p.released
    m, dst = alloc.take_many(m, at.node, moved)
    m = copypage.copy(m, src, dst, COPY_STEP)
    m = copypage.switch(m, src, dst, known)
    m = _follow_drivers(m, dst, moved & f.movable)
    m = remap.remap(m, jnp.where(moved, dst, src), p.unmapped, known)
    m = _free(m, src, freed)
    return alloc.give_many(m, wall.after(src, dst), moved | freed)


def _wear_out(
    m: Machine, src: Lanes, p: Plan, f: fates.Folios, last: fates.Stage
) -> tuple[Machine, Lanes]:
    """Conditions after all tests, and the references that were found gone."""
    c = m.conditions
    gone = _gone(f, p.first)
    if c is None:
        return m, gone * 0
    left, marks = p.first.left, _marks(f, p.first)
    if p.second is not None:
        after = _after(f, p.first)
        again = f.live & ~p.first.moved
        gone = gone + jnp.where(again, _gone(after, p.second), 0)
        left = tuple(
            jnp.where(again, b, a) for a, b in zip(left, last.left, strict=True)
        )
        marks = jnp.where(again, _marks(after, p.second), marks)
    some = f.live & frame.has(f.row[:, FLAGS], frame.CONDITIONED)
    words = jnp.stack(cond.pack(left, marks), axis=1)
    return dataclasses.replace(m, conditions=lanes.scatter(c, src, some, words)), gone


def _follow_drivers(m: Machine, dst: Lanes, where: Mask) -> Machine:
    """A driver points the users of its pages at the new ones; no rmap is walked."""
    if m.conditions is None:
        return m

    def follow(m: Machine) -> Machine:
        row = wall.read(dst, lambda: lanes.rows(m.frame, dst))
        entry = jnp.where(where, row[:, RMAP], NOWHERE)

        def point(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = wall.read(entry, lambda: lanes.entry_of(m, entry))
            new = jnp.stack([dst, old[:, pte.BITS]], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        return lanes.along_chains(m.geometry.shared, point, (m, entry))[0]

    return wall.when(where.any(), follow, m)


def _free(m: Machine, src: Lanes, freed: Mask) -> Machine:
    def free(m: Machine) -> Machine:
        row = wall.read(src, lambda: lanes.rows(m.frame, src))
        entry = jnp.where(freed, row[:, RMAP], NOWHERE)

        def zap(c: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
            m, entry = c
            old, following = wall.read(entry, lambda: lanes.entry_of(m, entry))
            nothing = jnp.full_like(entry, NOWHERE)
            new = jnp.stack([nothing, pte.empty(old[:, pte.BITS])], axis=1)
            here = entry != NOWHERE
            m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
            return m, following

        m, _ = lanes.along_chains(m.geometry.shared, zap, (m, entry))
        return copypage.free(m, src, freed)

    return wall.when(freed.any(), free, m)


def migrate_batched(
    rules: Rules, k: Call, at: Where, limit: Index, safe: Index, chunk: int
) -> Call:
    """Migrate the first `safe` folios of `k.todo`, a whole number of batches or all."""
    width = chunk_of(k.todo.folios.shape[0], chunk)
    no = jnp.asarray(False)
    c = Carry(k, flush.nothing_owed(k.m.cpus), no, no)

    def body(s: tuple[Index, Carry]) -> tuple[Index, Carry]:
        i, c = s
        return i + 1, migrate_chunk(rules, c, i, at, limit, safe, width)

    start = (jnp.int32(0), c)
    _, c = jax.lax.while_loop(lambda s: s[0] * width < safe, body, start)
    k, owed = c.k, c.owed
    live = jnp.ones(1, bool)
    ev, owed = flush.close(rules, k.ev, owed, k.m.cpus, at.cpu, owed.open[None], live)
    ev = flush.count_immediate(rules, ev, owed, k.m.cpus, at.cpu)
    m = flush.catch_up(rules, k.m, owed, at.cpu)
    if m.conditions is not None:
        m = flush.forget(m, c.flushed)
    # Only after the last look at the marks: else XLA would clear them in a copy.
    m = flush.unmark(m, c.marked & (m.tlb.entry[0, 0] >= 0))
    ev = ev.add(batches=-(-safe // limit))
    return k.set(m=m, ev=ev)
