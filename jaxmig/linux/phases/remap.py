"""Phase 4: migration entries become entries of the destination, or of the source again.

The destination gets the source's row, and the source a blank one; this phase writes
every row once.

Nothing is flushed: no TLB can hold a migration entry.

Source: folio_migrate_mapping(), folio_migrate_flags(), remove_migration_ptes(),
remove_migration_pte() in mm/migrate.c, remove_migration_pmd() in mm/huge_memory.c,
Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.linux.phases.unmap import HeadChanges
from jaxmig.state import frame, lanes, pte
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.state.lanes import Known, Lanes, Mask
from jaxmig.state.machine import BLANK, NOWHERE, Machine


@jax.named_scope("remove_migration_ptes")
def remap(
    m: Machine,
    src: Lanes,
    dst: Lanes,
    pages: tuple[Mask, Mask, Mask],
    known: Known,
    held: HeadChanges,
) -> Machine:
    """Replace migration entries by present ones, and unlock the folios.

    Args:
      src: int32[lanes], frames of the pages.
      dst: int32[lanes], frames of those that moved; NOWHERE: not moved.
      pages: bool[lanes] each: pages that were unmapped, heads whose unmap failed at the
        first entry, and pages that were freed, whose rows become blank.
      known: their rows and entries, as the unmap phase left them.
      held: what the unmap phase changed in the rows.
    Returns:
      The machine with frame and pte changed.
    Source: remove_migration_pte() in mm/migrate.c, remove_migration_pmd() in
    mm/huge_memory.c.
    """
    row, (unmapped, refused, gone) = known.row, pages
    moved = dst != NOWHERE
    page = jnp.where(moved, dst, src)
    # Kind and EXCLUSIVE_MAP are in every row of a folio, DIRTY only in its head's.
    flags = row[:, FLAGS]
    anon = frame.is_anon(flags) | frame.has(flags, frame.EXCLUSIVE_MAP)

    def write(carry: tuple, i: Int32[Array, ""]) -> tuple:
        m, entry, count = carry
        here = entry != NOWHERE
        old, following = lanes.entry_or(known.chains, m, entry, i)
        word = pte.from_migration(old[:, pte.BITS], anon, held.dirty)
        new = lanes.columns(page, word)
        m = dataclasses.replace(m, pte=lanes.scatter(m.pte, entry, here, new))
        return m, following, count + here

    first = jnp.where(unmapped, row[:, frame.RMAP], NOWHERE)
    start = (m, first, jnp.zeros_like(first))
    m, _, count = lanes.along_chains(m.geometry.shared, write, start)
    # A reference and a mapcount for each entry restored; the migration's flags end.
    new = lanes.columns(
        row[:, REFCOUNT] + jnp.where(unmapped, held.maps, 0),
        row[:, MAPCOUNT] + count,
        flags & ~(frame.LOCKED | frame.UNMAPPED | frame.FLUSHED),
        row[:, frame.RMAP],
    )
    rows = lanes.scatter(m.frame, page, unmapped | refused | moved, new)
    blank = jnp.broadcast_to(jnp.asarray(BLANK, jnp.int32), row.shape)
    rows = lanes.scatter(rows, src, moved | gone, blank)
    return dataclasses.replace(m, frame=rows)
