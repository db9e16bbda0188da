"""What the forms of migration share about one folio: results, sizes, references.

Source: migrate_folio_unmap(), migrate_folio_move() in mm/migrate.c.
"""

from typing import Any, Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

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


def exclusive(row: Int32[Array, " 4"]) -> Flag:
    """Whether FOLL_PIN makes this folio's entries refuse."""
    return frame.has(row[FLAGS], frame.EXCLUSIVE_MAP)


def pin_refs(row: Int32[Array, "*lanes 4"]) -> Int32[Array, "*lanes"]:
    """References of one pin (try_grab_folio()): a base page's counts for 1024."""
    small = frame.order(row[..., FLAGS]) == 0
    return jnp.where(small, GUP_PIN_COUNTING_BIAS, 1)


def freed_under_us(
    rules: Rules, row: Int32[Array, "*lanes 4"], bits: Int32[Array, "*lanes"]
) -> Bool[Array, "*lanes"]:
    """Whether only the isolation holds the folio; a driver has references of its own."""
    return is_freed(rules.moves_freed_driver_pages, row, bits)


def is_freed(
    keeps_driver_pages: Any, row: Int32[Array, "*lanes 4"], bits: Int32[Array, "*lanes"]
) -> Bool[Array, "*lanes"]:
    """The same, where it is data whether a driver's pages are ever taken for freed."""
    freed = ((bits & cond.FREED) != 0) | (row[..., REFCOUNT] == 0)
    driver = frame.kind(row[..., FLAGS]) == frame.MOVABLE_OPS
    return freed & ~(driver & keeps_driver_pages)
