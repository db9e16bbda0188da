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
        new = xla.read(
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

    new = xla.read(src, rows)
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, src, where, new))
    return m, Known(new, words)
