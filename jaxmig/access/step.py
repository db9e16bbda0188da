"""The next accesses of every lane below its limit, and what they leave behind.

A thread on a migration entry sleeps until its folio is mapped again: the remap time is
in the window, or, while the batch's flush is still to come, not known yet.

Source: migration_entry_wait_on_locked() in mm/filemap.c, Linux 6.3.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import xla
from jaxmig.access import lookup
from jaxmig.access.lookup import Outcome, Seen
from jaxmig.access.state import (
    BINS,
    DIRTY,
    MM_SHIFT,
    NEVER,
    PTE_SHIFT,
    YOUNG,
    Access,
    Costs,
    Cpu,
    Group,
    GroupMask,
    Lanes,
    Mask,
    Memory,
    Shape,
    Stream,
    Tally,
    Tlb,
    Window,
)
from jaxmig.machine import NOWHERE


def step(
    s: Shape,
    k: Costs,
    a: Access,
    w: Window,
    stream: Stream,
    limit: Lanes,
    goal: Int32[Array, ""],
    check: Int32[Array, ""],
) -> Access:
    """The next accesses of each lane below its `limit`.

    Args:
      goal: a thread that looks at the time, every `check` accesses, ends once it is
        past this.
    """
    on = ready(s, a, limit)
    folio, op, exist = lookup.fetch(s, a.cpu, stream)
    mm = op >> MM_SHIFT
    c = lookup.enter(s, a.cpu, w, mm[0], a.age, on)
    seen = lookup.look(s, a, c, w, folio)
    able = on & exist & (mm == mm[0])
    able &= jnp.arange(s.group)[:, None] < c.left
    pause = jnp.where(on & (mm[0] != a.cpu.mm), k.switch, 0)
    o = lookup.decide(s, k, c, seen, op, able, pause, limit)
    after = _advance(k, c, seen, folio[0], o, pause, goal, check)
    memory, wrong = _use(s, a.memory, folio, op, o)
    return Access(
        cpu=after,
        tlb=_fill(a.tlb, seen, folio, o, a.age),
        pte=_walked(a.pte, seen, folio, o),
        memory=memory,
        tally=_count(a.tally, c, o, pause, wrong, k.gen),
        age=a.age + 1,
    )


def ready(s: Shape, a: Access, limit: Lanes) -> Mask:
    """Lanes that may take their next step."""
    clock = a.cpu.clock
    on = clock < limit
    if not s.strict:
        return on
    return on & (clock == jnp.where(on, clock, NEVER).min())


def _fill(t: Tlb, seen: Seen, folio: Group, o: Outcome, age: Array) -> Tlb:
    """The cells used, and when."""
    at = jnp.where(o.done, seen.cell, NOWHERE)

    def put(old: Array, new: Array) -> Array:
        cells = old.reshape(-1)
        made = cells.at[at].set(new, mode="drop", unique_indices=True)
        return made.reshape(old.shape)

    ages = jnp.broadcast_to(age, folio.shape)
    return Tlb(put(t.tag, folio), put(t.age, ages), put(t.load, o.load))


def _advance(
    k: Costs,
    c: Cpu,
    seen: Seen,
    folio: Lanes,
    o: Outcome,
    pause: Lanes,
    goal: Int32[Array, ""],
    check: Int32[Array, ""],
) -> Cpu:
    """Clocks after the step."""
    tried = c.clock + pause + k.hit + k.walk + k.fault
    remap = seen.remap[0]
    sleeps = o.blocked & (remap > tried)
    unknown = sleeps & (remap == NEVER)
    waits = jnp.where(sleeps, jnp.where(unknown, NEVER, remap + k.wake), tried)
    spent = pause + jnp.where(o.done, o.cost, 0).sum(0)
    clock = jnp.where(o.some, c.clock + spent, c.clock)
    clock = jnp.where(o.blocked, waits, clock)
    clock = jnp.where(o.touched, tried, clock)
    n = o.done.sum(0, dtype=jnp.int32)
    left = c.left - n
    looks = o.some & (left == 0)
    ended = looks & (clock >= goal)
    again = o.blocked | o.touched
    since = jnp.where(again & (c.since == NEVER), c.clock, c.since)
    return dataclasses.replace(
        c,
        begin=jnp.where(o.some, clock, c.begin),
        clock=jnp.where(ended, NEVER, clock),
        pos=c.pos + n,
        left=jnp.where(looks, check, left),
        asleep=jnp.where(o.some | again, sleeps | ended, c.asleep),
        sleep=jnp.where(sleeps, tried, jnp.where(ended, clock, c.sleep)),
        wait=jnp.where(unknown, folio, c.wait),
        since=jnp.where(o.some, NEVER, since),
        stalled=(c.stalled | o.blocked) & ~o.some,
    )


def _walked(
    pte: Int32[Array, " entries"], seen: Seen, folio: Group, o: Outcome
) -> Int32[Array, " entries"]:
    """Young and dirty bits, and entries for pages touched first."""
    bits = jnp.where(o.store, YOUNG | DIRTY, YOUNG)
    new = jnp.where(seen.pte < 0, folio << PTE_SHIFT, seen.pte | bits)
    write = (o.walked & o.done).at[0].max(o.touched) & (new != seen.pte)
    at = jnp.where(write, folio, NOWHERE)
    # The largest of several lanes' words has all their bits: the frame is the same.
    return pte.at[at].max(new, mode="drop")


def _use(
    s: Shape, memory: Memory | None, folio: Group, op: Group, o: Outcome
) -> tuple[Memory | None, GroupMask]:
    """The loads or stores themselves; says where the frame is not the page's."""
    if memory is None:
        return None, o.done & False
    word = ((op & ((1 << MM_SHIFT) - 1)) >> 1) % s.words
    frame = jnp.where(o.done, o.frame, 0)
    owner = xla.read(frame, lambda: memory.owner[frame])
    at = jnp.where(o.done & o.store, o.frame, NOWHERE)
    words = memory.words.at[at, word].add(jnp.uint32(1), mode="drop")
    return dataclasses.replace(memory, words=words), o.done & (owner != folio)


