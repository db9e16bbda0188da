"""What becomes of one entry that maps a folio, by what is done to the folio.

    UNMAP    a migration entry, unless the folio is pinned; flushed at once or, with
             TTU_BATCH_FLUSH, by the batch's flush
    REMAP    a present entry of the frame where the folio is now
    SPLIT    an entry of a base page of its own; a PMD leaf becomes 512 of them
    ZAP      an empty entry: its process has unmapped the folio
    REPOINT  an entry of the new frame: what a driver does with its users' entries

One walk serves them all, so that it is compiled once.

Source: try_to_migrate_one(), set_pmd_migration_entry(), should_defer_flush(),
remove_migration_pte(), remove_migration_pmd(), __split_huge_pmd_locked() in mm/rmap.c,
mm/migrate.c and mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import tlb
from jaxmig.linux.in_order.rmap import RmapState, Visit, rmap_walk
from jaxmig.linux.rules import Rules
from jaxmig.linux.tlb import Cached
from jaxmig.state import frame, log, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.frame import MAPCOUNT, RMAP
from jaxmig.state.machine import NOWHERE, Geometry
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
NOTHING, UNMAP, REMAP, SPLIT, ZAP, REPOINT = range(6)


@pytree
class Walk:
    """One walk over a folio's entries."""

    action: Index
    head: Index  # the folio's head frame as it is now
    pages: Index  # frames whose chains are walked
    flags: Index  # of the folio
    refuses: Flag  # UNMAP: pinned and exclusive, so that the walk fails
    batch: Flag  # TTU_BATCH_FLUSH
    cpu: Index
    pmd_table: Int32[Array, " pmds"]  # first PTE under each PMD leaf
    leaves: Index  # SPLIT: the most PMD leaves that are split
    zeros: Flag  # SPLIT: pieces of zeros are mapped to the zero page
    first: Index | None  # page whose chain comes first, see `rmap_walk`

    @property
    def takes(self) -> Flag:
        """Whether entries are cleared, so that translations become stale."""
        return (self.action == UNMAP) | (self.action == SPLIT)

    @property
    def stays(self) -> Flag:
        """Whether the pieces of a split folio stay mapped: only anonymous ones do."""
        return frame.is_anon(self.flags)


