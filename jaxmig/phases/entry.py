"""What becomes of one entry that maps a folio, by what is done to the folio.

    UNMAP    a migration entry, if the folio does not refuse; flushed, now or later
    REMAP    an entry of the frame where the folio is now
    SPLIT    an entry of a base page of its own; a PMD leaf becomes 512 of them
    ZAP      nothing: its process let the folio go
    REPOINT  the new frame: what a driver does with its users' entries

One walk serves them all, so that a compiled program has it once.

Source: try_to_migrate_one(), set_pmd_migration_entry(), should_defer_flush(),
remove_migration_pte(), remove_migration_pmd(), __split_huge_pmd_locked() in mm/rmap.c,
mm/migrate.c and mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, pte, tlb, xla
from jaxmig.events import Events
from jaxmig.frame import MAPCOUNT, RMAP
from jaxmig.machine import NOWHERE, Geometry
from jaxmig.phases.rmap import Mapped, Visit, rmap_walk
from jaxmig.pytree import pytree
from jaxmig.rules import Rules
from jaxmig.tlb import Cached

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
NOTHING, UNMAP, REMAP, SPLIT, ZAP, REPOINT = range(6)


@pytree
class Walk:
    """One walk over a folio's entries."""

    action: Index
    head: Index  # where the folio is now
    pages: Index  # frames whose chains are walked
    flags: Index  # of the folio
    refuses: Flag  # UNMAP: pinned and exclusive
    batch: Flag  # TTU_BATCH_FLUSH
    cpu: Index
    pmd_table: Int32[Array, " pmds"]  # first PTE under each PMD leaf
    leaves: Index  # SPLIT: PMD leaves that are split at most
    zeros: Flag  # SPLIT: pieces of zeros become the zero page
    first: Index | None  # page whose chain comes first, see `rmap_walk`

    @property
    def takes(self) -> Flag:
        """Whether entries are taken away from the hardware."""
        return (self.action == UNMAP) | (self.action == SPLIT)

    @property
    def stays(self) -> Flag:
        """Whether the pieces of a split folio stay mapped: those of a file do not."""
        return frame.is_anon(self.flags)


@jax.named_scope("rmap_walk")
def walk(rules: Rules, g: Geometry, m: Mapped, w: Walk) -> Mapped:
    """Do `w.action` to every entry of a folio; a refusal ends it at the first."""

    def visit(m: Mapped, at: Visit) -> tuple[Mapped, Flag]:
        pmd = at.here & pte.has(at.bits, pte.HUGE)
        if g.shares_pmds:
            left = pmd & (w.action == SPLIT) & (m.leaves >= w.leaves)
            at = dataclasses.replace(at, here=at.here & ~left)
        t, ev = _clear_flush(rules, g, m.cached, m.ev, w, at)
        pfn, word = _becomes(w, at)
        ev = _note(ev, w, at, pfn, word)
        new = jnp.where(jnp.arange(2) == pte.PFN, pfn, word)
        entries = xla.put(m.pte, at.entry, new)
        rows = _mapcount(m.frame, w, at)
        m = Mapped(
            frame=rows,
            pte=entries,
            rmap_next=m.rmap_next,
            cached=t,
            ev=ev,
            count=m.count + at.here,
            dirty=m.dirty | (at.here & pte.has(at.bits, pte.DIRTY)),
            leaves=m.leaves + pmd,
            last=m.last,
        )
        if len(g.orders) > 1:
            m = _map_pieces(g, m, w, at)
        return m, ~((w.action == UNMAP) & w.refuses)

    return rmap_walk(g, m, w.head, w.pages, visit, w.first)


