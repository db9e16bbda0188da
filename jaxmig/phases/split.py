"""Splitting a large folio into base pages, when it cannot be moved whole.

An anonymous folio's pages stay mapped, each by a PTE of its own.  The pages of a file
or shmem folio are unmapped and will be faulted back when somebody touches them.

Source: split_huge_page_to_list(), unmap_folio(), __split_huge_pmd_locked(),
can_split_folio() in mm/huge_memory.c, try_split_folio() in mm/migrate.c, Linux 6.3 to
6.18.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, pte, tlb, wall
from jaxmig.events import Events
from jaxmig.frame import FLAGS, MAPCOUNT, RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases.rmap import Visit, rmap_walk, walked_pages
from jaxmig.phases.unmap import clear_flush
from jaxmig.rules import Rules

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def mappings(m: Machine, head: Index, pages: Index) -> Index:
    """Entries that map a folio, summed over its frames."""
    return jax.lax.fori_loop(
        0, pages, lambda i, n: n + m.frame[head + i, MAPCOUNT], jnp.int32(0)
    )


def split_folio(
    rules: Rules, m: Machine, ev: Events, head: Index, cpu: Index
) -> tuple[Machine, Events]:
    """Split the folio at `head`; what may forbid it has been tested before."""
    row = wall.read(head, lambda: m.frame[head])
    flags = row[FLAGS]
    pages = jnp.int32(1) << frame.order(flags)
    stays = frame.is_anon(flags)
    late = rules.release.split_flushes_batch
    walked = walked_pages(m, row, pages)
    under_pmd = (walked == 1) & (pages > 1)

    def visit(m: Machine, carry: tuple[Events, Index, Flag], at: Visit) -> tuple:
        ev, seen, dirty = carry
        no = jnp.asarray(False)
        m, ev = clear_flush(rules, m, ev, at, cpu, late, no)
        word = pte.from_migration(
            pte.to_migration(at.bits), stays, pte.has(at.bits, pte.DIRTY)
        )
        ev = _note(ev, at, head, word, flags, under_pmd)
        word = jnp.where(stays & ~under_pmd, word, pte.empty(at.bits))
        pfn = jnp.where(stays & ~under_pmd, at.pfn, NOWHERE)
        m = dataclasses.replace(
            m, pte=wall.put(m.pte, at.entry, jnp.stack([pfn, word]))
        )
        count = jnp.where(under_pmd & stays, pages, 0)
        m = _map_pieces(m, head, at, seen == 0, count)
        dirty = dirty | pte.has(at.bits, pte.DIRTY)
        return m, (ev, seen + 1, dirty), jnp.asarray(True)

    start = (ev, jnp.int32(0), jnp.asarray(False))
    m, (ev, seen, dirty) = rmap_walk(m, head, walked, visit, start)
    row = row.at[FLAGS].set(flags | jnp.where(dirty, frame.DIRTY, 0))
    if late:
        m, ev = tlb.flush_batch(rules, m, ev, cpu)
    return _piece_rows(m, head, row, seen, under_pmd), ev


def _note(
    ev: Events, at: Visit, head: Index, word: Index, flags: Index, under_pmd: Flag
) -> Events:
    """Log what the trace points show of an anonymous folio's entry."""
    stays, order = frame.is_anon(flags), frame.order(flags)
    by_pte = stays & ~under_pmd
    waits = pte.to_migration(at.bits)
    ev = ev.note(log.SET, at.entry, at.pfn, waits, order, when=by_pte)
    ev = ev.note(log.REMOVE, at.entry, at.pfn, word, 0, when=by_pte)
    pages = jnp.int32(1) << order
    return ev.note(log.PIECES, at.entry, head, word, pages, when=stays & under_pmd)


def _map_pieces(
    m: Machine, head: Index, at: Visit, first: Flag, count: Index
) -> Machine:
    """Fill the page table under a PMD leaf with entries of its pieces."""
    leaf = jnp.clip(at.entry - m.geometry.ptes, 0, m.pmd_table.shape[0] - 1)
    table = m.pmd_table[leaf]
    dirty = pte.has(at.bits, pte.DIRTY)
    word = pte.from_migration(pte.to_migration(at.bits), jnp.asarray(True), dirty)

    def piece(j: Index, c: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        entries, following, rows = c
        e, f = table + j, head + j
        old, bits = wall.read(j, lambda: (rows[f, RMAP], entries[e, pte.BITS]))
        new = (word & ~pte.STAYS) | pte.empty(bits)
        entries = wall.put(entries, e, jnp.stack([f, new]))
        following = wall.put(following, e, jnp.where(first, NOWHERE, old))
        return entries, following, rows.at[f, RMAP].set(e)

    arrays = (m.pte, m.rmap_next, m.frame)
    entries, following, rows = jax.lax.fori_loop(0, count, piece, arrays)
    return dataclasses.replace(m, pte=entries, rmap_next=following, frame=rows)


def _piece_rows(
    m: Machine, head: Index, row: Int32[Array, " 4"], seen: Index, under_pmd: Flag
) -> Machine:
    """Rows of the pieces: base pages with the references their mappings give them."""
    flags = row[FLAGS]
    stays = frame.is_anon(flags)
    bits = flags & ~(frame.ORDER | frame.TAIL | frame.PRIVATE | frame.SPLIT_QUEUED)
    cached = frame.cache_refs(bits)

    def piece(j: Index, rows: Array) -> Array:
        old = wall.read(j, lambda: rows[head + j])
        maps = jnp.where(stays, jnp.where(under_pmd, seen, old[MAPCOUNT]), 0)
        chain = jnp.where(stays, old[RMAP], NOWHERE)
        return wall.put(rows, head + j, jnp.stack([maps + cached, maps, bits, chain]))

    pages = jnp.int32(1) << frame.order(flags)
    m = dataclasses.replace(m, frame=jax.lax.fori_loop(0, pages, piece, m.frame))
    c = m.conditions
    if c is None:
        return m
    none = jnp.zeros(c.shape[1], jnp.int32)
    return dataclasses.replace(m, conditions=wall.put(c, head, none))
