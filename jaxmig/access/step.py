"""One access of every lane whose clock is below its limit, and what it leaves behind.

A thread on a migration entry sleeps until its folio is mapped again: the remap time is
in the window, or, while the batch's flush is still to come, not known yet.

Source: migration_entry_wait_on_locked() in mm/filemap.c, Linux 6.3.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import wall
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
    Lanes,
    Mask,
    Memory,
    Shape,
    Stream,
    Tally,
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
    """The next access of each lane below its `limit`.

    Args:
      goal: a thread that looks at the time, every `check` accesses, ends once it is
        past this.
    """
    on = ready(k, a, limit)
    seen = lookup.look(s, a, w, stream)
    mm = seen.op >> MM_SHIFT
    c = lookup.enter(s, a.cpu, w, mm, a.age, on)
    switched = on & (mm != a.cpu.mm)
    o = lookup.decide(s, k, a, seen, c, on)
    pause = jnp.where(switched, k.switch, 0)
    after = _advance(k, c, seen, o, pause, goal, check)
    lane = jnp.arange(s.cpus, dtype=jnp.int32)
    at = jnp.where(o.done, lane * s.rows + lookup.row_of(s, seen.folio), NOWHERE)
    memory, wrong = _use(s, a.memory, seen, o)
    return Access(
        cpu=after,
        tlb=a.tlb.at[at].set(o.row, mode="drop", unique_indices=True),
        pte=_walked(s, a.pte, seen, o),
        memory=memory,
        tally=_count(a.tally, c, after, o, wrong, k.gen),
        age=a.age + 1,
    )


def ready(k: Costs, a: Access, limit: Lanes) -> Mask:
    """Lanes that may take their next step."""
    clock = a.cpu.clock
    on = clock < limit
    least = jnp.where(on, clock, NEVER).min()
    return on & (clock - least < k.lookahead)


def _advance(
    k: Costs,
    c: Cpu,
    seen: Seen,
    o: Outcome,
    pause: Lanes,
    goal: Int32[Array, ""],
    check: Int32[Array, ""],
) -> Cpu:
    """Clocks after the step."""
    tried = c.clock + pause + k.hit + k.walk + k.fault
    sleeps = o.blocked & (seen.remap > tried)
    unknown = sleeps & (seen.remap == NEVER)
    waits = jnp.where(sleeps, jnp.where(unknown, NEVER, seen.remap + k.wake), tried)
    clock = jnp.where(o.done, c.clock + pause + o.cost, c.clock)
    clock = jnp.where(o.blocked, waits, clock)
    clock = jnp.where(o.touched, tried, clock)
    left = c.left - o.done
    looks = o.done & (left == 0)
    ended = looks & (clock >= goal)
    on = o.done | o.blocked | o.touched
    again = o.blocked | o.touched
    since = jnp.where(again & (c.since == NEVER), c.clock, c.since)
    return dataclasses.replace(
        c,
        begin=jnp.where(o.done, clock, c.begin),
        clock=jnp.where(ended, NEVER, clock),
        pos=c.pos + o.done,
        left=jnp.where(looks, check, left),
        asleep=jnp.where(on, sleeps | ended, c.asleep),
        sleep=jnp.where(sleeps, tried, jnp.where(ended, clock, c.sleep)),
        wait=jnp.where(unknown, seen.folio, c.wait),
        since=jnp.where(o.done, NEVER, since),
        stalled=(c.stalled | o.blocked) & ~o.done,
    )


def _walked(
    s: Shape, pte: Int32[Array, " entries"], seen: Seen, o: Outcome
) -> Int32[Array, " entries"]:
    """Young and dirty bits, and entries for pages touched first."""
    bits = jnp.where(o.store, YOUNG | DIRTY, YOUNG)
    new = jnp.where(seen.pte < 0, seen.folio << PTE_SHIFT, seen.pte | bits)
    write = (o.touched | (o.walked & o.done)) & (new != seen.pte)
    at = jnp.where(write, seen.folio, NOWHERE)
    # The largest of several lanes' words has all their bits: the frame is the same.
    return pte.at[at].max(new, mode="drop")


def _use(
    s: Shape, memory: Memory | None, seen: Seen, o: Outcome
) -> tuple[Memory | None, Mask]:
    """The load or store itself; says where the frame is not the page's."""
    if memory is None:
        return None, o.done & False
    word = ((seen.op & ((1 << MM_SHIFT) - 1)) >> 1) % s.words
    frame = jnp.where(o.done, o.frame, 0)
    owner = wall.read(frame, lambda: memory.owner[frame])
    at = jnp.where(o.done & o.store, o.frame, NOWHERE)
    words = memory.words.at[at, word].add(jnp.uint32(1), mode="drop")
    return dataclasses.replace(memory, words=words), o.done & (owner != seen.folio)


def _count(t: Tally, c: Cpu, after: Cpu, o: Outcome, wrong: Mask, gen: Array) -> Tally:
    # What the program times: the load or store alone, faults and waits included.
    lost = jnp.where(c.since == NEVER, 0, c.clock - c.since)
    took = after.begin - c.clock - gen + lost
    kind = jnp.where(o.store, BINS, 0)
    at = jnp.where(o.done, kind + lookup.bin_of(took), NOWHERE)
    waited = o.done & c.stalled
    wait = jnp.where(waited, lost, 0)
    where = jnp.where(waited, lookup.bin_of(wait), NOWHERE)
    return dataclasses.replace(
        t,
        hits=t.hits + (o.done & ~o.walked),
        walks=t.walks + (o.done & o.walked),
        faults=t.faults + o.touched,
        stalls=t.stalls + waited,
        stall_ns=t.stall_ns + wait,
        stall_max=jnp.maximum(t.stall_max, wait),
        wrong=t.wrong + wrong,
        latency=t.latency.at[at].add(1, mode="drop"),
        waits=t.waits.at[where].add(1, mode="drop"),
    )
