"""What the page tables say of the folios of a batched call, before anything is done.

Source: folio_mapcount(), page_vma_mapped_walk() as try_to_migrate_one() sees it.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, pte, wall
from jaxmig.frame import FLAGS, RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes
from jaxmig.pytree import pytree
from jaxmig.rules import Rules


@pytree
class Seen:
    """What the page tables say of each folio."""

    mm: Lanes  # address space of the first mapping
    maps: Lanes
    held: Lanes  # mappings that a TLB may hold
    counted: Lanes  # mappings whose flush this release puts off
    later: Lanes  # mappings that a TLB may hold once they were put back: no NUMA hints
    # Of the only entry, a driver's page's too; None if some entries are shared.
    words: Int32[Array, "lanes 2"] | None


def look(
    rules: Rules, m: Machine, src: Lanes, put_off: Bool[Array, " mms"]
) -> tuple[Int32[Array, "lanes 4"], Seen]:
    """Rows and mappings of the folios."""
    row = wall.read(src, lambda: lanes.rows(m.frame, src))
    first = jnp.where(src == NOWHERE, NOWHERE, chain(m, row))
    zero = jnp.zeros_like(first)

    def step(c: tuple) -> tuple:
        seen, entry = c
        here = entry != NOWHERE
        # Nothing depends on the chain: whoever zaps a driver's page need not read again.
        at = entry if m.geometry.shared else row[:, RMAP]
        old, following = wall.read(at, lambda: lanes.entry_of(m, at))
        bits = old[:, pte.BITS]
        held = here & pte.accessible(bits)
        counted = held if rules.checks_pte_accessible else here
        counted &= put_off[jnp.where(here, pte.mm_of(bits), 0)]
        first_mm = jnp.where(seen.maps == 0, pte.mm_of(bits), seen.mm)
        seen = Seen(
            first_mm,
            seen.maps + here,
            seen.held + held,
            seen.counted + counted,
            seen.later + (here & ~pte.has(bits, pte.VM_PROT_NONE)),
            None if m.geometry.shared else old,
        )
        return seen, following

    start = (Seen(zero, zero, zero, zero, zero, None), first)
    seen, _ = lanes.along_chains(m.geometry.shared, step, start)
    return row, seen


def chain(m: Machine, row: Int32[Array, "lanes 4"]) -> Lanes:
    """First entries of the folios' chains; nobody walks those of a driver's pages."""
    if m.conditions is None:
        return row[:, RMAP]
    movable = frame.kind(row[:, FLAGS]) == frame.MOVABLE_OPS
    return jnp.where(movable, NOWHERE, row[:, RMAP])
