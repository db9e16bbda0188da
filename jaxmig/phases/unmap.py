"""Phase 1: replace every entry of a folio by a migration entry.

Each entry is cleared and its flush is either sent at once or left to the batch.  A page
that may be pinned and is exclusive refuses: its entry is cleared, flushed and put back
as it was, and the walk ends.

Source: try_to_migrate_one(), set_pmd_migration_entry(), should_defer_flush() in
mm/rmap.c and mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, pte, tlb, wall
from jaxmig.events import Events
from jaxmig.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.phases.rmap import Visit, rmap_walk, walked_pages
from jaxmig.rules import Rules

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def clear_flush(
    rules: Rules,
    m: Machine,
    ev: Events,
    at: Visit,
    cpu: Index,
    batch: bool,
    hugetlb: Flag,
) -> tuple[Machine, Events]:
    """Clear one entry and flush it, or remember that its flush is owed."""
    mm = pte.mm_of(at.bits)
    pmd = pte.has(at.bits, pte.HUGE)
    # pmdp_invalidate() flushes even what no TLB can hold.
    held = pte.accessible(at.bits) | (pmd & ~hugetlb)
    if batch:
        put_off = ~pmd & tlb.should_defer(rules, m.cpus, mm, cpu)
        owed = put_off & (held | (not rules.release.checks_pte_accessible))
        m = dataclasses.replace(m, cpus=tlb.defer(rules, m.cpus, mm, owed))
        if rules.broadcasts:
            # The invalidation goes out at once; only the wait for its end is put off.
            m = tlb.broadcast(m, at.entry, pmd, owed)
        ev = ev.add(ptes_deferred=owed)
    else:
        put_off = jnp.asarray(False)

    def now(state: tuple[Machine, Events]) -> tuple[Machine, Events]:
        one_op = ~pmd | hugetlb
        live = jnp.asarray(True)
        return tlb.flush_entry(rules, *state, at.entry, mm, cpu, pmd, one_op, live)

    m, ev = wall.when(held & ~put_off, now, (m, ev))
    return m, ev.add(ptes_cleared=~pmd, pmds_cleared=pmd)


@jax.named_scope("try_to_migrate")
def unmap_folio(
    rules: Rules,
    m: Machine,
    ev: Events,
    head: Index,
    cpu: Index,
    batch: bool,
    live: Flag,
    refuses: Flag,
    locked: Flag,
) -> tuple[Machine, Events]:
    """try_to_migrate() of the folio at `head`, if `live`.

    `batch`: TTU_BATCH_FLUSH.  `refuses`: pinned and exclusive; then the folio stays
    mapped.  `locked`: it is held until it has been moved, walked or not.
    """
    row = wall.read(head, lambda: m.frame[head])
    flags = row[FLAGS]
    pages = walked_pages(m, row, jnp.int32(1) << frame.order(flags))
    hugetlb = frame.kind(flags) == frame.HUGETLB

    def visit(m: Machine, carry: tuple[Events, Index, Flag], at: Visit) -> tuple:
        ev, cleared, dirty = carry
        m, ev = clear_flush(rules, m, ev, at, cpu, batch, hugetlb)
        word = jnp.where(refuses, at.bits, pte.to_migration(at.bits))
        noted = (at.entry, at.pfn, word, frame.order(flags))
        ev = ev.note(log.SET, *noted, when=~refuses)
        m = dataclasses.replace(
            m, pte=wall.put(m.pte, at.entry, jnp.stack([at.pfn, word]))
        )
        if len(m.geometry.orders) > 1:
            tail = head + at.page
            count = jnp.where(refuses, m.frame[tail, MAPCOUNT], 0)
            m = dataclasses.replace(m, frame=m.frame.at[tail, MAPCOUNT].set(count))
        dirty = dirty | pte.has(at.bits, pte.DIRTY)
        return m, (ev, cleared + 1, dirty), ~refuses

    start = (ev, jnp.int32(0), jnp.asarray(False))
    m, (ev, cleared, dirty) = rmap_walk(
        m, head, jnp.where(live, pages, 0), visit, start
    )
    gone = live & ~refuses
    state = jnp.where(gone, frame.UNMAPPED, 0) | jnp.where(locked, frame.LOCKED, 0)
    new = jnp.stack(
        [
            row[REFCOUNT] - jnp.where(gone, cleared, 0),
            jnp.where(gone, 0, row[MAPCOUNT]),
            flags | state | jnp.where(dirty, frame.DIRTY, 0),
            row[frame.RMAP],
        ]
    )
    return dataclasses.replace(m, frame=wall.put(m.frame, head, new)), ev


@jax.named_scope("try_to_migrate")
def unmap(
    m: Machine,
    src: Lanes,
    known: Known,
    where: Mask,
    dropped: Lanes,
) -> tuple[Machine, Known]:
    """Write migration entries for the base pages `src` in `where`; lock them.

    `known`: their rows, and entries, as they are; as they become is returned.
    `dropped`: references that were found gone.  Which flushes are owed is
    `flush.owed()`'s affair: nothing couples two base pages here.
    """
    row = known.row

    def write(c: tuple) -> tuple:
        m, entry, count, dirty, words = c
        here = entry != NOWHERE
        old, following = lanes.entry_or(known.words, m, entry)
        bits = old[:, pte.BITS]
        # Behind a wall it is computed once, for this phase and the last one.
        new = wall.read(
            src, lambda: lanes.columns(old[:, pte.PFN], pte.to_migration(bits))
        )
        m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
        dirty |= here & pte.has(bits, pte.DIRTY)
        return m, following, count + here, dirty, None if words is None else new

    first = jnp.where(where, row[:, frame.RMAP], NOWHERE)
    start = (m, first, jnp.zeros_like(first), where & False, known.words)
    m, _, count, dirty, words = lanes.along_chains(m.geometry.shared, write, start)
    state = frame.LOCKED | jnp.where(count > 0, frame.UNMAPPED, 0)
    flags = row[:, FLAGS] | state | jnp.where(dirty, frame.DIRTY, 0)
    refs = row[:, REFCOUNT] - count - dropped

    def rows() -> Int32[Array, "lanes 4"]:
        new = lanes.columns(refs, row[:, MAPCOUNT] * 0, flags, row[:, frame.RMAP])
        return jnp.where(where[:, None], new, row)

    new = wall.read(src, rows)
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, src, where, new))
    return m, Known(new, words, known.states)
