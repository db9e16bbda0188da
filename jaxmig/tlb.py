"""Which CPUs a flush reaches, and what each of them drops.

x86 keeps a generation per address space and, on each CPU, the generation it has caught
up with.  A CPU that is exactly one behind a one-page flush drops that page; one that is
further behind drops everything.  Lazy CPUs take no interrupt and catch up later.

Source: flush_tlb_mm_range(), flush_tlb_func(), arch_tlbbatch_flush() in
arch/x86/mm/tlb.c; arch/arm64/include/asm/tlbflush.h, Linux 6.3 and 6.6.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import log, wall
from jaxmig.events import Events
from jaxmig.machine import NOWHERE, PMD_PAGES, Cpus, Machine, Tlb
from jaxmig.rules import Rules

CpuSet = Bool[Array, " cpus"]
Index = Int32[Array, ""]
GLOBAL_ASID_CPUS = 4  # an mm active on so many CPUs gets a global ASID (INVLPGB)


def empty_tlb(sets: int, ways: int, cpus: int) -> Tlb:
    """A TLB for every CPU that holds nothing."""
    shape = (sets, cpus * ways)
    # Four buffers of their own: one shared by two fields could not be donated.
    return Tlb(
        entry=jnp.full(shape, NOWHERE, jnp.int32),
        pfn=jnp.full(shape, NOWHERE, jnp.int32),
        bits=jnp.zeros(shape, jnp.int32),
        age=jnp.zeros(shape, jnp.int32),
    )


def others(cpus: Cpus, mm: Index, cpu: Index) -> CpuSet:
    """mm_cpumask() without the CPU that migrates; lazy CPUs included."""
    return cpus.mask[mm] & (jnp.arange(cpus.mm.shape[0]) != cpu)


def should_defer(rules: Rules, cpus: Cpus, mm: Index, cpu: Index) -> Bool[Array, ""]:
    """should_defer_flush(): worth it only if another CPU may hold the mm (x86)."""
    if rules.broadcasts:
        return jnp.asarray(rules.release.arm64_defers)
    return others(cpus, mm, cpu).any()


def defer(rules: Rules, cpus: Cpus, mm: Index, when: Bool[Array, ""]) -> Cpus:
    """set_tlb_ubc_flush_pending(): the generation moves, the CPUs are owed a flush."""
    if rules.broadcasts:
        return dataclasses.replace(cpus, pending=cpus.pending | when)
    return dataclasses.replace(
        cpus,
        mm_gen=wall.add(cpus.mm_gen, mm, when.astype(jnp.int32)),
        pending=cpus.pending | (cpus.mask[mm] & when),
    )


def lanes_of(cpus: CpuSet, tlb: Tlb) -> Bool[Array, " cpus*ways"]:
    """One flag a CPU, spread over the slots of a set."""
    ways = tlb.entry.shape[1] // cpus.shape[0]
    return jnp.broadcast_to(cpus[:, None], (cpus.shape[0], ways)).reshape(-1)


def drop_page(tlb: Tlb, entry: Index, told: CpuSet) -> Tlb:
    """INVLPG: the CPUs `told` drop one entry."""
    row = entry % tlb.entry.shape[0]
    tags = wall.read(row, lambda: tlb.entry[row])
    kept = jnp.where((tags == entry) & lanes_of(told, tlb), NOWHERE, tags)
    return dataclasses.replace(tlb, entry=wall.put(tlb.entry, row, kept))


def drop_all(tlb: Tlb, told: CpuSet) -> Tlb:
    """A full flush of the loaded address space on the CPUs `told`."""
    dead = lanes_of(told, tlb)[None]
    return dataclasses.replace(tlb, entry=jnp.where(dead, NOWHERE, tlb.entry))


def drop_all_sizes(m: Machine, told: CpuSet) -> Machine:
    """Full flush of both sizes, as a rare event in a loop."""

    def both(tlbs: tuple[Tlb, Tlb]) -> tuple[Tlb, Tlb]:
        return drop_all(tlbs[0], told), drop_all(tlbs[1], told)

    tlb, huge = wall.when(told.any(), both, (m.tlb, m.huge_tlb))
    return dataclasses.replace(m, tlb=tlb, huge_tlb=huge)


def leave(rules: Rules, c: Cpus, cpu: Index, when: Bool[Array, ""]) -> Cpus:
    """A lazy CPU that is told to flush by itself stops using the address space."""
    here = (jnp.arange(c.lazy.shape[0]) == cpu) & when
    mask = c.mask if rules.release.keeps_mask else c.mask & ~here
    mm = jnp.where(here, NOWHERE, c.mm)
    return dataclasses.replace(c, mask=mask, lazy=c.lazy & ~here, mm=mm)


def flush_entry(
    rules: Rules,
    m: Machine,
    ev: Events,
    entry: Index,
    mm: Index,
    cpu: Index,
    pmd: Bool[Array, ""],
    one_op: Bool[Array, ""],
    live: Bool[Array, ""],
) -> tuple[Machine, Events]:
    """ptep_clear_flush() of one entry, if `live`.

    `one_op` is false for a THP's PMD: 512 pages are over the ceiling of 33, so every
    CPU flushes everything; a hugetlb entry is one invalidation of its own stride.
    """
    if rules.broadcasts:
        return broadcast(m, entry, pmd, live), ev.add(flushes_immediate=live)
    c = m.cpus
    rest = others(c, mm, cpu)
    myself, loaded = jnp.arange(rest.shape[0]) == cpu, c.mm == mm
    self_set = myself & loaded & ~c.lazy
    requested = rest.any() & live
    hit = rest & loaded & ~c.lazy & live
    told = hit | (self_set & live)
    # With nobody else in the mask there is no look at laziness before the flush.
    leaves = live & ~rest.any() & c.lazy[cpu] & loaded[cpu]
    ipis, counted = hit, jnp.asarray(True)
    if rules.invlpgb:
        counted = (loaded & ~c.lazy).sum() < GLOBAL_ASID_CPUS
        requested, ipis = requested & counted, hit & counted
    gen = c.mm_gen[mm] + live
    single = (c.gen + 1 == gen) & one_op
    local = (told & self_set).any() & counted
    local_one = (told & self_set & single).any() & counted
    cpus = dataclasses.replace(
        c, mm_gen=wall.put(c.mm_gen, mm, gen), gen=jnp.where(told, gen, c.gen)
    )
    cpus = leave(rules, cpus, cpu, leaves)
    m = _drop_entry(dataclasses.replace(m, cpus=cpus), entry, pmd, told & single)
    m = drop_all_sizes(m, (told & ~single) | (myself & leaves))
    sent = ipis.sum()
    pages = jnp.where(one_op, jnp.where(pmd, PMD_PAGES, 1), log.ALL)
    here = jnp.where(local_one, 1, jnp.where(local, log.ALL, log.NONE))
    asked = jnp.where(requested, pages, log.NONE)
    ev = ev.note(log.FLUSH, mm, asked, here, 0, when=requested | local)
    ev = ev.note_cpus(ipis, told & ~single, told & single, requested)
    ev = ev.add(
        nr_tlb_remote_flush=requested,
        nr_tlb_local_flush_one=local_one,
        nr_tlb_local_flush_all=local & ~local_one,
        flushes_immediate=requested,
        flushes_immediate_lazy=requested & (sent == 0),
        ipis_immediate=sent,
    )
    return m, ev.interrupt(ipis)


def broadcast(
    m: Machine, entry: Index, pmd: Bool[Array, ""], live: Bool[Array, ""]
) -> Machine:
    """TLBI: every CPU drops one entry, if `live`."""
    return _drop_entry(m, entry, pmd, jnp.broadcast_to(live, m.cpus.lazy.shape))


def _drop_entry(
    m: Machine, entry: Index, pmd: Bool[Array, ""], told: CpuSet
) -> Machine:
    # An entry sits in the TLB of its size only; the other search finds nothing.
    tlb = drop_page(m.tlb, entry, told & ~pmd)
    if len(m.geometry.orders) == 1:
        return dataclasses.replace(m, tlb=tlb)
    huge = drop_page(m.huge_tlb, entry, told & pmd)
    return dataclasses.replace(m, tlb=tlb, huge_tlb=huge)


def flush_batch(
    rules: Rules, m: Machine, ev: Events, cpu: Index
) -> tuple[Machine, Events]:
    """try_to_unmap_flush(): one round for all that is pending."""
    c = m.cpus
    owed = c.pending.any()
    if rules.broadcasts:
        # The invalidations are under way since the unmap; this waits for their end.
        m = dataclasses.replace(
            m, cpus=dataclasses.replace(c, pending=c.pending & False)
        )
        return m, ev.add(flushes_batch=owed)
    self_set = jnp.arange(c.mm.shape[0]) == cpu
    rest = c.pending & ~self_set
    self_set &= ~c.lazy
    hit = rest & ~c.lazy
    loaded = jnp.clip(c.mm, 0, c.mm_gen.shape[0] - 1)
    behind = (c.mm != NOWHERE) & (c.gen != c.mm_gen[loaded])
    local = (c.pending & self_set & behind).any()
    requested = rest.any()
    ipis = hit
    if rules.invlpgb:
        # One broadcast drops every non-global translation of every CPU.
        # Those that it reached count as caught up.
        requested, ipis, hit = requested & False, hit & False, ~c.lazy & owed
        local &= False
    told = (hit | (c.pending & self_set)) & behind
    caught_up = jnp.where(told, c.mm_gen[loaded], c.gen)
    cpus = dataclasses.replace(c, gen=caught_up, pending=c.pending & False)
    m = drop_all_sizes(dataclasses.replace(m, cpus=cpus), told)
    sent = ipis.sum()
    # A broadcast has no trace point.
    mine = (c.pending & self_set & (c.mm != NOWHERE)).any() & (not rules.invlpgb)
    asked = jnp.where(requested, log.ALL, log.NONE)
    here = jnp.where(local, log.ALL, jnp.where(mine, 0, log.NONE))
    ev = ev.note(log.FLUSH, -1, asked, here, 1, when=requested | mine)
    ev = ev.note_cpus(ipis, told, told & False, requested)
    ev = ev.add(
        nr_tlb_remote_flush=requested,
        nr_tlb_local_flush_all=local,
        flushes_batch=requested,
        flushes_batch_lazy=requested & (sent == 0),
        ipis_batch=sent,
    )
    return m, ev.interrupt(ipis)
