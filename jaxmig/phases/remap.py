"""Phase 4: migration entries become entries of the destination, or of the source again.

Nothing is flushed: no TLB can hold a migration entry.

Source: remove_migration_ptes(), remove_migration_pte() in mm/migrate.c,
remove_migration_pmd() in mm/huge_memory.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxmig import frame, pte, xla
from jaxmig.frame import FLAGS, MAPCOUNT, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Known, Lanes, Mask


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
        row = xla.read(page, lambda: lanes.rows(m.frame, page))
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
