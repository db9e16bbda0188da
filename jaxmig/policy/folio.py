"""One attempt at one folio: the steps that serial and batched migration share.

`unmap_attempt` is migrate_folio_unmap(), `move_attempt` migrate_folio_move(), `undo` is
migrate_folio_undo_src() with migrate_folio_undo_dst().  Serial migration calls them one
after the other for each folio; batched migration calls the first for a whole batch.

Which tests a folio fails depends on its conditions, on the stage and on the release;
the order of the tests is the kernel's.
"""

import dataclasses
from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, log, pte, tlb, wall
from jaxmig.events import Events
from jaxmig.frame import FLAGS, REFCOUNT, RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc
from jaxmig.phases.copypage import copy_folio, free_folio, switch_folio
from jaxmig.phases.remap import remap_folio
from jaxmig.phases.rmap import Visit, rmap_walk, walked_pages
from jaxmig.phases.unmap import unmap_folio
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]
Flag = Bool[Array, ""]

# Results of an attempt; errno names as the kernel's.
SUCCESS, UNMAPPED, EAGAIN, FAILED, ENOMEM, EDEADLOCK, SLEEPS = range(7)
PIN_HELD: Final = cond.PIN_HELD
GUP_PIN_COUNTING_BIAS: Final = 1024
N_CONDITIONS: Final = len(cond.STATES)


@pytree
class Where:
    """The CPU that migrates and the node it migrates to."""

    cpu: Int32[Array, ""]
    node: Int32[Array, ""]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What an attempt may do.  Static but for `force`.

    name  serial, async (a batch), sync (one folio after the batch), posted (v4)
    """

    name: str
    batch_flush: bool  # TTU_BATCH_FLUSH
    sleeps: bool  # may sleep at all (mode and stage)


def stage(rules: Rules, name: str) -> Stage:
    """The stage of that name under these rules."""
    waits = rules.mode != "async" and name != "async"
    return Stage(name, name in ("async", "posted"), waits and not rules.memalloc)


def pages_of(flags: Index) -> Index:
    """Base pages of a folio."""
    return jnp.int32(1) << frame.order(flags)


def is_thp(rules: Rules, flags: Index) -> Flag:
    """What thp_* statistics count as a THP in this release."""
    order = frame.order(flags)
    large = order > 0 if rules.release.thp_counts_large else order == frame.PMD_ORDER
    return large & (frame.kind(flags) != frame.HUGETLB)


def conditions_of(m: Machine, head: Index) -> tuple[Int32[Array, " states"], Index]:
    """A folio's conditions, nothing if the machine has none."""
    c = m.conditions
    if c is None:
        return jnp.zeros(N_CONDITIONS, jnp.int32), jnp.int32(0)
    fields, marks = cond.unpack(wall.read(head, lambda: c[head]))
    return jnp.stack(fields), marks


def put_conditions(
    m: Machine, head: Index, row: Int32[Array, " states"], flags: Index
) -> Machine:
    """Write back what the tests wore out."""
    c = m.conditions
    if c is None:
        return m
    words = jnp.stack(cond.pack(row, flags))
    return dataclasses.replace(m, conditions=wall.put(c, head, words))


def exclusive(row: Int32[Array, " 4"]) -> Flag:
    """Whether FOLL_PIN makes this folio's entries refuse."""
    return frame.has(row[FLAGS], frame.EXCLUSIVE_MAP)


def pin_refs(row: Int32[Array, "*lanes 4"]) -> Int32[Array, "*lanes"]:
    """References of one pin (try_grab_folio()): a base page's counts for 1024."""
    small = frame.order(row[..., FLAGS]) == 0
    return jnp.where(small, GUP_PIN_COUNTING_BIAS, 1)


@dataclasses.dataclass(frozen=True)
class Tests:
    """Running result of a sequence of tests."""

    row: Int32[Array, " states"]
    going: Flag  # no test has failed yet
    rc: Index

    def test(self, state: int, may_sleep: Flag, endless: Flag, fail: int) -> "Tests":
        """Test `state`: sleep on it if allowed, fail with `fail` otherwise."""
        there = self.going & cond.blocks(self.row, state)
        slept = there & may_sleep
        row = cond.tested(self.row, state, self.going)
        row = cond.ended(row, state, slept)
        failed = there & ~may_sleep
        rc = jnp.where(failed, fail, self.rc)
        rc = jnp.where(slept & endless, SLEEPS, rc)
        return Tests(row, self.going & ~failed & ~(slept & endless), rc)

    def only(
        self, here: Flag, state: int, may_sleep: Flag, endless: Flag, fail: int
    ) -> "Tests":
        """Test `state` where `here` holds; elsewhere it is not looked at."""
        t = dataclasses.replace(self, going=self.going & here)
        t = t.test(state, may_sleep, endless, fail)
        return dataclasses.replace(t, going=jnp.where(here, t.going, self.going))


