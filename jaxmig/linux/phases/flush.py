"""Phase 2: drop every translation that unmap made stale, and count flushes and IPIs.

For all batches of a window at once.  A batch sends one flush (a round) to the union of
the mm_cpumask() of the address spaces that it has in tlb_ubc; an entry whose flush is not
deferred has a round of its own.  No TLB is filled during a call, so that translations
can be dropped together, once the rounds are counted.

Source: should_defer_flush(), set_tlb_ubc_flush_pending(), try_to_unmap_flush() in
mm/rmap.c, arch_tlbbatch_flush() in arch/x86/mm/tlb.c, Linux 6.3.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import tlb
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.machine import NOWHERE, Cpus, Machine, Tlb
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
GROUP: Final = 64  # batches whose masks are combined at a time


@pytree
class CallFlushes:
    """Flushes of a call, pending and counted, from window to window."""

    open: Bool[Array, " mms"]  # pending in the batch that the next window continues
    # When the open batch last deferred the flush of a PTE, and last flushed a PMD, of the
    # address space that the migrating CPU runs (see `flush_requests._times`).
    deferred: Index
    caught_up: Index
    one: Int32[Array, " mms"]  # rounds of one entry
    whole: Int32[Array, " mms"]  # rounds of one PMD: CPUs flush everything
    rounds: Int32[Array, " mms"]  # batches that had something of an mm pending
    emptied: Bool[Array, " cpus"]  # CPUs that have flushed everything


@pytree
class FlushRequests:
    """Flushes that the folios of one window need, by address space."""

    pending: Bool[Array, " mms"]  # some flush is deferred to a batch's
    one: Int32[Array, " mms"]  # immediate flushes of one entry
    whole: Int32[Array, " mms"]  # and of one PMD


def no_flushes(cpus: Cpus) -> CallFlushes:
    """At the beginning of a call."""
    mms, n = cpus.mask.shape
    zero, none = jnp.zeros(mms, jnp.int32), jnp.int32(0)
    return CallFlushes(zero > 0, none, none, zero, zero, zero, jnp.zeros(n, bool))


def close(
    rules: Rules,
    ev: Events,
    flushes: CallFlushes,
    cpus: Cpus,
    cpu: Index,
    pending: Bool[Array, "batches mms"],
    current: Bool[Array, " batches"],
) -> tuple[Events, CallFlushes]:
    """One round for each batch that has something pending.

    Args:
      flushes: the call's so far.
      cpu: int32, the migrating CPU.
      pending: of each batch that ends, address spaces with deferred flushes.
      current: batches on whose flush the migrating CPU has nothing left to drop: it
        flushed everything after the last PTE that was deferred.
    Returns:
      Events and flushes with these rounds.
    Source: try_to_unmap_flush() in mm/rmap.c, arch_tlbbatch_flush() in
    arch/x86/mm/tlb.c.
    """
    # arm64 has sent its TLBIs at the unmap: this only waits for their end.
    (waits,) = lanes.totals(pending.any(axis=1) & rules.broadcasts)
    ev, pending = ev.add(flushes_batch=waits), pending & ~rules.broadcasts
    if cpus.mask.shape[0] == 1:
        some = pending[:, 0]
        n, up_to_date = lanes.totals(some, some & current)
        union = cpus.mask[0] & (n > 0)
        counts = (n, n[None], up_to_date)
        return _round(rules, ev, flushes, cpus, cpu, union[None], *counts)
    return _close_many(rules, ev, flushes, cpus, cpu, pending, current)


def _close_many(
    rules: Rules,
    ev: Events,
    flushes: CallFlushes,
    cpus: Cpus,
    cpu: Index,
    pending: Bool[Array, "batches mms"],
    current: Bool[Array, " batches"],
) -> tuple[Events, CallFlushes]:
    count = pending.shape[0]
    last = jnp.where(pending.any(axis=1), jnp.arange(1, count + 1), 0).max()

    def group(
        carry: tuple[Index, Events, CallFlushes],
    ) -> tuple[Index, Events, CallFlushes]:
        i, ev, flushes = carry
        start = jnp.minimum(i * GROUP, count - size)
        fresh = jnp.arange(size) + start >= i * GROUP
        some = jax.lax.dynamic_slice_in_dim(pending, start, size) & fresh[:, None]
        up_to_date = jax.lax.dynamic_slice_in_dim(current, start, size)
        union = (some[:, :, None] & cpus.mask[None]).any(axis=1)
        up_to_date = (union[:, cpu] & up_to_date).sum(dtype=jnp.int32)
        one, mms = jnp.int32(1), some.sum(axis=0, dtype=jnp.int32)
        ev, flushes = _round(rules, ev, flushes, cpus, cpu, union, one, mms, up_to_date)
        return i + 1, ev, flushes

    size = min(GROUP, count)
    start = (jnp.int32(0), ev, flushes)
    if count <= GROUP:
        return group(start)[1:]
    return jax.lax.while_loop(lambda c: c[0] * GROUP < last, group, start)[1:]


def _round(
    rules: Rules,
    ev: Events,
    flushes: CallFlushes,
    cpus: Cpus,
    cpu: Index,
    union: Bool[Array, "batches cpus"],
    times: Index,
    mms: Int32[Array, " mms"],
    current: Index,
) -> tuple[Events, CallFlushes]:
    """Count `times` identical rounds to each row of `union`.

    `current`: in how many of them the migrating CPU has nothing to drop.
    """
    myself = jnp.arange(union.shape[1]) == cpu
    rest = union & ~myself
    ipis = (rest & ~cpus.lazy).sum(axis=0, dtype=jnp.int32) * times
    requests = rest.any(axis=1).sum(dtype=jnp.int32) * times
    heard = (rest & ~cpus.lazy).any(axis=1).sum(dtype=jnp.int32) * times
    mine = union & myself & ~cpus.lazy
    local = mine.any(axis=1).sum(dtype=jnp.int32) * times
    local -= jnp.where(mine.any(), current, 0)
    # One INVLPGB reaches all CPUs without an interrupt or a counter.
    ipis, requests, heard, local = (
        jnp.where(rules.invlpgb, 0, n) for n in (ipis, requests, heard, local)
    )
    ev = ev.add(
        nr_tlb_remote_flush=requests,
        nr_tlb_local_flush_all=local,
        flushes_batch=requests,
        flushes_batch_lazy=requests - heard,
        ipis_batch=ipis.sum(),
    ).interrupt(ipis)
    return ev, dataclasses.replace(flushes, rounds=flushes.rounds + mms)


def count_immediate(
    rules: Rules, ev: Events, flushes: CallFlushes, cpus: Cpus, cpu: Index
) -> Events:
    """Count the immediate flushes of a call.

    Args:
      flushes: how many there are of each address space, and of rounds of batches.
      cpu: int32, the migrating CPU.
    Returns:
      Events with requests, IPIs and local flushes.
    Source: flush_tlb_mm_range(), flush_tlb_func() in arch/x86/mm/tlb.c.
    """
    one, whole = (
        jnp.where(rules.broadcasts, 0, n) for n in (flushes.one, flushes.whole)
    )
    sent = jnp.where(rules.broadcasts, flushes.one + flushes.whole, 0)
    ev = ev.add(flushes_immediate=sent.sum())
    myself = jnp.arange(cpus.mask.shape[1]) == cpu
    rest = cpus.mask & ~myself
    loaded = cpus.mm[None] == jnp.arange(one.shape[0])[:, None]
    hit = rest & ~cpus.lazy & loaded
    requested = rest.any(axis=1)
    mine = loaded[:, cpu] & ~cpus.lazy[cpu]
    broadcast = (loaded & ~cpus.lazy).sum(axis=1) >= tlb.GLOBAL_ASID_CPUS
    broadcast &= rules.invlpgb
    requested, hit = requested & ~broadcast, hit & ~broadcast[:, None]
    mine &= ~broadcast
    # A CPU that is behind in tlb_gen flushes everything once, if no earlier flush did.
    behind = mine & (cpus.gen[cpu] != cpus.mm_gen) & (flushes.rounds == 0) & (one > 0)
    behind &= whole == 0
    pages, all_of_it = jnp.where(mine, one - behind, 0), jnp.where(mine, whole, 0)

    def one_mm(i: Index, ev: Events) -> Events:
        # An address space at a time: the sum over them may pass 2^32.
        n = one[i] + whole[i]
        ipis = hit[i] * n
        asked = jnp.where(requested[i], n, 0)
        ev = ev.add(
            nr_tlb_remote_flush=asked,
            nr_tlb_local_flush_one=pages[i],
            nr_tlb_local_flush_all=behind[i] + all_of_it[i],
            flushes_immediate=asked,
            flushes_immediate_lazy=jnp.where(hit[i].any(), 0, asked),
        )
        return ev.interrupt(ipis).add_sum("ipis_immediate", ipis)

    return jax.lax.fori_loop(0, one.shape[0], one_mm, ev)


def _reached(
    rules: Rules, cpus: Cpus, moved: Bool[Array, " mms"]
) -> Bool[Array, " cpus"]:
    """CPUs that run an address space of which something is flushed; lazy ones not.

    A flush reaches those in its mm_cpumask(), an INVLPGB all.
    """
    loaded = jnp.clip(cpus.mm, 0, cpus.mask.shape[0] - 1)
    there = cpus.mask[loaded, jnp.arange(loaded.shape[0])] | rules.invlpgb
    return moved[loaded] & (cpus.mm != NOWHERE) & ~cpus.lazy & there


def _behind(cpus: Cpus) -> Bool[Array, " cpus"]:
    """CPUs whose tlb_gen was behind that of their mm before the call."""
    return cpus.gen != cpus.mm_gen[jnp.clip(cpus.mm, 0, cpus.mask.shape[0] - 1)]


def drop(rules: Rules, m: Machine, asked: FlushRequests, emptied: Array) -> Machine:
    """CPUs drop the translations that a window's unmap phase made stale.

    Args:
      asked: the window's flushes.
      emptied: bool[cpus], CPUs that flushed everything earlier in the call; their TLBs
        are still empty.
    Returns:
      The machine with its TLBs changed.
    Source: flush_tlb_func() in arch/x86/mm/tlb.c.
    """
    moved = asked.pending | (asked.one > 0) | (asked.whole > 0)
    full, single = _flushing(rules, m.cpus, asked, moved)
    m = tlb.drop_all_sizes(m, full & ~emptied)
    return _drop_stale(m, single & ~emptied, moved.any())


def _flushing(
    rules: Rules, cpus: Cpus, asked: FlushRequests, moved: Bool[Array, " mms"]
) -> tuple[Bool[Array, " cpus"], Bool[Array, " cpus"]]:
    """CPUs that flush everything, and those that flush single pages: on arm64 all."""
    reached = _reached(rules, cpus, moved)
    batch = (cpus.mask & asked.pending[:, None]).any(axis=0)
    batch |= asked.pending.any() & rules.invlpgb
    whole = _reached(rules, cpus, asked.whole > 0)
    full = reached & (batch | whole | _behind(cpus)) & ~rules.broadcasts
    return full, (reached & ~full) | rules.broadcasts


def emptied(rules: Rules, cpus: Cpus, asked: FlushRequests) -> Bool[Array, " cpus"]:
    """CPUs that flush everything in `drop`."""
    moved = asked.pending | (asked.one > 0) | (asked.whole > 0)
    return _flushing(rules, cpus, asked, moved)[0]


def catch_up(rules: Rules, m: Machine, flushes: CallFlushes, cpu: Index) -> Machine:
    """tlb_gen of address spaces and CPUs after all flushes of a call.

    Args:
      flushes: the call's.
      cpu: int32, the migrating CPU; if lazy and alone in the mask, it leaves the mm.
    Returns:
      The machine with its CPUs, and the TLB of that one, changed.
    Source: inc_mm_tlb_gen(), flush_tlb_func() in arch/x86/mm/tlb.c.
    """
    c = m.cpus
    mms = c.mask.shape[0]
    moved = (flushes.rounds > 0) | (flushes.one > 0) | (flushes.whole > 0)
    moved &= ~rules.broadcasts
    myself = jnp.arange(c.lazy.shape[0]) == cpu
    loaded = jnp.clip(c.mm, 0, mms - 1)
    reached = _reached(rules, c, moved)
    # Only whether a CPU is behind matters afterwards: one increment stands for many.
    gen = c.mm_gen + moved
    caught_up = jnp.where(reached, gen[loaded], c.gen)
    cpus = dataclasses.replace(c, mm_gen=gen, gen=caught_up)
    alone = ~(c.mask[loaded[cpu]] & ~myself).any()
    leaves = alone & c.lazy[cpu] & (c.mm[cpu] != NOWHERE) & moved[loaded[cpu]]
    cpus = tlb.leave(rules, cpus, cpu, leaves)
    return tlb.drop_all_sizes(dataclasses.replace(m, cpus=cpus), myself & leaves)


def _drop_stale(
    m: Machine, cpus: Bool[Array, " cpus"], some: Bool[Array, ""]
) -> Machine:
    """CPUs drop pages whose entry has changed, or whose frame is marked FLUSHED."""

    def stale(tlbs: Tlb) -> Bool[Array, "sets cpus*ways"]:
        there = jnp.clip(tlbs.pfn, 0, m.frame.shape[0] - 1)
        marked = frame.has(m.frame[there, frame.FLAGS], frame.FLUSHED)
        return (_differs(m, tlbs) | marked) & tlb.lanes_of(cpus, tlbs)[None]

    return _without(m, cpus.any() & some, stale)


def forget(m: Machine, some: Bool[Array, ""]) -> Machine:
    """Drop, on every CPU, translations that others than this call have flushed.

    A process that unmapped a page flushed it, and so did the driver of a moved page.
    `some`: whether there was any.
    """
    return _without(m, some, lambda t: _differs(m, t))


def _without(
    m: Machine,
    some: Bool[Array, ""],
    stale: Callable[[Tlb], Bool[Array, "sets cpus*ways"]],
) -> Machine:
    """The machine without translations that are `stale`, if there are `some`."""
    m = dataclasses.replace(m, tlb=_kept(m.tlb, some, stale))
    if m.geometry.orders == (0,):
        return m  # no leaf that the TLB for leaves could hold
    return dataclasses.replace(m, huge_tlb=_kept(m.huge_tlb, some, stale))


def _kept(
    tlb: Tlb,
    some: Bool[Array, ""],
    stale: Callable[[Tlb], Bool[Array, "sets cpus*ways"]],
) -> Tlb:
    # The page table is read in a conditional of its own: in the loop that writes, XLA would
    # copy the table.
    dead = xla.zero_unless(some, lambda: stale(tlb))
    entry = xla.skip_unless(some, lambda e: jnp.where(dead, NOWHERE, e), tlb.entry)
    return dataclasses.replace(tlb, entry=entry)


def _differs(m: Machine, tlb: Tlb) -> Bool[Array, "sets cpus*ways"]:
    """Translations that the page table does not give any more."""
    now = m.pte[jnp.where(tlb.entry == NOWHERE, 0, tlb.entry)]
    return (now[..., pte.PFN] != tlb.pfn) | ~pte.accessible(now[..., pte.BITS])
