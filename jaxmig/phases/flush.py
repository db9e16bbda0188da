"""Phase 2: drop every translation that unmap made stale, and count what that takes.

For all batches of a call at once.  A batch owes one round to the union of the masks of
the address spaces whose entries it cleared; an entry whose flush was not put off owes a
round of its own.  What has to be dropped is the same whichever batch asks, because
nobody refills a TLB in between: it is collected and done once at the end.

Source: should_defer_flush(), set_tlb_ubc_flush_pending(), try_to_unmap_flush() in
mm/rmap.c, arch_tlbbatch_flush() in arch/x86/mm/tlb.c, Linux 6.3.
"""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, pte, tlb, xla
from jaxmig.events import Events
from jaxmig.machine import NOWHERE, Cpus, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]
GROUP: Final = 64  # batches whose masks are united at a time


@pytree
class Owed:
    """What a call owes, while its chunks go by."""

    open: Bool[Array, " mms"]  # of the batch that the next chunk continues
    immediate: Int32[Array, " mms"]  # rounds of one entry
    rounds: Int32[Array, " mms"]  # batches that had something of an mm pending
    told: Bool[Array, " cpus"]  # CPUs that some batch's round reached


def nothing_owed(cpus: Cpus) -> Owed:
    """At the beginning of a call."""
    mms, n = cpus.mask.shape
    zero = jnp.zeros(mms, jnp.int32)
    return Owed(zero > 0, zero, zero, jnp.zeros(n, bool))


def deferrable(rules: Rules, cpus: Cpus, cpu: Index) -> Bool[Array, " mms"]:
    """should_defer_flush() of every address space."""
    if rules.defers is not None:
        return jnp.asarray(rules.defers(cpus, cpu), bool)
    if rules.broadcasts:
        put_off = jnp.asarray(rules.arm64_defers)
        return jnp.broadcast_to(put_off, cpus.mask.shape[:1])
    elsewhere = jnp.arange(cpus.mask.shape[1]) != cpu
    return (cpus.mask & elsewhere).any(axis=1)


def close(
    rules: Rules,
    ev: Events,
    owed: Owed,
    cpus: Cpus,
    cpu: Index,
    pending: Bool[Array, "batches mms"],
    live: Bool[Array, " batches"],
) -> tuple[Events, Owed]:
    """One round for each batch in `live` that has something pending."""
    n_cpus = cpus.mask.shape[1]
    pending = pending & live[:, None]
    if rules.broadcasts:
        rounds = pending.any(axis=1).sum(dtype=jnp.int32)
        told = jnp.broadcast_to(rounds > 0, (n_cpus,))
        ev = ev.add(flushes_batch=rounds)
        return ev, dataclasses.replace(owed, told=owed.told | told)
    if cpus.mask.shape[0] == 1:
        return _close_one_mm(rules, ev, owed, cpus, cpu, pending[:, 0])
    return _close_many(rules, ev, owed, cpus, cpu, pending)


def _close_one_mm(
    rules: Rules,
    ev: Events,
    owed: Owed,
    cpus: Cpus,
    cpu: Index,
    pending: Bool[Array, " batches"],
) -> tuple[Events, Owed]:
    (n,) = lanes.totals(pending)
    union = cpus.mask[0] & (n > 0)
    return _round(rules, ev, owed, cpus, cpu, union[None], n, n[None])


def _close_many(
    rules: Rules,
    ev: Events,
    owed: Owed,
    cpus: Cpus,
    cpu: Index,
    pending: Bool[Array, "batches mms"],
) -> tuple[Events, Owed]:
    count = pending.shape[0]
    last = jnp.where(pending.any(axis=1), jnp.arange(1, count + 1), 0).max()

    def group(c: tuple[Index, Events, Owed]) -> tuple[Index, Events, Owed]:
        i, ev, owed = c
        start = jnp.minimum(i * GROUP, count - size)
        fresh = jnp.arange(size) + start >= i * GROUP
        some = jax.lax.dynamic_slice_in_dim(pending, start, size) & fresh[:, None]
        union = (some[:, :, None] & cpus.mask[None]).any(axis=1)
        one = jnp.int32(1)
        ev, owed = _round(
            rules, ev, owed, cpus, cpu, union, one, some.sum(axis=0, dtype=jnp.int32)
        )
        return i + 1, ev, owed

    size = min(GROUP, count)
    start = (jnp.int32(0), ev, owed)
    return jax.lax.while_loop(lambda c: c[0] * GROUP < last, group, start)[1:]