@jax.named_scope("rmap_walk")
def walk(rules: Rules, geometry: Geometry, m: RmapState, walking: Walk) -> RmapState:
    """Do `walking.action` to every entry of a folio; a pinned one fails at the first.

    Args:
      m: what a walk changes: rows, entries, chains, TLBs, events.
      walking: the folio, the action and its flags; int32 and bool scalars.
    Returns:
      `m` after the walk, with the entries visited in `count`, PMD leaves in `leaves`.
    Source: rmap_walk() in mm/rmap.c and the functions named above.
    """

    def visit(m: RmapState, at: Visit) -> tuple[RmapState, Flag]:
        pmd = at.here & pte.has(at.bits, pte.HUGE)
        if geometry.shares_pmds:
            left = pmd & (walking.action == SPLIT) & (m.leaves >= walking.leaves)
            at = dataclasses.replace(at, here=at.here & ~left)
        t, ev = _clear_flush(rules, geometry, m.cached, m.ev, walking, at)
        pfn, word = _becomes(walking, at)
        ev = _note(ev, walking, at, pfn, word)
        new = jnp.where(jnp.arange(2) == pte.PFN, pfn, word)
        entries = xla.put(m.pte, at.entry, new)
        rows = _mapcount(m.frame, walking, at)
        m = RmapState(
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
        if len(geometry.orders) > 1:
            m = _map_pieces(geometry, m, walking, at)
        return m, ~((walking.action == UNMAP) & walking.refuses)

    return rmap_walk(geometry, m, walking.head, walking.pages, visit, walking.first)


def _clear_flush(
    rules: Rules, geometry: Geometry, tlbs: Cached, ev: Events, walking: Walk, at: Visit
) -> tuple[Cached, Events]:
    """ptep_clear_flush(), or set_tlb_ubc_flush_pending() with TTU_BATCH_FLUSH."""
    mm = pte.mm_of(at.bits)
    pmd = pte.has(at.bits, pte.HUGE)
    hugetlb = frame.kind(walking.flags) == frame.HUGETLB
    # pmdp_invalidate() flushes even a PROT_NONE entry, which no TLB can hold.
    held = pte.accessible(at.bits) | (pmd & ~hugetlb)
    by_unmap = (walking.action == SPLIT) & ~walking.stays
    held |= by_unmap & rules.unmap_flushes_hints
    clears = walking.takes & at.here
    put_off = walking.batch & ~pmd & tlb.should_defer(rules, tlbs.cpus, walking.cpu)[mm]
    deferred = clears & put_off & tlb.defers_entry(rules, at.bits)
    tlbs = dataclasses.replace(tlbs, cpus=tlb.defer(rules, tlbs.cpus, mm, deferred))
    # One flush_tlb_range() for all PTEs of the folio, issued at the first of them.
    run = by_unmap & ~pmd & ~put_off & rules.unmaps_file_runs
    rest = run & (at.page > 0)
    pages = jnp.where(run, jnp.int32(1) << frame.order(walking.flags), 1)
    now = clears & held & ~put_off & ~rest
    # arm64 sends the TLBI at once and defers only the wait for its end.  The process that
    # zaps an entry, or the driver that repoints it, flushes it: not counted in this call.
    others = (walking.action == ZAP) | (walking.action == REPOINT)
    silent = (deferred & rules.broadcasts) | ((others | rest) & at.here)

    def flush(carry: tuple[Cached, Events]) -> tuple[Cached, Events]:
        what = (pmd, ~pmd | hugetlb, pages, now)
        t, ev, alone = tlb.flush_entry(rules, *carry, mm, walking.cpu, *what)
        cpus = alone | silent
        return tlb.drop_entry(t, at.entry, pmd, cpus, len(geometry.orders) > 1), ev

    tlbs, ev = xla.when(now | silent, flush, (tlbs, ev))
    return tlbs, ev.add(
        ptes_cleared=clears & ~pmd, pmds_cleared=clears & pmd, ptes_deferred=deferred
    )


def _becomes(walking: Walk, at: Visit) -> tuple[Index, Index]:
    """Both words of the entry afterwards."""
    bits = at.bits
    waits = pte.to_migration(bits)
    splits, remaps = walking.action == SPLIT, walking.action == REMAP
    # unmap_folio() and remap_page(): a split's entry is a migration entry in between.
    anon = frame.is_anon(walking.flags) | frame.has(walking.flags, frame.EXCLUSIVE_MAP)
    own = frame.has(walking.flags, frame.DIRTY)
    own = jnp.where(splits, pte.has(bits, pte.DIRTY), own)
    anon = jnp.where(splits, walking.stays, anon)
    back = pte.from_migration(jnp.where(splits, waits, bits), anon, own)
    keeps = splits & walking.stays & ~pte.has(bits, pte.HUGE)
    empty = keeps & walking.zeros & frame.is_empty(at.flags)
    keeps &= ~empty
    unmaps = walking.action == UNMAP
    zapped = (walking.action == ZAP) | (splits & ~keeps)
    word = jnp.where(unmaps & ~walking.refuses, waits, bits)
    word = jnp.where(remaps | keeps, back, jnp.where(zapped, pte.empty(bits), word))
    moved = remaps | (walking.action == REPOINT)
    word = jnp.where(empty, pte.zero(bits), word)
    pfn = jnp.where(moved, walking.head + at.page, jnp.where(zapped, NOWHERE, at.pfn))
    return jnp.where(at.here, pfn, at.pfn), jnp.where(at.here, word, bits)


def _note(ev: Events, walking: Walk, at: Visit, pfn: Index, word: Index) -> Events:
    """Count and log the trace points set_migration_pte and remove_migration_pte."""
    order = frame.order(walking.flags)
    pmd = pte.has(at.bits, pte.HUGE)
    remaps = (walking.action == REMAP) & at.here
    splits = (walking.action == SPLIT) & walking.stays & at.here
    unmaps = (walking.action == UNMAP) & ~walking.refuses & at.here
    waits = pte.to_migration(at.bits)
    ev = ev.note(log.SET, at.entry, at.pfn, waits, order, when=unmaps | (splits & ~pmd))
    # compound_order() of a tail page is 0.
    whole = jnp.where(remaps & (at.page == 0), order, 0)
    removes = remaps | (splits & ~pmd & ~(walking.zeros & frame.is_empty(at.flags)))
    ev = ev.note(log.REMOVE, at.entry, pfn, word, whole, when=removes)
    pieces, n = _piece(waits, at), jnp.int32(1) << order
    # If pieces of zeros are not remapped, `_map_pieces` logs each of the others.
    all_ = splits & pmd & ~walking.zeros
    ev = ev.note(log.PIECES, at.entry, walking.head, pieces, n, when=all_)
    return ev.add(ptes_set=remaps & ~pmd, pmds_set=remaps & pmd)


def _piece(waits: Index, at: Visit) -> Index:
    """The word of a piece below a PMD leaf."""
    return pte.from_migration(waits, jnp.asarray(True), pte.has(at.bits, pte.DIRTY))


def _mapcount(rows: Array, walking: Walk, at: Visit) -> Array:
    """The page's row with its mapcount: 0 once unmapped, one more for an entry remapped."""
    gone = (walking.action == UNMAP) & ~walking.refuses & at.here
    one = (walking.action == REMAP) & at.here
    count = jnp.where(gone, 0, at.mapcount + one)
    place = (walking.head + at.page, MAPCOUNT)
    return jax.lax.dynamic_update_slice(
        rows, count[None, None], place, allow_negative_indices=False
    )


def _map_pieces(
    geometry: Geometry, m: RmapState, walking: Walk, at: Visit
) -> RmapState:
    """Fill the page table under a split PMD leaf with entries of the pieces.

    In the head's rmap chain the first of these PTEs replaces the leaf.
    """
    fills = (walking.action == SPLIT) & walking.stays
    fills &= at.here & pte.has(at.bits, pte.HUGE)
    leaf = jnp.clip(at.entry - geometry.ptes, 0, walking.pmd_table.shape[0] - 1)
    table = xla.read(leaf, lambda: xla.row(walking.pmd_table, leaf))
    word = _piece(pte.to_migration(at.bits), at)

    def piece(
        index: Index, carry: tuple[Array, Array, Array, Events]
    ) -> tuple[Array, Array, Array, Events]:
        entries, following, rows, ev = carry
        e, f, tail = table + index, walking.head + index, index > 0
        row, bits = xla.read(
            index, lambda: (xla.row(rows, f), xla.row(entries, e)[pte.BITS])
        )
        new = (word & ~pte.STAYS) | pte.empty(bits)
        # `split.piece_rows` drops this piece's rmap chain and mapcount.
        empty = walking.zeros & frame.is_empty(row[frame.FLAGS])
        new = jnp.where(empty, pte.zero(bits), new)
        pfn = jnp.where(empty, NOWHERE, f)
        entries = xla.put(entries, e, jnp.stack([pfn, new]))
        ev = ev.note(log.REMOVE, e, f, new, 0, when=walking.zeros & ~empty)
        then, linked = jnp.where(tail, row[RMAP], at.following), ~tail & behind
        following = xla.put(following, e, then)
        if geometry.shared:
            before = jnp.where(linked, m.last, e)
            following = xla.put(following, before, jnp.where(linked, e, then))
        front = jnp.where(linked, row[RMAP], e)
        column = jnp.arange(frame.COLUMNS)
        row = jnp.where(column == RMAP, front, row + (tail & (column == MAPCOUNT)))
        return entries, following, xla.put(rows, xla.after(f, row[RMAP]), row), ev

    behind = m.last != NOWHERE
    count = jnp.where(fills, jnp.int32(1) << frame.order(walking.flags), 0)
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
