"""What stands in a folio's way: kept in its head's row, tested and worn out by
attempts.

`left` says how many more tests of a state find it there; UNTIL_WAITED is never worn
out, only ended by somebody who sleeps on it.  A state that nobody may sleep on and that
lasts for ever has the same number and the bit `forever(state)`.

Source: the outcomes of one attempt, mm/migrate.c and mm/rmap.c, Linux 6.1 to 6.18.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

STATES: Final = (
    "locked",
    "writeback",
    "pinned",
    "temp_stack",
    "extra_ref",
    "buffers_locked",
    "driver_eagain",
    "driver_error",
    "private",
    "huge_dst_unavailable",
)
(
    LOCKED,
    WRITEBACK,
    PINNED,
    TEMP_STACK,
    EXTRA_REF,
    BUFFERS_LOCKED,
    DRIVER_EAGAIN,
    DRIVER_ERROR,
    NO_MAPPING,
    NO_HUGE_DST,
) = range(len(STATES))
UNTIL_WAITED: Final = 1 << 30

FREED: Final = 1 << 16
RELEASED: Final = 1 << 17
ISOLATED: Final = 1 << 18
PIN_HELD: Final = 1 << 19  # a pin that counts as an extra reference
EXTRA_SHIFT: Final = 20  # how many references EXTRA_REF stands for

Row = Int32[Array, " states"]


def forever(state: int) -> int:
    """The bit of Conditions.flags: sleeping on this state would never end."""
    return 1 << state


def blocks(row: Row, state: int) -> Bool[Array, ""]:
    """Whether a test of `state` now would find it there."""
    return row[state] > 0


def tested(row: Row, state: int, when: Bool[Array, ""]) -> Row:
    """`row` after a test of `state`, if there was one."""
    left = row[state]
    worn = jnp.where((left > 0) & (left < UNTIL_WAITED), left - 1, left)
    return row.at[state].set(jnp.where(when, worn, left))


def ended(row: Row, state: int, when: Bool[Array, ""]) -> Row:
    """`row` after somebody slept until `state` was over, if he did."""
    return row.at[state].set(jnp.where(when, 0, row[state]))
