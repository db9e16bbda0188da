"""Which CPUs a flush reaches, and which translations each of them drops.

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
    """What flushes change while a call runs.

    No TLB is filled meanwhile: a full flush only marks its CPU, and the arrays are
    cleared once, when the call ends.
    """

    cpus: Cpus
    entry: Int32[Array, "sets lanes"]  # of the TLB for base pages
    huge: Int32[Array, "sets lanes"]
    lost: CpuSet  # CPUs that have dropped everything


def empty_tlb(sets: int, ways: int, cpus: int) -> Tlb:
    """A TLB for every CPU that holds nothing."""
    shape = (sets, cpus * ways)
    # A buffer for each field: two that share one could not be donated.
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
    """should_defer_flush() of every address space: whether a batch may defer its flushes.

    On x86 only if another CPU is in mm_cpumask(); a Release may have a function of its
    own.
    """
    if rules.defers is not None:
        return jnp.asarray(rules.defers(cpus, cpu), bool)
    elsewhere = jnp.arange(cpus.mask.shape[1]) != cpu
    held = (cpus.mask & elsewhere).any(axis=1)
    return jnp.where(rules.broadcasts, rules.arm64_defers, held)


def defers_entry(rules: Rules, bits: Int32[Array, "*lanes"]) -> Bool[Array, "*lanes"]:
    """Whether an entry's flush can be deferred: a PMD's never is, a PROT_NONE PTE's only
    in releases without `checks_pte_accessible`.
    """
    held = pte.accessible(bits) | ~rules.checks_pte_accessible
    return held & ~pte.has(bits, pte.HUGE)


def defer(rules: Rules, cpus: Cpus, mm: Index, when: Flag) -> Cpus:
    """set_tlb_ubc_flush_pending(): a generation more, and its CPUs in tlb_ubc's mask.

    Args:
      mm: int32, the address space of the PTE that was cleared.
      when: whether its flush is deferred.
    Returns:
      The CPUs with mm_gen and pending changed.
    Source: set_tlb_ubc_flush_pending() in mm/rmap.c, arch_tlbbatch_add_mm().
    """
    here = (jnp.arange(cpus.mm_gen.shape[0]) == mm) & ~rules.broadcasts & when
    deferred = (cpus.mask[mm] | rules.broadcasts) & when
    pending = cpus.pending | deferred
    return dataclasses.replace(cpus, mm_gen=cpus.mm_gen + here, pending=pending)


def strays(rules: Rules, cpus: Cpus) -> Bool[Array, "mms cpus"]:
    """CPUs that are in an mm_cpumask() and run another address space.

    The next flush of that mm interrupts them once and clears them in the mask
    (should_flush_tlb(), flush_tlb_func(): TLB_REMOTE_WRONG_CPU); a batch's flush, which
    has no mm, only interrupts them.
    """
    loaded = cpus.mm[None] == np.arange(cpus.mask.shape[0])[:, None]
    return cpus.mask & ~loaded & ~cpus.lazy & rules.keeps_mask


def has_strays(rules: Rules, cpus: Cpus) -> bool:
    """Whether there are any.  Host only: it copies three arrays of CPUs from the device."""
    names = ("mask", "lazy", "mm")
    host: dict[str, Any] = {name: np.asarray(getattr(cpus, name)) for name in names}
    return bool(strays(rules, dataclasses.replace(cpus, **host)).any())


def lanes_of(cpus: CpuSet, tlb: Tlb) -> Bool[Array, " cpus*ways"]:
    """One flag a CPU, spread over the slots of a set."""
    return _spread(cpus, tlb.entry)


def _spread(cpus: CpuSet, entries: Array) -> Bool[Array, " lanes"]:
    ways = entries.shape[1] // cpus.shape[0]
    return jnp.broadcast_to(cpus[:, None], (cpus.shape[0], ways)).reshape(-1)


def drop_page(entries: Array, entry: Index, cpus: CpuSet) -> Array:
    """INVLPG: CPUs drop one entry."""
    row = entry % entries.shape[0]
    tags = xla.read(row, lambda: entries[row])
    kept = jnp.where((tags == entry) & _spread(cpus, entries), NOWHERE, tags)
    return xla.put(entries, row, kept)


def drop_all(tlb: Tlb, cpus: CpuSet) -> Tlb:
    """A full flush of the loaded address space on CPUs."""
    dead = lanes_of(cpus, tlb)[None]
    return dataclasses.replace(tlb, entry=jnp.where(dead, NOWHERE, tlb.entry))


def drop_all_sizes(m: Machine, cpus: CpuSet) -> Machine:
    """The same in both TLBs; nothing is written unless some CPU is in it."""

    def both(tlbs: tuple[Tlb, Tlb]) -> tuple[Tlb, Tlb]:
        return drop_all(tlbs[0], cpus), drop_all(tlbs[1], cpus)

    tlb, huge = xla.skip_unless(cpus.any(), both, (m.tlb, m.huge_tlb))
    return dataclasses.replace(m, tlb=tlb, huge_tlb=huge)


def leave(rules: Rules, cpus: Cpus, cpu: Index, when: Bool[Array, ""]) -> Cpus:
    """A lazy CPU that runs flush_tlb_func() itself switches to init_mm.

    Args:
      cpu: int32, the CPU.
      when: whether it does.
    Returns:
      The CPUs, of which this one has no mm and is in no mask (unless masks keep it).
    Source: flush_tlb_func(), switch_mm_irqs_off() in arch/x86/mm/tlb.c.
    """
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
    """ptep_clear_flush() of one entry, counted; arm64's TLBI counts only itself.

    Args:
      mm: int32, the entry's address space.
      cpu: int32, the migrating CPU.
      pmd: whether it is a PMD leaf.
      one_op: whether one invalidation drops it: false for a THP's PMD, whose 512 pages
        are over the ceiling, so that CPUs flush everything; true for hugetlb's stride.
      run: int32, base pages that the flush covers, from the entry on.
      live: whether there is a flush; if not, nothing changes.
    Returns:
      TLBs with CPUs marked that flush everything; events; bool[cpus], those that drop
      this entry only (`drop_entry`).
    Source: flush_tlb_mm_range(), flush_tlb_func() in arch/x86/mm/tlb.c.
    """
    one_op &= run <= CEILING
    c, asks, sends = tlbs.cpus, live & ~rules.broadcasts, live & rules.broadcasts
    rest = others(c, mm, cpu)
    myself, loaded = jnp.arange(rest.shape[0]) == cpu, c.mm == mm
    self_set = myself & loaded & ~c.lazy
    hit = rest & loaded & ~c.lazy
    flushing = (hit | self_set) & asks
    # Alone in the mask, a lazy CPU runs flush_tlb_func() itself, which leaves the mm.
    leaves = ~rest.any() & c.lazy[cpu] & loaded[cpu] & asks
    counted = ~rules.invlpgb | ((loaded & ~c.lazy).sum() < GLOBAL_ASID_CPUS)
    counted &= asks
    # The migrating CPU takes its own bit away as well, if it has others to ask.
    trimmed = strays(rules, c)[mm] & counted & rest.any()
    requested, ipis = rest.any() & counted, (hit & counted) | (trimmed & ~myself)
    # A CPU that was up to date before this flush drops the page, others everything.
    gen = c.mm_gen[mm] + 1
    single = (c.gen + 1 == gen) & one_op
    local = self_set.any() & counted
    local_one = (self_set & single).any() & counted
    here = jnp.arange(c.mm_gen.shape[0]) == mm
    cpus = dataclasses.replace(
        c,
        mask=c.mask & ~(here[:, None] & trimmed),
        mm_gen=c.mm_gen + (here & asks),
        gen=jnp.where(flushing, gen, c.gen),
    )
    cpus = leave(rules, cpus, cpu, leaves)
    lost = tlbs.lost | (flushing & ~single) | (myself & leaves)
    pages = jnp.where(one_op, jnp.where(pmd, PMD_PAGES, run), log.ALL)
    own = jnp.where(local_one, run, jnp.where(local, log.ALL, log.NONE))
    asked = jnp.where(requested, pages, log.NONE)
    ev = ev.note(log.FLUSH, mm, asked, own, 0, when=requested | local)
    ev = ev.note_cpus(ipis, flushing & ~single, flushing & single, requested)
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
    return tlbs, ev, (flushing & single) | sends


def drop_entry(
    tlbs: Cached, entry: Index, pmd: Flag, cpus: CpuSet, large: bool
) -> Cached:
    """CPUs drop one entry from the TLB of its size.

    Args:
      entry: int32, its number in Machine.pte.
      pmd: whether it is a PMD leaf.
      cpus: the CPUs that invalidate it.
      large: whether the machine has PMD leaves at all.
    Returns:
      The TLBs without it.
    """
    # Both TLBs are searched; the one of the other size with no CPU.
    small = drop_page(tlbs.entry, entry, cpus & ~pmd)
    huge = drop_page(tlbs.huge, entry, cpus & pmd) if large else tlbs.huge
    return dataclasses.replace(tlbs, entry=small, huge=huge)


def flush_batch(
    rules: Rules, tlbs: Cached, ev: Events, cpu: Index, when: Flag
) -> tuple[Cached, Events]:
    """try_to_unmap_flush(): one flush of all CPUs that are pending, counted.

    Args:
      cpu: int32, the migrating CPU.
      when: whether there is a flush; if not, nothing changes.
    Returns:
      TLBs with CPUs marked that flush everything, and none pending; events.
    Source: arch_tlbbatch_flush() in arch/x86/mm/tlb.c.
    """
    c = tlbs.cpus
    deferred = c.pending.any() & when
    pending = c.pending & deferred
    # arm64 has sent its TLBIs at the unmap: this only waits for their end (DSB).
    asked_for = pending & ~rules.broadcasts
    self_set = jnp.arange(c.mm.shape[0]) == cpu
    rest = asked_for & ~self_set
    mine = asked_for & self_set & ~c.lazy
    loaded = jnp.clip(c.mm, 0, c.mm_gen.shape[0] - 1)
    behind = (c.mm != NOWHERE) & (c.gen != c.mm_gen[loaded])
    # One INVLPGB drops the non-global translations of all CPUs, without a trace point;
    # the CPUs it reaches have caught up with tlb_gen.
    by_ipi = ~rules.invlpgb
    ipis = rest & ~c.lazy & by_ipi
    requested = rest.any() & by_ipi
    local = (mine & behind).any() & by_ipi
    reached = jnp.where(rules.invlpgb, ~c.lazy & asked_for.any(), ipis)
    flushing = (reached | mine) & behind
    cpus = dataclasses.replace(
        c,
        gen=jnp.where(flushing, c.mm_gen[loaded], c.gen),
        pending=c.pending & ~when,
    )
    tlbs = dataclasses.replace(tlbs, cpus=cpus, lost=tlbs.lost | flushing)
    shown = (mine & (c.mm != NOWHERE)).any() & by_ipi
    asked = jnp.where(requested, log.ALL, log.NONE)
    own = jnp.where(local, log.ALL, jnp.where(shown, 0, log.NONE))
    ev = ev.note(log.FLUSH, -1, asked, own, 1, when=requested | shown)
    ev = ev.note_cpus(ipis, flushing, flushing & False, requested)
    sent = ipis.sum()
    ev = ev.add(
        nr_tlb_remote_flush=requested,
        nr_tlb_local_flush_all=local,
        flushes_batch=requested | (deferred & rules.broadcasts),
        flushes_batch_lazy=requested & (sent == 0),
        ipis_batch=sent,
    )
    return tlbs, ev.interrupt(ipis)