def _round(
    rules: Rules,
    ev: Events,
    owed: Owed,
    cpus: Cpus,
    cpu: Index,
    union: Bool[Array, "batches cpus"],
    times: Index,
    mms: Int32[Array, " mms"],
) -> tuple[Events, Owed]:
    """Count `times` identical rounds to each row of `union`."""
    myself = jnp.arange(union.shape[1]) == cpu
    rest = union & ~myself
    ipis = (rest & ~cpus.lazy).sum(axis=0, dtype=jnp.int32) * times
    requests = rest.any(axis=1).sum(dtype=jnp.int32) * times
    heard = (rest & ~cpus.lazy).any(axis=1).sum(dtype=jnp.int32) * times
    local = (union & myself & ~cpus.lazy).any(axis=1).sum(dtype=jnp.int32) * times
    told = (union & ~cpus.lazy).any(axis=0)
    if rules.invlpgb:
        told = (union.any() & ~cpus.lazy) | told
        ipis, requests, heard, local = ipis * 0, requests * 0, heard * 0, local * 0
    ev = ev.add(
        nr_tlb_remote_flush=requests,
        nr_tlb_local_flush_all=local,
        flushes_batch=requests,
        flushes_batch_lazy=requests - heard,
        ipis_batch=ipis.sum(),
    ).interrupt(ipis)
    return ev, dataclasses.replace(
        owed, rounds=owed.rounds + mms, told=owed.told | told
    )


def count_immediate(
    rules: Rules, ev: Events, owed: Owed, cpus: Cpus, cpu: Index
) -> Events:
    """The rounds of one entry each, summed over the call."""
    n = owed.immediate
    if rules.broadcasts:
        return ev.add(flushes_immediate=n.sum())
    myself = jnp.arange(cpus.mask.shape[1]) == cpu
    rest = cpus.mask & ~myself
    loaded = cpus.mm[None] == jnp.arange(n.shape[0])[:, None]
    hit = rest & ~cpus.lazy & loaded
    requested = rest.any(axis=1)
    mine = loaded[:, cpu] & ~cpus.lazy[cpu]
    if rules.invlpgb:
        broadcast = (loaded & ~cpus.lazy).sum(axis=1) >= tlb.GLOBAL_ASID_CPUS
        requested, hit = requested & ~broadcast, hit & ~broadcast[:, None]
        mine &= ~broadcast
    # A CPU that is behind flushes everything once, unless a batch's round came first.
    behind = mine & (cpus.gen[cpu] != cpus.mm_gen) & (owed.rounds == 0) & (n > 0)
    mine = jnp.where(mine, n - behind, 0)

    def one_mm(i: Index, ev: Events) -> Events:
        # An address space at a time: the sum over them may pass 2^32.
        ipis = hit[i] * n[i]
        asked = jnp.where(requested[i], n[i], 0)
        ev = ev.add(
            nr_tlb_remote_flush=asked,
            nr_tlb_local_flush_one=mine[i],
            nr_tlb_local_flush_all=behind[i],
            flushes_immediate=asked,
            flushes_immediate_lazy=jnp.where(hit[i].any(), 0, asked),
        )
        return ev.interrupt(ipis).add_sum("ipis_immediate", ipis)

    return jax.lax.fori_loop(0, n.shape[0], one_mm, ev)


