"""Which CPUs a flush reaches, and what each of them drops.

x86 keeps a generation per address space and, on each CPU, the generation it has caught
up with.  A CPU that is exactly one behind a one-page flush drops that page; one that is
further behind drops everything.  Lazy CPUs take no interrupt and catch up later.

Source: flush_tlb_mm_range(), flush_tlb_func(), arch_tlbbatch_flush() in
arch/x86/mm/tlb.c; arch/arm64/include/asm/tlbflush.h, Linux 6.3 and 6.6.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.rules import Flag, Rules
from jaxmig.state import log, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Cpus, Machine, Tlb
from jaxmig.state.pytree import pytree

CpuSet = Bool[Array, " cpus"]
Index = Int32[Array, ""]
CEILING = 33  # tlb_single_page_flush_ceiling: more pages are a flush of everything
GLOBAL_ASID_CPUS = 4  # an mm active on so many CPUs gets a global ASID (INVLPGB)


@pytree
class Cached:
    """What flushes change, while a call goes on.

    Nobody fills a TLB in between, so that a full flush is a mark on its CPU, and the
    arrays are cleared once, when the call ends.
    """

    cpus: Cpus
    entry: Int32[Array, "sets lanes"]  # of the TLB for base pages
    huge: Int32[Array, "sets lanes"]
    lost: CpuSet  # CPUs that have dropped everything


def empty_tlb(sets: int, ways: int, cpus: int) -> Tlb:
    """A TLB for every CPU that holds nothing."""
    shape = (sets, cpus * ways)
    # Four buffers of their own: one shared by two fields could not be donated.
    return Tlb(
        entry=xla.upload(np.full(shape, NOWHERE, np.int32)),
        pfn=xla.upload(np.full(shape, NOWHERE, np.int32)),
        bits=xla.upload(np.zeros(shape, np.int32)),
        age=xla.upload(np.zeros(shape, np.int32)),
    )


def cached(m: Machine) -> Cached:
    """The TLBs of a machine at the beginning of a call."""
    return Cached(m.cpus, m.tlb.entry, m.huge_tlb.entry, m.cpus.lazy & False)


def put_back(m: Machine, tlbs: Cached) -> Machine:
    """The machine with its TLBs as a call left them."""
    small = dataclasses.replace(m.tlb, entry=tlbs.entry)
    huge = dataclasses.replace(m.huge_tlb, entry=tlbs.huge)
    m = dataclasses.replace(m, tlb=small, huge_tlb=huge, cpus=tlbs.cpus)
    return drop_all_sizes(m, tlbs.lost)


def others(cpus: Cpus, mm: Index, cpu: Index) -> CpuSet:
    """mm_cpumask() without the CPU that migrates; lazy CPUs included."""
    return cpus.mask[mm] & (jnp.arange(cpus.mm.shape[0]) != cpu)


def should_defer(rules: Rules, cpus: Cpus, cpu: Index) -> Bool[Array, " mms"]:
    """should_defer_flush() of every address space: which flushes a batch may put off.

    On x86 that is worth it only if another CPU may hold the address space; a release may
    bring a rule of its own.
    """
    if rules.defers is not None:
        return jnp.asarray(rules.defers(cpus, cpu), bool)
    elsewhere = jnp.arange(cpus.mask.shape[1]) != cpu
    held = (cpus.mask & elsewhere).any(axis=1)
    return jnp.where(rules.broadcasts, rules.arm64_defers, held)


def defers_entry(rules: Rules, bits: Int32[Array, "*lanes"]) -> Bool[Array, "*lanes"]:
    """Whether an entry's flush can be put off at all; a PMD's never is.

    Before 6.5 also that of a PTE which no TLB can hold.
    """
    held = pte.accessible(bits) | ~rules.checks_pte_accessible
    return held & ~pte.has(bits, pte.HUGE)


def defer(rules: Rules, cpus: Cpus, mm: Index, when: Flag) -> Cpus:
    """set_tlb_ubc_flush_pending(): the generation moves, its CPUs wait for a flush."""
    here = (jnp.arange(cpus.mm_gen.shape[0]) == mm) & ~rules.broadcasts & when
    deferred = (cpus.mask[mm] | rules.broadcasts) & when
    return dataclasses.replace(
        cpus, mm_gen=cpus.mm_gen + here, pending=cpus.pending | deferred
    )


def strays(rules: Rules, cpus: Cpus) -> Bool[Array, "mms cpus"]:
    """CPUs that stand in a mask and run something else.

    The next flush of that address space interrupts them once and takes them off the mask
    (should_flush_tlb(), flush_tlb_func(): TLB_REMOTE_WRONG_CPU); flushes of a batch, which
    are of no address space, only interrupt them.
    """
    loaded = cpus.mm[None] == np.arange(cpus.mask.shape[0])[:, None]
    return cpus.mask & ~loaded & ~cpus.lazy & rules.keeps_mask


def has_strays(rules: Rules, cpus: Cpus) -> bool:
    """Whether there are any.  Host only: what is known of CPUs comes from the device."""
    names = ("mask", "lazy", "mm")
    host: dict[str, Any] = {name: np.asarray(getattr(cpus, name)) for name in names}
    return bool(strays(rules, dataclasses.replace(cpus, **host)).any())


def lanes_of(cpus: CpuSet, tlb: Tlb) -> Bool[Array, " cpus*ways"]:
    """One flag a CPU, spread over the slots of a set."""
    return _spread(cpus, tlb.entry)


def _spread(cpus: CpuSet, entries: Array) -> Bool[Array, " lanes"]:
    ways = entries.shape[1] // cpus.shape[0]
    return jnp.broadcast_to(cpus[:, None], (cpus.shape[0], ways)).reshape(-1)


def drop_page(entries: Array, entry: Index, told: CpuSet) -> Array:
    """INVLPG: the CPUs `told` drop one entry."""
    row = entry % entries.shape[0]
    tags = xla.read(row, lambda: entries[row])
    kept = jnp.where((tags == entry) & _spread(told, entries), NOWHERE, tags)
    return xla.put(entries, row, kept)


def drop_all(tlb: Tlb, told: CpuSet) -> Tlb:
    """A full flush of the loaded address space on the CPUs `told`."""
    dead = lanes_of(told, tlb)[None]
    return dataclasses.replace(tlb, entry=jnp.where(dead, NOWHERE, tlb.entry))


def drop_all_sizes(m: Machine, told: CpuSet) -> Machine:
    """Full flush of both sizes, as a rare event in a loop."""

    def both(tlbs: tuple[Tlb, Tlb]) -> tuple[Tlb, Tlb]:
        return drop_all(tlbs[0], told), drop_all(tlbs[1], told)

    tlb, huge = xla.when(told.any(), both, (m.tlb, m.huge_tlb))
    return dataclasses.replace(m, tlb=tlb, huge_tlb=huge)


def leave(rules: Rules, cpus: Cpus, cpu: Index, when: Bool[Array, ""]) -> Cpus:
    """A lazy CPU that is told to flush by itself stops using the address space."""
    here = (jnp.arange(cpus.lazy.shape[0]) == cpu) & when
    mask = jnp.where(rules.keeps_mask, cpus.mask, cpus.mask & ~here)
    mm = jnp.where(here, NOWHERE, cpus.mm)
    return dataclasses.replace(cpus, mask=mask, lazy=cpus.lazy & ~here, mm=mm)


def flush_entry(
    rules: Rules,
    tlbs: Cached,
    ev: Events,
    mm: Index,
    cpu: Index,
    pmd: Flag,
    one_op: Flag,
    run: Index,
    live: Flag,
) -> tuple[Cached, Events, CpuSet]:
    """ptep_clear_flush() of one entry, if `live`; also the CPUs that drop it alone.

    `one_op` is false for a THP's PMD: 512 pages are over the ceiling, so every
    CPU flushes everything; a hugetlb entry is one invalidation of its own stride.
    `run`: base pages that are flushed together.  A broadcast (TLBI) reaches every CPU,
    and counts nothing but itself.
    """
    one_op &= run <= CEILING
    c, asks, sends = tlbs.cpus, live & ~rules.broadcasts, live & rules.broadcasts
    rest = others(c, mm, cpu)
    myself, loaded = jnp.arange(rest.shape[0]) == cpu, c.mm == mm
    self_set = myself & loaded & ~c.lazy
    hit = rest & loaded & ~c.lazy
    told = (hit | self_set) & asks
    # With nobody else in the mask there is no look at laziness before the flush.
    leaves = ~rest.any() & c.lazy[cpu] & loaded[cpu] & asks
    counted = ~rules.invlpgb | ((loaded & ~c.lazy).sum() < GLOBAL_ASID_CPUS)
    counted &= asks
    trimmed = strays(rules, c)[mm] & ~myself & counted
    requested, ipis = rest.any() & counted, (hit & counted) | trimmed
    gen = c.mm_gen[mm] + 1
    single = (c.gen + 1 == gen) & one_op
    local = self_set.any() & counted
    local_one = (self_set & single).any() & counted
    here = jnp.arange(c.mm_gen.shape[0]) == mm
    cpus = dataclasses.replace(
        c,
        mask=c.mask & ~(here[:, None] & trimmed),
        mm_gen=c.mm_gen + (here & asks),
        gen=jnp.where(told, gen, c.gen),
    )
    cpus = leave(rules, cpus, cpu, leaves)
    lost = tlbs.lost | (told & ~single) | (myself & leaves)
    pages = jnp.where(one_op, jnp.where(pmd, PMD_PAGES, run), log.ALL)
    own = jnp.where(local_one, run, jnp.where(local, log.ALL, log.NONE))
    asked = jnp.where(requested, pages, log.NONE)
    ev = ev.note(log.FLUSH, mm, asked, own, 0, when=requested | local)
    ev = ev.note_cpus(ipis, told & ~single, told & single, requested)
    sent = ipis.sum()
    ev = ev.add(
        nr_tlb_remote_flush=requested,
        nr_tlb_local_flush_one=jnp.where(local_one, run, 0),
        nr_tlb_local_flush_all=local & ~local_one,
        flushes_immediate=requested | sends,
        flushes_immediate_lazy=requested & (sent == 0),
        ipis_immediate=sent,
    ).interrupt(ipis)
    tlbs = dataclasses.replace(tlbs, cpus=cpus, lost=lost)
    return tlbs, ev, (told & single) | sends


def drop_entry(
    tlbs: Cached, entry: Index, pmd: Flag, told: CpuSet, large: bool
) -> Cached:
    """The CPUs `told` drop one entry; `large`: there are entries of both sizes."""
    # An entry sits in the TLB of its size only; the other search finds nothing.
    small = drop_page(tlbs.entry, entry, told & ~pmd)
    huge = drop_page(tlbs.huge, entry, told & pmd) if large else tlbs.huge
    return dataclasses.replace(tlbs, entry=small, huge=huge)


def flush_batch(
    rules: Rules, tlbs: Cached, ev: Events, cpu: Index, when: Flag
) -> tuple[Cached, Events]:
    """try_to_unmap_flush(), if `when`: one round for all that is pending."""
    c = tlbs.cpus
    deferred = c.pending.any() & when
    pending = c.pending & deferred
    # Where invalidations are broadcast they are under way since the unmap; this waits.
    asked_for = pending & ~rules.broadcasts
    self_set = jnp.arange(c.mm.shape[0]) == cpu
    rest = asked_for & ~self_set
    mine = asked_for & self_set & ~c.lazy
    loaded = jnp.clip(c.mm, 0, c.mm_gen.shape[0] - 1)
    behind = (c.mm != NOWHERE) & (c.gen != c.mm_gen[loaded])
    # One INVLPGB drops every non-global translation of every CPU and has no trace
    # point; those that it reached count as caught up.
    by_ipi = ~rules.invlpgb
    ipis = rest & ~c.lazy & by_ipi
    requested = rest.any() & by_ipi
    local = (mine & behind).any() & by_ipi
    reached = jnp.where(rules.invlpgb, ~c.lazy & asked_for.any(), ipis)
    told = (reached | mine) & behind
    cpus = dataclasses.replace(
        c,
        gen=jnp.where(told, c.mm_gen[loaded], c.gen),
        pending=c.pending & ~when,
    )
    tlbs = dataclasses.replace(tlbs, cpus=cpus, lost=tlbs.lost | told)
    shown = (mine & (c.mm != NOWHERE)).any() & by_ipi
    asked = jnp.where(requested, log.ALL, log.NONE)
    own = jnp.where(local, log.ALL, jnp.where(shown, 0, log.NONE))
    ev = ev.note(log.FLUSH, -1, asked, own, 1, when=requested | shown)
    ev = ev.note_cpus(ipis, told, told & False, requested)
    sent = ipis.sum()
    ev = ev.add(
        nr_tlb_remote_flush=requested,
        nr_tlb_local_flush_all=local,
        flushes_batch=requested | (deferred & rules.broadcasts),
        flushes_batch_lazy=requested & (sent == 0),
        ipis_batch=sent,
    )
    return tlbs, ev.interrupt(ipis)
