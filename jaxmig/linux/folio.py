"""What the forms of migration share about one folio: results, sizes, references.

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
PIN_HELD: Final = cond.PIN_HELD
GUP_PIN_COUNTING_BIAS: Final = 1024


@pytree
class Where:
    """The CPU that migrates and the node it migrates to."""

    cpu: Int32[Array, ""]
    node: Int32[Array, ""]


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


def split_first(rules: Rules, flags: Index) -> Flag:
    """Whether a folio is split before anything else is tried: since 6.10 if it is queued
    as partially mapped.  Only anonymous folios are ever on that queue.
    """
    queued = frame.has(flags, frame.SPLIT_QUEUED) & frame.is_anon(flags)
    return queued & (frame.order(flags) > 1) & rules.splits_partially_mapped


def exclusive(flags: Index) -> Flag:
    """Whether FOLL_PIN makes this folio's entries refuse."""
    return frame.has(flags, frame.EXCLUSIVE_MAP)


def pin_refs(flags: Int32[Array, "*lanes"]) -> Int32[Array, "*lanes"]:
    """References of one pin (try_grab_folio()): a base page's counts for 1024."""
    return jnp.where(frame.order(flags) == 0, GUP_PIN_COUNTING_BIAS, 1)


def is_freed(
    keeps_driver_pages: Any,
    flags: Int32[Array, "*lanes"],
    refs: Int32[Array, "*lanes"],
    marks: Int32[Array, "*lanes"],
) -> Bool[Array, "*lanes"]:
    """Whether only the isolation holds the folio; a driver has references of its own."""
    freed = ((marks & cond.FREED) != 0) | (refs == 0)
    driver = frame.kind(flags) == frame.MOVABLE_OPS
    return freed & ~(driver & keeps_driver_pages)