def catch_up(
    rules: Rules, m: Machine, owed: Owed, cpu: Index, dropped: bool = False
) -> Machine:
    """The TLBs and generations after all rounds of a call.

    `dropped`: the rounds of one entry have already emptied their slots.
    """
    c = m.cpus
    mms = c.mask.shape[0]
    if rules.broadcasts:
        return m if dropped else _drop_stale(m, jnp.ones_like(c.lazy), owed)
    moved = (owed.rounds > 0) | (owed.immediate > 0)
    myself = jnp.arange(c.lazy.shape[0]) == cpu
    loaded = jnp.clip(c.mm, 0, mms - 1)
    reached = moved[loaded] & (c.mm != NOWHERE) & ~c.lazy
    # A CPU that was behind before the call loses everything at its first round.
    late = reached & (c.gen != c.mm_gen[loaded])
    full = (owed.told & reached) | late
    # Generations only ever tell whether a CPU is behind: one step stands for many.
    gen = c.mm_gen + moved
    cpus = dataclasses.replace(
        c, mm_gen=gen, gen=jnp.where(reached, gen[loaded], c.gen)
    )
    alone = ~(c.mask[loaded[cpu]] & ~myself).any()
    leaves = alone & c.lazy[cpu] & (c.mm[cpu] != NOWHERE) & moved[loaded[cpu]]
    cpus = tlb.leave(rules.keeps_mask, cpus, cpu, leaves)
    full |= myself & leaves
    m = tlb.drop_all_sizes(dataclasses.replace(m, cpus=cpus), full)
    return m if dropped else _drop_stale(m, reached & ~full, owed)


def _drop_stale(m: Machine, told: Bool[Array, " cpus"], owed: Owed) -> Machine:
    """Drop page by page: what no longer agrees with the page table, or is marked."""

    def drop(m: Machine) -> Machine:
        there = jnp.clip(m.tlb.pfn, 0, m.frame.shape[0] - 1)
        marked = frame.has(m.frame[there, frame.FLAGS], frame.FLUSHED)
        dead = (_differs(m) | marked) & tlb.lanes_of(told, m.tlb)[None]
        return _without(m, dead)

    any_owed = (owed.immediate > 0).any() | owed.told.any()
    return xla.when(told.any() & any_owed, drop, m)


def forget(m: Machine, some: Bool[Array, ""]) -> Machine:
    """Drop, on every CPU, what others than this call have flushed, if there is any.

    A process that let a page go, and a driver whose page moved, flush by themselves.
    """
    return xla.when(some, lambda m: _without(m, _differs(m)), m)


def _differs(m: Machine) -> Bool[Array, "sets cpus*ways"]:
    """Translations that the page table does not give any more."""
    entry = m.tlb.entry
    now = m.pte[jnp.where(entry == NOWHERE, 0, entry)]
    return (now[..., pte.PFN] != m.tlb.pfn) | ~pte.accessible(now[..., pte.BITS])


def _without(m: Machine, dead: Bool[Array, "sets cpus*ways"]) -> Machine:
    kept = jnp.where(dead, NOWHERE, m.tlb.entry)
    return dataclasses.replace(m, tlb=dataclasses.replace(m.tlb, entry=kept))


def mark(m: Machine, src: Lanes, where: Mask) -> Machine:
    """Remember source frames whose entries were flushed and put back as they were."""

    def set_bit(m: Machine) -> Machine:
        row = xla.read(src, lambda: lanes.rows(m.frame, src))
        row = row.at[:, frame.FLAGS].set(row[:, frame.FLAGS] | frame.FLUSHED)
        return dataclasses.replace(m, frame=lanes.scatter(m.frame, src, where, row))

    return xla.when(lanes.some(where)[0], set_bit, m)


def unmark(m: Machine, any_marked: Bool[Array, ""]) -> Machine:
    """Forget what `mark` remembered."""

    def clear(m: Machine) -> Machine:
        keep = jnp.asarray([-1, -1, ~frame.FLUSHED, -1], jnp.int32)
        return dataclasses.replace(m, frame=m.frame & keep)

    return xla.when(any_marked, clear, m)
