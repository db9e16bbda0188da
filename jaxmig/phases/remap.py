"""Phase 4: migration entries become entries of the destination, or of the source again.

Nothing is flushed: no TLB can hold a migration entry.

Source: remove_migration_ptes(), remove_migration_pte() in mm/migrate.c,
remove_migration_pmd() in mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, pte, wall
from jaxmig.events import Events
from jaxmig.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.phases.rmap import Visit, rmap_walk, walked_pages

Index = Int32[Array, ""]


@jax.named_scope("remove_migration_ptes")
def remap_folio(
    m: Machine, ev: Events, head: Index, live: Bool[Array, ""]
) -> tuple[Machine, Events]:
    """Map the folio at `head` wherever a migration entry stands for it, if `live`.

    Also unlocks it.  `head` is the destination after a move and the source otherwise:
    either way the frame whose row names the chains.
    """
    row = wall.read(head, lambda: m.frame[head])
    flags = row[FLAGS]
    mapped = live & frame.has(flags, frame.UNMAPPED)
    pages = walked_pages(m, row, jnp.int32(1) << frame.order(flags))
    anon = frame.is_anon(flags) | frame.has(flags, frame.EXCLUSIVE_MAP)
    dirty = frame.has(flags, frame.DIRTY)

    def visit(m: Machine, carry: tuple[Events, Index], at: Visit) -> tuple:
        ev, count = carry
        word = pte.from_migration(at.bits, anon, dirty)
        new = jnp.stack([head + at.page, word])
        # compound_order() of a tail page is 0.
        order = jnp.where(at.page == 0, frame.order(flags), 0)
        ev = ev.note(log.REMOVE, at.entry, head + at.page, word, order)
        m = dataclasses.replace(m, pte=wall.put(m.pte, at.entry, new))
        if len(m.geometry.orders) > 1:
            rows = m.frame.at[head + at.page, MAPCOUNT].add(1)
            m = dataclasses.replace(m, frame=rows)
        pmd = pte.has(at.bits, pte.HUGE)
        return m, (ev.add(ptes_set=~pmd, pmds_set=pmd), count + 1), jnp.asarray(True)

    walked = jnp.where(mapped, pages, 0)
    m, (ev, count) = rmap_walk(m, head, walked, visit, (ev, jnp.int32(0)))
    maps = wall.read(head, lambda: m.frame[head, MAPCOUNT])
    if len(m.geometry.orders) == 1:
        maps = maps + count
    state = jnp.where(live, frame.LOCKED | frame.UNMAPPED, 0)
    new = jnp.stack([row[REFCOUNT] + count, maps, flags & ~state, row[frame.RMAP]])
    return dataclasses.replace(m, frame=wall.put(m.frame, head, new)), ev


@jax.named_scope("remove_migration_ptes")
def remap(
    m: Machine,
    page: Lanes,
    where: Mask,
    known: Known | None = None,
    flushed: Mask | None = None,
) -> Machine:
    """Map base pages wherever a migration entry stands for them, and unlock them.

    `flushed`: of these, pages to be marked so (see `flush.mark`).
    """
    if known is None:
        row = wall.read(page, lambda: lanes.rows(m.frame, page))
    else:
        row = known.row
    words = None if known is None else known.words
    flags = row[:, FLAGS]
    mapped = where & frame.has(flags, frame.UNMAPPED)
    anon = frame.is_anon(flags) | frame.has(flags, frame.EXCLUSIVE_MAP)
    dirty = frame.has(flags, frame.DIRTY)

    def write(c: tuple[Machine, Lanes, Lanes]) -> tuple[Machine, Lanes, Lanes]:
        m, entry, count = c
        here = entry != NOWHERE
        old, following = lanes.entry_or(words, m, entry)
        word = pte.from_migration(old[:, pte.BITS], anon, dirty)
        new = lanes.columns(page, word)
        m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
        return m, following, count + here

    first = jnp.where(mapped, row[:, frame.RMAP], NOWHERE)
    start = (m, first, jnp.zeros_like(first))
    m, _, count = lanes.along_chains(m.geometry.shared, write, start)
    mark = 0 if flushed is None else jnp.where(flushed, frame.FLUSHED, 0)
    new = lanes.columns(
        row[:, REFCOUNT] + count,
        row[:, MAPCOUNT] + count,
        flags & ~(frame.LOCKED | frame.UNMAPPED) | mark,
        row[:, frame.RMAP],
    )
    return dataclasses.replace(m, frame=lanes.scatter(m.frame, page, where, new))