def _clear_flush(
    rules: Rules, g: Geometry, t: Cached, ev: Events, w: Walk, at: Visit
) -> tuple[Cached, Events]:
    """Clear one entry and flush it, or remember that its flush is owed."""
    mm = pte.mm_of(at.bits)
    pmd = pte.has(at.bits, pte.HUGE)
    hugetlb = frame.kind(w.flags) == frame.HUGETLB
    # pmdp_invalidate() flushes even what no TLB can hold.
    held = pte.accessible(at.bits) | (pmd & ~hugetlb)
    by_unmap = (w.action == SPLIT) & ~w.stays
    held |= by_unmap & rules.unmap_flushes_hints
    clears = w.takes & at.here
    put_off = w.batch & ~pmd & tlb.should_defer(rules, t.cpus, w.cpu)[mm]
    owed = clears & put_off & tlb.defers_entry(rules, at.bits)
    t = dataclasses.replace(t, cpus=tlb.defer(rules, t.cpus, mm, owed))
    # A run of PTEs is flushed once, with its first.
    run = by_unmap & ~pmd & ~put_off & rules.unmaps_file_runs
    rest = run & (at.page > 0)
    pages = jnp.where(run, jnp.int32(1) << frame.order(w.flags), 1)
    now = clears & held & ~put_off & ~rest
    # A TLBI goes out at once, only the wait for its end is put off; and who zaps or
    # repoints an entry has flushed it, which is not this call's affair.
    others = (w.action == ZAP) | (w.action == REPOINT)
    silent = (owed & rules.broadcasts) | ((others | rest) & at.here)

    def flush(c: tuple[Cached, Events]) -> tuple[Cached, Events]:
        t, ev, alone = tlb.flush_entry(
            rules, *c, mm, w.cpu, pmd, ~pmd | hugetlb, pages, now
        )
        told = alone | silent
        return tlb.drop_entry(t, at.entry, pmd, told, len(g.orders) > 1), ev

    t, ev = xla.when(now | silent, flush, (t, ev))
    return t, ev.add(
        ptes_cleared=clears & ~pmd, pmds_cleared=clears & pmd, ptes_deferred=owed
    )


def _becomes(w: Walk, at: Visit) -> tuple[Index, Index]:
    """Both words of the entry afterwards."""
    bits = at.bits
    waits = pte.to_migration(bits)
    splits, remaps = w.action == SPLIT, w.action == REMAP
    # Between unmap and remap a split folio's entry is a migration entry too.
    anon = frame.is_anon(w.flags) | frame.has(w.flags, frame.EXCLUSIVE_MAP)
    own = jnp.where(splits, pte.has(bits, pte.DIRTY), frame.has(w.flags, frame.DIRTY))
    back = pte.from_migration(
        jnp.where(splits, waits, bits), jnp.where(splits, w.stays, anon), own
    )
    keeps = splits & w.stays & ~pte.has(bits, pte.HUGE)
    empty = keeps & w.zeros & frame.is_empty(at.flags)
    keeps &= ~empty
    unmaps = w.action == UNMAP
    zapped = (w.action == ZAP) | (splits & ~keeps)
    word = jnp.where(unmaps & ~w.refuses, waits, bits)
    word = jnp.where(remaps | keeps, back, jnp.where(zapped, pte.empty(bits), word))
    moved = remaps | (w.action == REPOINT)
    word = jnp.where(empty, pte.zero(bits), word)
    pfn = jnp.where(moved, w.head + at.page, jnp.where(zapped, NOWHERE, at.pfn))
    return jnp.where(at.here, pfn, at.pfn), jnp.where(at.here, word, bits)