def unmap_tests(
    rules: Rules,
    st: Stage,
    row: Int32[Array, " states"],
    bits: Index,
    flags: Index,
    go: Flag,
    force: Flag,
    held: Flag,
) -> Tests:
    """Lock, writeback, missing mapping: the tests before the walk, in their order."""
    no = jnp.asarray(False)
    hugetlb = frame.kind(flags) == frame.HUGETLB
    may_sleep = force & st.sleeps
    if rules.mode != "sync":
        may_sleep &= ~hugetlb
    endless = (bits & cond.forever(cond.LOCKED)) != 0
    t = Tests(row, go, jnp.int32(UNMAPPED))
    if st.name == "posted":
        # Sleeping on a lock while others are held could deadlock: move those first.
        deadlock = go & cond.blocks(row, cond.LOCKED) & may_sleep & held
        t = t.test(cond.LOCKED, may_sleep & ~held, endless, EAGAIN)
        t = dataclasses.replace(t, rc=jnp.where(deadlock, EDEADLOCK, t.rc))
    else:
        t = t.test(cond.LOCKED, may_sleep, endless, EAGAIN)
    # Only SYNC waits for writeback; elsewhere the folio is given up at once.
    waits = rules.mode == "sync" and st.sleeps
    endless = (bits & cond.forever(cond.WRITEBACK)) != 0
    early = EAGAIN if waits else FAILED
    t = t.only(~hugetlb, cond.WRITEBACK, force & waits, endless, early)
    lru = frame.kind(flags) != frame.MOVABLE_OPS
    t = t.only(lru & ~hugetlb, cond.NO_MAPPING, no, no, EAGAIN)
    # A hugetlb folio without its mapping is being freed: -EBUSY.
    return t.only(hugetlb, cond.NO_MAPPING, no, no, FAILED)


def freed_under_us(
    rules: Rules, row: Int32[Array, "*lanes 4"], bits: Int32[Array, "*lanes"]
) -> Bool[Array, "*lanes"]:
    """Whether only the isolation holds the folio; a driver has references of its own."""
    freed = ((bits & cond.FREED) != 0) | (row[..., REFCOUNT] == 0)
    if rules.release.moves_freed_driver_pages:
        freed &= frame.kind(row[..., FLAGS]) != frame.MOVABLE_OPS
    return freed


def unmap_attempt(
    rules: Rules,
    st: Stage,
    m: Machine,
    ev: Events,
    head: Index,
    at: Where,
    force: Flag,
    held: Flag,
    live: Flag,
) -> tuple[Machine, Events, Index]:
    """migrate_folio_unmap() of the folio at `head`, if `live`.

    `force`: a sleeping stage may sleep on this pass.  `held`: other folios are locked
    (only the posted series asks).  Returns one of SUCCESS (freed under us), UNMAPPED
    (destination reserved), EAGAIN, FAILED, ENOMEM, EDEADLOCK, SLEEPS.
    """
    frow = wall.read(head, lambda: m.frame[head])
    flags = frow[FLAGS]
    row, bits = conditions_of(m, head)
    pages = pages_of(flags)
    freed = freed_under_us(rules, frow, bits)
    hugetlb = frame.kind(flags) == frame.HUGETLB
    # hugetlb folios come from a pool of their own; a target page is always there.
    need = jnp.where(hugetlb, 0, pages)
    short = (m.nfree[at.node] < need) | (
        (pages > 1) & cond.blocks(row, cond.NO_HUGE_DST)
    )
    row = cond.tested(row, cond.NO_HUGE_DST, live & ~freed & (pages > 1))
    go = live & ~freed & ~short
    ev = ev.note(log.FOLIO, head, frame.order(flags), log.UNMAP, when=live)
    ev = ev.note(log.ALLOC, head, pages, at.node, when=go)
    ev = ev.add(allocs=go, alloc_pages=jnp.where(go, pages, 0), tries=go)
    t = unmap_tests(rules, st, row, bits, flags, go, force, held)
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    walks = t.going & ~movable & (frow[RMAP] != NOWHERE)
    skips = walks & frame.on_stack(flags)
    stack = skips & cond.blocks(t.row, cond.TEMP_STACK)
    row = cond.tested(t.row, cond.TEMP_STACK, skips)
    walks &= ~stack
    pinned = walks & exclusive(frow)
    refuses = pinned & cond.blocks(row, cond.PINNED)
    unpin = pinned & ~refuses & ((bits & PIN_HELD) != 0)
    row = cond.tested(row, cond.PINNED, pinned)
    bits = jnp.where(unpin, bits & ~PIN_HELD, bits)
    m = put_conditions(m, head, row, bits)
    if m.conditions is not None:
        refs = frow[REFCOUNT] - jnp.where(unpin, pin_refs(frow), 0)
        rows = wall.put(m.frame, head, frow.at[REFCOUNT].set(refs))
        m = dataclasses.replace(m, frame=rows)
    rc = jnp.where(stack | refuses, EAGAIN, t.rc)
    rc = jnp.where(short & ~freed, ENOMEM, jnp.where(freed, SUCCESS, rc))
    taken = live & (rc == UNMAPPED)
    m, ev = unmap_folio(
        rules, m, ev, head, at.cpu, st.batch_flush, walks, refuses, taken
    )
    m = alloc.reserve(m, at.node, jnp.where(taken, need, 0))
    m = free_folio_now(m, head, live & freed)
    return m, ev, rc


