"""The next accesses of every lane below its limit, and their effects on the state.

A thread on a migration entry sleeps until its folio is mapped again: the remap time is
in the window, or, while the batch's flush is still to come, not known yet.

Source: migration_entry_wait_on_locked() in mm/filemap.c, Linux 6.3.
"""

import dataclasses
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.state import xla
from jaxmig.state.machine import NOWHERE
from jaxmig.time.access import lookup
from jaxmig.time.access.lookup import AccessReads, StepOutcome
from jaxmig.time.access.state import (
    BINS,
    DIRTY,
    MM_SHIFT,
    NEVER,
    PTE_SHIFT,
    YOUNG,
    Access,
    BlockTally,
    Costs,
    Cpu,
    CpuTlbs,
    FolioMemory,
    Group,
    GroupMask,
    Lanes,
    Mask,
    MigrationWindow,
    Shape,
    Stream,
)


def step(
    shape: Shape,
    costs: Costs,
    access: Access,
    window: MigrationWindow,
    stream: Stream,
    limit: Lanes,
    goal: Int32[Array, ""],
    check: Int32[Array, ""],
) -> Access:
    """Do the next accesses of each lane below its limit.

    Args:
      window: the folios being migrated.
      stream: the accesses of all lanes.
      limit: time up to which each lane may begin accesses, ns.
      goal: a thread that reads a later time than this, ns, ends.
      check: accesses between two readings of the time.
    Returns:
      The state after the accesses.
    """
    on = ready(shape, access, limit)
    folio, op, exist = lookup.fetch(shape, access.cpu, stream)
    mm = op >> MM_SHIFT
    c = lookup.enter(shape, access.cpu, window, mm[0], access.age, on)
    seen = lookup.look(shape, access, c, window, folio)
    able = on & exist & (mm == mm[0])
    able &= jnp.arange(shape.group)[:, None] < c.left
    pause = jnp.where(on & (mm[0] != access.cpu.mm), costs.switch, 0)
    o = lookup.decide(shape, costs, c, seen, op, able, pause, limit)
    after = _advance(costs, c, seen, folio[0], o, pause, goal, check)
    memory, wrong = _use(shape, access.memory, folio, op, o)
    return Access(
        cpu=after,
        tlb=_fill(access.tlb, seen, folio, o, access.age),
        pte=_walked(access.pte, seen, folio, o),
        memory=memory,
        tally=_count(access.tally, c, o, pause, wrong, costs.gen),
        age=access.age + 1,
    )


def ready(shape: Shape, access: Access, limit: Lanes) -> Mask:
    """Lanes that may take their next step."""
    clock = access.cpu.clock
    on = clock < limit
    if not shape.strict:
        return on
    return on & (clock == jnp.where(on, clock, NEVER).min())


def _fill(
    tlbs: CpuTlbs, seen: AccessReads, folio: Group, outcome: StepOutcome, age: Array
) -> CpuTlbs:
    """Write the TLB cells that were used, with the step's age."""
    at = jnp.where(outcome.done, seen.cell, NOWHERE)

    def put(old: Array, new: Array) -> Array:
        cells = old.reshape(-1)
        made = cells.at[at].set(new, mode="drop", unique_indices=True)
        return made.reshape(old.shape)

    ages = jnp.broadcast_to(age, folio.shape)
    return CpuTlbs(
        put(tlbs.tag, folio), put(tlbs.age, ages), put(tlbs.load, outcome.load)
    )


