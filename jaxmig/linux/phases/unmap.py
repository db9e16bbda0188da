"""Phase 1: replace every entry of a folio by a migration entry.

Each entry is cleared, and flushed immediately or by its batch's flush.  If an exclusive
page may be pinned, its entry is cleared, flushed and restored, and the walk fails.

Source: try_to_migrate_one(), set_pmd_migration_entry(), should_defer_flush() in
mm/rmap.c and mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.state.lanes import Known, Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window


@pytree
class HeadChanges:
    """What unmapping changes in the rows of pages."""

    maps: Lanes  # entries of the folio, in its head's lane: a reference each
    lost: Lanes  # extra references that ended, in its head's lane
    dirty: Mask  # whether the page's folio is, or an entry of it


@jax.named_scope("try_to_migrate")
def unmap(
    m: Machine,
    window: Window,
    known: Known,
    pages: tuple[Mask, Mask],
    held: HeadChanges,
    seen: bool,
) -> tuple[Machine, Known]:
    """Write migration entries for base pages; lock their folios.

    The flushes that this takes are worked out in `flush_requests.py`.

    Args:
      known: rows and entries of the pages, as they are.
      pages: bool[lanes] both: pages that are unmapped; heads whose unmap fails at the
        first entry, which are marked FLUSHED until the remap phase.
      held: what changes in their rows.
      seen: whether the rows are read before the remap phase writes them again.
    Returns:
      The machine; rows and entries of the pages as they are then.
    Source: try_to_migrate_one() in mm/rmap.c, set_pmd_migration_entry() in
    mm/huge_memory.c.
    """
    row, (where, refused) = known.row, pages

    # Computed once, for this phase and the remap phase.
    chains = dataclasses.replace(
        known.chains,
        words=xla.once(window.page, lambda: _migration(known.chains.words)),
    )

    def write(carry: tuple, i: Int32[Array, ""]) -> tuple:
        m, entry = carry
        old, following = lanes.entry_or(chains, m, entry, i)
        # What is known is the new entry already, what is read is not.
        new = jnp.where(i < lanes.DEPTH, old, _migration(old))
        here = entry != NOWHERE
        m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
        return m, following

    first = jnp.where(where, row[:, frame.RMAP], NOWHERE)
    m, _ = lanes.along_chains(m.geometry.shared, write, (m, first))
    new = _rows(window, row, pages, held)
    if seen:
        rows = lanes.scatter(m.frame, window.page, where | refused, new)
    elif m.conditions is not None:
        # The flush phase reads the FLUSHED marks of failed unmaps.
        rows = xla.skip_unless(
            lanes.some(refused)[0],
            lambda rows: lanes.scatter(rows, window.page, refused, new),
            m.frame,
        )
    else:
        rows = m.frame
    return dataclasses.replace(m, frame=rows), Known(new, chains)


def _migration(words: Int32[Array, "*lanes 2"]) -> Int32[Array, "*lanes 2"]:
    bits = pte.to_migration(words[..., pte.BITS])
    return jnp.where(jnp.arange(2) == pte.BITS, bits[..., None], words)


def _rows(
    window: Window,
    row: Int32[Array, "lanes 4"],
    pages: tuple[Mask, Mask],
    held: HeadChanges,
) -> Int32[Array, "lanes 4"]:
    where, refused = pages
    state = frame.LOCKED | jnp.where(held.maps > 0, frame.UNMAPPED, 0)
    # folio_mark_dirty() comes before an entry is restored.
    dirty = jnp.where(held.dirty, frame.DIRTY, 0)
    state = jnp.where(where & window.is_head, state | dirty, 0)
    state |= jnp.where(refused, frame.FLUSHED | dirty, 0)
    taken = jnp.where(where, held.maps + held.lost, 0)

    def rows() -> Int32[Array, "lanes 4"]:
        return lanes.columns(
            row[:, REFCOUNT] - taken,
            jnp.where(where, 0, row[:, MAPCOUNT]),
            row[:, FLAGS] | state,
            row[:, frame.RMAP],
        )

    return xla.once(window.page, rows)
