"""Results of an attempt, sizes and references of a folio, for all forms of a call.

Source: migrate_folio_unmap(), migrate_folio_move() in mm/migrate.c.
"""

from typing import Any, Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.rules import Rules
from jaxmig.state import conditions as cond, frame
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]

# Results of an attempt; errno names as the kernel's.
SUCCESS, UNMAPPED, EAGAIN, FAILED, ENOMEM, EDEADLOCK, SLEEPS = range(7)
CROWDED: Final = 7  # not Linux's: the model has no free frame where memory is left
PIN_HELD: Final = cond.PIN_HELD
GUP_PIN_COUNTING_BIAS: Final = 1024  # include/linux/mm.h


@pytree
class Fallback:
    """Nodes that may be used once the target is full: nmask of alloc_migrate_folio()."""

    distance: Int32[Array, " nodes"]  # the nearest first; the target's is 0
    allowed: Bool[Array, " nodes"]  # the others of the mask
    keeps: Bool[Array, ""]  # if not, a folio that finds room on the target clears it


@pytree
class Where:
    """The CPU that migrates and the node it migrates to."""

    cpu: Int32[Array, ""]
    node: Int32[Array, ""]
    fallback: Fallback | None = None  # None: no other node is tried


def pages_of(flags: Index) -> Index:
    """Base pages of a folio."""
    return jnp.int32(1) << frame.order(flags)


def is_thp(rules: Rules, flags: Index) -> Flag:
    """What thp_* statistics count as a THP in this release."""
    order = frame.order(flags)
    large = (order == frame.PMD_ORDER) | (rules.thp_counts_large & (order > 0))
    return large & (frame.kind(flags) != frame.HUGETLB)


def drains(rules: Rules, flags: Index, mapped: Flag) -> Flag:
    """Whether lru_add_drain() follows a move: if it was mapped, since 6.6 if mlocked."""
    mlocked = frame.has(flags, frame.MLOCKED)
    return jnp.where(rules.drains_mlocked, mlocked, mapped)


def split_for_memory(rules: Rules, flags: Index) -> Flag:
    """Whether a folio is split when nothing of its size can be allocated.

    Source: case -ENOMEM in migrate_pages() and migrate_pages_batch() in mm/migrate.c.
    """
    large = (frame.order(flags) > 0) & (frame.kind(flags) != frame.HUGETLB)
    return large & ~rules.nosplit


def split_first(rules: Rules, flags: Index) -> Flag:
    """Whether a folio is split before it is unmapped: since 6.10 if it is on the deferred
    split queue, which has anonymous folios only.
    """
    queued = frame.has(flags, frame.SPLIT_QUEUED) & frame.is_anon(flags)
    return queued & (frame.order(flags) > 1) & rules.splits_partially_mapped


def exclusive(flags: Index) -> Flag:
    """Whether a FOLL_PIN makes try_to_migrate() fail (folio_try_share_anon_rmap_pte())."""
    return frame.has(flags, frame.EXCLUSIVE_MAP)


def pin_refs(flags: Int32[Array, "*lanes"]) -> Int32[Array, "*lanes"]:
    """References of one pin (try_grab_folio()): 1024 of a base page, 1 of a large folio."""
    return jnp.where(frame.order(flags) == 0, GUP_PIN_COUNTING_BIAS, 1)


def is_freed(
    keeps_driver_pages: Any,
    flags: Int32[Array, "*lanes"],
    refs: Int32[Array, "*lanes"],
    marks: Int32[Array, "*lanes"],
) -> Bool[Array, "*lanes"]:
    """Whether only the isolation holds the folio.

    Args:
      keeps_driver_pages: whether this release never takes a driver's page for freed.
      flags: its flag word.
      refs: its references without the isolation's.
      marks: its marks, see conditions.py.
    Returns:
      A flag for each folio.
    Source: folio_ref_count(src) == 1 in migrate_folio_unmap(), mm/migrate.c.
    """
    freed = ((marks & cond.FREED) != 0) | (refs == 0)
    driver = frame.kind(flags) == frame.MOVABLE_OPS
    return freed & ~(driver & keeps_driver_pages)
