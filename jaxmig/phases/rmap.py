"""The reverse map: from a folio to the entries that map it.

Chains are intrusive: a frame's row names its first entry, `Machine.rmap_next` the one
after.  A moved folio takes its heads along, so that no chain is ever rewritten.

Source: rmap_walk(), mm/rmap.c.  The locks of the anon_vma tree are not modelled.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import wall
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.pte import BITS, PFN

C = TypeVar("C")
Index = Int32[Array, ""]


@dataclasses.dataclass(frozen=True)
class Visit:
    """One entry on the walk."""

    entry: Index
    pfn: Index  # the entry's first word
    bits: Index  # the entry's second word
    page: Index  # which base page of the folio it maps


def walked_pages(m: Machine, row: Int32[Array, " 4"], pages: Index) -> Index:
    """How many frames of a folio can have chains: only the head under a PMD mapping."""
    pmd = (row[RMAP] >= m.geometry.ptes) & (row[RMAP] != NOWHERE)
    return jnp.where(pmd, 1, pages)


def rmap_walk(
    m: Machine,
    head: Index,
    pages: Index,
    visit: Callable[[Machine, C, Visit], tuple[Machine, C, Bool[Array, ""]]],
    carry: C,
) -> tuple[Machine, C]:
    """Visit every entry that maps frames `head` ... `head + pages - 1`, in order.

    `visit` returns whether to go on; `pages` 0 visits nothing.
    """
    if not m.geometry.shared and m.geometry.orders == (0,):
        return _visit_one(m, head, pages > 0, visit, carry)

    def go_on(c: tuple[Machine, C, Index, Index, Bool[Array, ""]]) -> Bool[Array, ""]:
        return (c[2] < pages) & c[4]

    def step(c: tuple[Machine, C, Index, Index, Bool[Array, ""]]) -> tuple:
        m, carry, page, entry, _ = c
        at_end = entry == NOWHERE
        safe = jnp.where(at_end, 0, entry)
        pte, following, first = wall.read(
            page,
            lambda: (
                m.pte[safe],
                m.rmap_next[safe],
                m.frame[jnp.minimum(head + page + 1, m.frame.shape[0] - 1), RMAP],
            ),
        )

        def one(state: tuple[Machine, C, Bool[Array, ""]]) -> tuple:
            return visit(state[0], state[1], Visit(entry, pte[PFN], pte[BITS], page))

        m, carry, more = wall.when(~at_end, one, (m, carry, jnp.asarray(True)))
        entry = jnp.where(at_end, first, following)
        return m, carry, page + at_end, entry, more

    start = wall.read(head, lambda: m.frame[head, RMAP])
    state = (m, carry, jnp.int32(0), start, jnp.asarray(True))
    return jax.lax.while_loop(go_on, step, state)[:2]


def _visit_one(m: Machine, head: Index, live: Bool[Array, ""], visit, carry: C):  # type: ignore[no-untyped-def]
    # With one mapping a folio the walk is a single trip at most.
    entry, pte = wall.read(head, lambda: _first(m, head))

    def one(state: tuple[Machine, C, Bool[Array, ""]]) -> tuple:
        at = Visit(entry, pte[PFN], pte[BITS], jnp.int32(0))
        return visit(state[0], state[1], at)

    go = live & (entry != NOWHERE)
    m, carry, _ = wall.when(go, one, (m, carry, jnp.asarray(True)))
    return m, carry


def _first(m: Machine, head: Index) -> tuple[Index, Int32[Array, " 2"]]:
    entry = m.frame[head, RMAP]
    return entry, m.pte[jnp.where(entry == NOWHERE, 0, entry)]
