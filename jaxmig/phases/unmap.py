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
from jaxtyping import Array, Int32

from jaxmig import frame, pte, xla
from jaxmig.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.phases.window import Window


@jax.named_scope("try_to_migrate")
def unmap(
    m: Machine, w: Window, known: Known, folios: Mask, refused: Mask, lost: Lanes
) -> tuple[Machine, Known]:
    """Write migration entries for the base pages of the folios in `folios`; lock them.

    Args:
      known: rows and entries of the pages, as they are.
      folios: folio lanes that are unmapped.
      refused: those whose first entry was flushed and put back as it was: their heads
        are marked until then.
      lost: references of each folio that were found gone.
    Returns:
      The machine, and what is known of the pages then.

    Which flushes are asked for is `rounds.py`'s affair.
    """
    row, where = known.row, w.spread(folios)

    def write(c: tuple) -> tuple:
        m, entry, count, dirty, words = c
        here = entry != NOWHERE
        old, following = lanes.entry_or(known.words, m, entry)
        bits = old[:, pte.BITS]
        # Behind a wall it is computed once, for this phase and the last one.
        new = xla.read(
            w.page, lambda: lanes.columns(old[:, pte.PFN], pte.to_migration(bits))
        )
        m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
        dirty |= here & pte.has(bits, pte.DIRTY)
        return m, following, count + here, dirty, None if words is None else new

    first = jnp.where(where, row[:, frame.RMAP], NOWHERE)
    start = (m, first, jnp.zeros_like(first), where & False, known.words)
    m, _, count, dirty, words = lanes.along_chains(m.geometry.shared, write, start)
    new = _rows(w, row, folios, refused, (count, dirty, lost))
    changed = where | w.spread(refused)
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, w.page, changed, new))
    return m, Known(new, words)


def _rows(
    w: Window,
    row: Int32[Array, "lanes 4"],
    folios: Mask,
    refused: Mask,
    found: tuple[Lanes, Mask, Lanes],
) -> Int32[Array, "lanes 4"]:
    """Rows of the pages: references and flags are the head's, counts each page's."""
    count, dirty, lost = found
    maps = w.total(count)
    state = frame.LOCKED | jnp.where(maps > 0, frame.UNMAPPED, 0)
    state |= jnp.where(w.total(dirty.astype(jnp.int32)) > 0, frame.DIRTY, 0)
    state = jnp.where(folios, state, 0) | jnp.where(refused, frame.FLUSHED, 0)
    taken = jnp.where(folios, maps + lost, 0)
    if w.large:
        head = w.is_head
        state, taken = (jnp.where(head, w.spread(x), 0) for x in (state, taken))
    where = w.spread(folios)

    def rows() -> Int32[Array, "lanes 4"]:
        new = lanes.columns(
            row[:, REFCOUNT] - taken,
            jnp.where(where, 0, row[:, MAPCOUNT]),
            row[:, FLAGS] | state,
            row[:, frame.RMAP],
        )
        return new

    return xla.read(w.page, rows)



