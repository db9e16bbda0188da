"""A folio, what is asked of it in one step, and what becomes of it.

Source: migrate_folio_unmap(), migrate_folio_move() in mm/migrate.c.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import pages_of
from jaxmig.linux.in_order.carried import State
from jaxmig.state import conditions as cond, frame, xla
from jaxmig.state.frame import FLAGS
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
UNMAP, MOVE, UNDO, DIVIDE, SKIP = range(5)


@pytree
class StepPlan:
    """What a step does to its folio."""

    rc: Index  # how the attempt ended, see folio.py
    node: Index  # of its destination
    tried: Flag  # a destination was allocated
    taken: Flag  # and is reserved from now on
    walks: Flag  # try_to_migrate() walks the entries
    refuses: Flag  # that walk fails at the first entry: FOLL_PIN
    freed: Flag  # only its isolation held it: folio_ref_count() is 1
    released: Flag  # its driver gave it up: it only has to be freed
    moved: Flag
    undone: Flag  # migrate_folio_undo_src(), migrate_folio_undo_dst()
    divided: Flag  # split
    halved: Flag  # not split: only the first of its PMD leaves was
    zeros: Flag  # split, and some pieces are of zeros and mapped to the zero page

    @property
    def gone(self) -> Flag:
        """Whether the folio is not where it was."""
        return self.moved | self.freed | self.released


@dataclasses.dataclass(frozen=True)
class Folio:
    """The folio of a step, as it was before."""

    head: Index
    row: Int32[Array, " 4"]
    words: Int32[Array, " 4"]  # its conditions

    @property
    def flags(self) -> Index:
        """Its flags."""
        return self.row[FLAGS]

    @property
    def pages(self) -> Index:
        """Its base pages."""
        return pages_of(self.flags)

    @property
    def kind(self) -> Index:
        """One of frame.FREE ... HUGETLB."""
        return frame.kind(self.flags)

    @property
    def counted(self) -> Index:
        """Base pages of `nfree` that it takes: hugetlb has a pool of its own."""
        return jnp.where(self.kind == frame.HUGETLB, 0, self.pages)


def look(state: State, head: Index) -> Folio:
    """The folio at `head`."""
    if state.conditions is None:
        row = xla.read(head, lambda: xla.row(state.frame, head))
        return Folio(head, row, jnp.zeros(cond.WORDS, jnp.int32))
    c = state.conditions
    read = xla.read(head, lambda: (xla.row(state.frame, head), xla.row(c, head)))
    return Folio(head, *read)