def _count(
    t: Tally, c: Cpu, o: Outcome, pause: Lanes, wrong: GroupMask, gen: Array
) -> Tally:
    # What the program times: the load or store alone, faults and waits included.
    lost = jnp.where(c.since == NEVER, 0, c.clock - c.since)
    took = (o.cost - gen).at[0].add(lost + pause)
    kind = jnp.where(o.store, BINS, 0)
    at = jnp.where(o.done, kind + lookup.bin_of(took), NOWHERE)
    t = dataclasses.replace(
        t,
        walks=t.walks + (o.done & o.walked).sum(0, dtype=jnp.int32),
        latency=t.latency.at[at].add(1, mode="drop"),
    )
    # The rest is rare, and a trip in which it does not happen need not add zeros.
    waited, bad = o.some & c.stalled, wrong.sum(0, dtype=jnp.int32)
    rare = waited | o.touched | (bad > 0)
    count = partial(_count_rare, waited, lost, o.touched, bad)
    return xla.when(rare.any(), count, t)


def _count_rare(
    waited: Mask, lost: Lanes, touched: Mask, bad: Lanes, t: Tally
) -> Tally:
    """Waits that ended, first touches, and accesses that went wrong."""
    wait = jnp.where(waited, lost, 0)
    where = jnp.where(waited, lookup.bin_of(wait), NOWHERE)
    return dataclasses.replace(
        t,
        faults=t.faults + touched,
        stalls=t.stalls + waited,
        stall_ns=t.stall_ns + wait,
        stall_max=jnp.maximum(t.stall_max, wait),
        wrong=t.wrong + bad,
        waits=t.waits.at[where].add(1, mode="drop"),
    )