def _advance(
    costs: Costs,
    cpu: Cpu,
    seen: AccessReads,
    folio: Lanes,
    outcome: StepOutcome,
    pause: Lanes,
    goal: Int32[Array, ""],
    check: Int32[Array, ""],
) -> Cpu:
    """The CPUs' clocks and waits after the step."""
    tried = cpu.clock + pause + costs.hit + costs.walk + costs.fault
    remap = seen.remap[0]
    sleeps = outcome.blocked & (remap > tried)
    unknown = sleeps & (remap == NEVER)
    waits = jnp.where(sleeps, jnp.where(unknown, NEVER, remap + costs.wake), tried)
    spent = pause + jnp.where(outcome.done, outcome.cost, 0).sum(0)
    clock = jnp.where(outcome.some, cpu.clock + spent, cpu.clock)
    clock = jnp.where(outcome.blocked, waits, clock)
    clock = jnp.where(outcome.touched, tried, clock)
    n = outcome.done.sum(0, dtype=jnp.int32)
    left = cpu.left - n
    looks = outcome.some & (left == 0)
    ended = looks & (clock >= goal)
    again = outcome.blocked | outcome.touched
    since = jnp.where(again & (cpu.since == NEVER), cpu.clock, cpu.since)
    return dataclasses.replace(
        cpu,
        begin=jnp.where(outcome.some, clock, cpu.begin),
        clock=jnp.where(ended, NEVER, clock),
        pos=cpu.pos + n,
        left=jnp.where(looks, check, left),
        asleep=jnp.where(outcome.some | again, sleeps | ended, cpu.asleep),
        sleep=jnp.where(sleeps, tried, jnp.where(ended, clock, cpu.sleep)),
        wait=jnp.where(unknown, folio, cpu.wait),
        since=jnp.where(outcome.some, NEVER, since),
        stalled=(cpu.stalled | outcome.blocked) & ~outcome.some,
    )


def _walked(
    pte: Int32[Array, " entries"], seen: AccessReads, folio: Group, outcome: StepOutcome
) -> Int32[Array, " entries"]:
    """Set young and dirty bits, and entries of pages that were touched first."""
    bits = jnp.where(outcome.store, YOUNG | DIRTY, YOUNG)
    new = jnp.where(seen.pte < 0, folio << PTE_SHIFT, seen.pte | bits)
    write = (outcome.walked & outcome.done).at[0].max(outcome.touched) & (
        new != seen.pte
    )
    at = jnp.where(write, folio, NOWHERE)
    # Words of one page have the same frame, so the largest has the bits of all.
    return pte.at[at].max(new, mode="drop")


def _use(
    shape: Shape,
    memory: FolioMemory | None,
    folio: Group,
    op: Group,
    outcome: StepOutcome,
) -> tuple[FolioMemory | None, GroupMask]:
    """Do the loads and stores; also returns where the frame is not the page's."""
    if memory is None:
        return None, outcome.done & False
    word = ((op & ((1 << MM_SHIFT) - 1)) >> 1) % shape.words
    frame = jnp.where(outcome.done, outcome.frame, 0)
    owner = xla.read(frame, lambda: memory.owner[frame])
    at = jnp.where(outcome.done & outcome.store, outcome.frame, NOWHERE)
    words = memory.words.at[at, word].add(jnp.uint32(1), mode="drop")
    return dataclasses.replace(memory, words=words), outcome.done & (owner != folio)


def _count(
    tally: BlockTally,
    cpu: Cpu,
    outcome: StepOutcome,
    pause: Lanes,
    wrong: GroupMask,
    gen: Array,
) -> BlockTally:
    # The program times the load or store alone, with its faults and waits.
    lost = jnp.where(cpu.since == NEVER, 0, cpu.clock - cpu.since)
    took = (outcome.cost - gen).at[0].add(lost + pause)
    kind = jnp.where(outcome.store, BINS, 0)
    at = jnp.where(outcome.done, kind + lookup.bin_of(took), NOWHERE)
    tally = dataclasses.replace(
        tally,
        walks=tally.walks + (outcome.done & outcome.walked).sum(0, dtype=jnp.int32),
        latency=tally.latency.at[at].add(1, mode="drop"),
    )
    # The rest is rare: most rounds of the loop can skip it.
    waited, bad = outcome.some & cpu.stalled, wrong.sum(0, dtype=jnp.int32)
    rare = waited | outcome.touched | (bad > 0)
    count = partial(_count_rare, waited, lost, outcome.touched, bad)
    return xla.when(rare.any(), count, tally)


def _count_rare(
    waited: Mask, lost: Lanes, touched: Mask, bad: Lanes, tally: BlockTally
) -> BlockTally:
    """Count waits that ended, first touches, and accesses to wrong frames."""
    wait = jnp.where(waited, lost, 0)
    where = jnp.where(waited, lookup.bin_of(wait), NOWHERE)
    return dataclasses.replace(
        tally,
        faults=tally.faults + touched,
        stalls=tally.stalls + waited,
        stall_ns=tally.stall_ns + wait,
        stall_max=jnp.maximum(tally.stall_max, wait),
        wrong=tally.wrong + bad,
        waits=tally.waits.at[where].add(1, mode="drop"),
    )