def _note(ev: Events, w: Walk, at: Visit, pfn: Index, word: Index) -> Events:
    """Count and log what the trace points show."""
    order = frame.order(w.flags)
    pmd = pte.has(at.bits, pte.HUGE)
    remaps = (w.action == REMAP) & at.here
    splits = (w.action == SPLIT) & w.stays & at.here
    unmaps = (w.action == UNMAP) & ~w.refuses & at.here
    waits = pte.to_migration(at.bits)
    ev = ev.note(log.SET, at.entry, at.pfn, waits, order, when=unmaps | (splits & ~pmd))
    # compound_order() of a tail page is 0.
    whole = jnp.where(remaps & (at.page == 0), order, 0)
    removes = remaps | (splits & ~pmd & ~(w.zeros & frame.is_empty(at.flags)))
    ev = ev.note(log.REMOVE, at.entry, pfn, word, whole, when=removes)
    pieces, n = _piece(waits, at), jnp.int32(1) << order
    # Where some return and others do not, `_map_pieces` notes those that do.
    all_ = splits & pmd & ~w.zeros
    ev = ev.note(log.PIECES, at.entry, w.head, pieces, n, when=all_)
    return ev.add(ptes_set=remaps & ~pmd, pmds_set=remaps & pmd)


def _piece(waits: Index, at: Visit) -> Index:
    """The word of a piece below a PMD leaf."""
    return pte.from_migration(waits, jnp.asarray(True), pte.has(at.bits, pte.DIRTY))


def _mapcount(rows: Array, w: Walk, at: Visit) -> Array:
    """The page's PTEs are counted in its row."""
    gone = (w.action == UNMAP) & ~w.refuses & at.here
    one = (w.action == REMAP) & at.here
    count = jnp.where(gone, 0, at.mapcount + one)
    place = (w.head + at.page, MAPCOUNT)
    return jax.lax.dynamic_update_slice(rows, count[None, None], place)


def _map_pieces(g: Geometry, m: Mapped, w: Walk, at: Visit) -> Mapped:
    """Fill the page table under a split PMD leaf with entries of the pieces.

    In the head's chain the first of them takes the leaf's place.
    """
    fills = (w.action == SPLIT) & w.stays & at.here & pte.has(at.bits, pte.HUGE)
    leaf = jnp.clip(at.entry - g.ptes, 0, w.pmd_table.shape[0] - 1)
    table = xla.read(leaf, lambda: w.pmd_table[leaf])
    word = _piece(pte.to_migration(at.bits), at)

    def piece(
        j: Index, c: tuple[Array, Array, Array, Events]
    ) -> tuple[Array, Array, Array, Events]:
        entries, following, rows, ev = c
        e, f, tail = table + j, w.head + j, j > 0
        row, bits = xla.read(j, lambda: (rows[f], entries[e, pte.BITS]))
        new = (word & ~pte.STAYS) | pte.empty(bits)
        # Such a piece's chain and count are dropped with the folio's (`split.py`).
        empty = w.zeros & frame.is_empty(row[frame.FLAGS])
        new = jnp.where(empty, pte.zero(bits), new)
        pfn = jnp.where(empty, NOWHERE, f)
        entries = xla.put(entries, e, jnp.stack([pfn, new]))
        ev = ev.note(log.REMOVE, e, f, new, 0, when=w.zeros & ~empty)
        then, linked = jnp.where(tail, row[RMAP], at.following), ~tail & behind
        following = xla.put(following, e, then)
        if g.shared:
            before = jnp.where(linked, m.last, e)
            following = xla.put(following, before, jnp.where(linked, e, then))
        front = jnp.where(linked, row[RMAP], e)
        column = jnp.arange(frame.COLUMNS)
        row = jnp.where(column == RMAP, front, row + (tail & (column == MAPCOUNT)))
        return entries, following, xla.put(rows, xla.after(f, row[RMAP]), row), ev

    behind = m.last != NOWHERE
    count = jnp.where(fills, jnp.int32(1) << frame.order(w.flags), 0)
    start = (m.pte, m.rmap_next, m.frame, m.ev)
    entries, following, rows, ev = jax.lax.fori_loop(0, count, piece, start)
    last = jnp.where(fills, table, at.entry)
    return dataclasses.replace(
        m,
        pte=entries,
        rmap_next=following,
        frame=rows,
        ev=ev,
        last=jnp.where(at.page == 0, last, m.last),
    )