def free_folio_now(m: Machine, head: Index, live: Flag) -> Machine:
    """A folio that only its isolation still held goes back to its node."""

    def free(m: Machine) -> Machine:
        row = wall.read(head, lambda: m.frame[head])
        pages = pages_of(row[FLAGS])
        m = zap(m, head, row, pages)
        hugetlb = frame.kind(row[FLAGS]) == frame.HUGETLB
        m = alloc.give(m, head, frame.order(row[FLAGS]), jnp.where(hugetlb, 0, pages))
        return free_folio(m, head, pages)

    return wall.when(live, free, m)


def zap(m: Machine, head: Index, row: Int32[Array, " 4"], pages: Index) -> Machine:
    """Empty the entries of a folio that its process let go."""

    def visit(m: Machine, carry: Index, at: Visit) -> tuple:
        yes = jnp.asarray(True)
        new = jnp.stack([jnp.int32(NOWHERE), pte.empty(at.bits)])
        m = dataclasses.replace(m, pte=wall.put(m.pte, at.entry, new))
        # Who let it go has flushed it; that is not this call's affair.
        m = tlb.broadcast(m, at.entry, pte.has(at.bits, pte.HUGE), yes)
        return m, carry, yes

    walked = walked_pages(m, row, pages)
    return rmap_walk(m, head, walked, visit, jnp.int32(0))[0]


def references(
    row: Int32[Array, " states"], bits: Index, frow: Array, looked: Flag, pins: Flag
) -> tuple[Int32[Array, " states"], Index, Index]:
    """Conditions and reference count after a look at the count, if there was one.

    The n-th look finds the references of a condition gone; `pins` among them.
    """
    extra = bits >> cond.EXTRA_SHIFT
    drop = jnp.where(looked & ~cond.blocks(row, cond.EXTRA_REF), extra, 0)
    pinned = looked & pins & ((bits & PIN_HELD) != 0)
    unpin = pinned & ~cond.blocks(row, cond.PINNED)
    row = cond.tested(row, cond.EXTRA_REF, looked)
    row = cond.tested(row, cond.PINNED, pinned)
    bits = bits - (drop << cond.EXTRA_SHIFT)
    bits = jnp.where(unpin, bits & ~PIN_HELD, bits)
    return row, bits, frow[REFCOUNT] - drop - jnp.where(unpin, pin_refs(frow), 0)


def move_tests(
    rules: Rules, st: Stage, row: Array, bits: Index, frow: Array, live: Flag
) -> tuple[Tests, Index]:
    """The tests of move_to_new_folio(); also the folio's references afterwards."""
    no = jnp.asarray(False)
    flags = frow[FLAGS]
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    driver = Tests(
        row, live & movable & ((bits & cond.RELEASED) == 0), jnp.int32(SUCCESS)
    )
    driver = driver.test(cond.DRIVER_ERROR, no, no, FAILED)
    driver = driver.test(cond.DRIVER_EAGAIN, no, no, EAGAIN)
    t = Tests(driver.row, live & ~movable, driver.rc)
    new_row, bits, refs = references(t.row, bits, frow, t.going, ~exclusive(frow))
    busy = t.going & (refs != frame.cache_refs(flags))
    t = Tests(new_row, t.going & ~busy, jnp.where(busy, EAGAIN, t.rc))
    hugetlb = frame.kind(flags) == frame.HUGETLB
    buffers = frame.has(flags, frame.PRIVATE) & ~hugetlb
    endless = (bits & cond.forever(cond.BUFFERS_LOCKED)) != 0
    sleeps = jnp.asarray(st.sleeps)
    t = t.only(buffers, cond.BUFFERS_LOCKED, sleeps, endless, EAGAIN)
    return t, jnp.stack([refs, bits])


def move_attempt(
    rules: Rules, st: Stage, m: Machine, ev: Events, head: Index, at: Where, live: Flag
) -> tuple[Machine, Events, Index]:
    """migrate_folio_move() of an unmapped folio, if `live`.

    On SUCCESS the destination is mapped and the source free; on anything else the folio
    stays as it was, unmapped and locked.
    """
    frow = wall.read(head, lambda: m.frame[head])
    flags = frow[FLAGS]
    row, bits = conditions_of(m, head)
    t, after = move_tests(rules, st, row, bits, frow, live)
    m = put_conditions(m, head, t.row, after[1])
    m = dataclasses.replace(
        m, frame=wall.put(m.frame, head, frow.at[REFCOUNT].set(after[0]))
    )
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    released = live & movable & ((bits & cond.RELEASED) != 0)
    moved = live & (t.rc == SUCCESS) & ~released
    pages = pages_of(flags)
    huge = frame.order(flags) == frame.PMD_ORDER
    ev = ev.note(log.FOLIO, head, frame.order(flags), log.MOVE, when=live)
    ev = ev.add(
        moves=live,
        folios_moved=moved,
        pages_copied=jnp.where(moved & ~huge, pages, 0),
        pages_copied_huge=jnp.where(moved & huge, pages, 0),
        lru_drains=moved & drains(rules, flags),
    )
    m, ev = wall.when(moved, lambda s: _to_dst(*s, head, flags, at), (m, ev))
    if m.conditions is not None:
        m = alloc.reserve(m, at.node, -jnp.where(released, pages, 0))
        m = free_folio_now(m, head, released)
    return m, ev, t.rc


def drains(rules: Rules, flags: Index) -> Flag:
    """lru_add_drain() after a move: for all that were mapped, since 6.6 if mlocked."""
    if rules.release.arm64_defers:
        return frame.has(flags, frame.MLOCKED)
    return frame.has(flags, frame.UNMAPPED)


def _to_dst(m: Machine, ev: Events, src: Index, flags: Index, at: Where) -> tuple:
    order = frame.order(flags)
    pages = pages_of(flags)
    hugetlb = frame.kind(flags) == frame.HUGETLB
    m, dst = alloc.take(m, at.node, order)
    ev = ev.note(log.COPY, src, dst, pages)
    m = copy_folio(m, src, dst, pages)
    m = switch_folio(m, src, dst, pages)
    m = _repoint_driver_pages(m, dst, flags)
    m, ev = remap_folio(m, ev, dst, jnp.asarray(True))
    m = alloc.give(m, src, order, jnp.where(hugetlb, 0, pages))
    return m, ev


def _repoint_driver_pages(m: Machine, dst: Index, flags: Index) -> Machine:
    # movable_ops pages skip the rmap: their driver points its users at the new page.
    if m.conditions is None:
        return m
    movable = frame.kind(flags) == frame.MOVABLE_OPS

    def visit(m: Machine, carry: Index, v: Visit) -> tuple:
        new = jnp.stack([dst + v.page, v.bits])
        m = dataclasses.replace(m, pte=wall.put(m.pte, v.entry, new))
        return tlb.broadcast(m, v.entry, ~movable, movable), carry, movable

    return rmap_walk(m, dst, movable.astype(jnp.int32), visit, jnp.int32(0))[0]


def undo(
    m: Machine, ev: Events, head: Index, at: Where, live: Flag
) -> tuple[Machine, Events]:
    """Map the source again, unlock it, give the reserved destination back."""
    flags = wall.read(head, lambda: m.frame[head, FLAGS])
    hugetlb = frame.kind(flags) == frame.HUGETLB
    ev = ev.note(log.FOLIO, head, frame.order(flags), log.UNDO, when=live)
    back = jnp.where(live & ~hugetlb, pages_of(flags), 0)
    m = alloc.reserve(m, at.node, -back)
    return remap_folio(m, ev, head, live)
