"""Many folios at once: rows of folios as lanes of arrays, padded with NOWHERE.

The phases below act on lanes of base-page folios.  A lane with head NOWHERE reads row 0
and writes nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import wall
from jaxmig.machine import NOWHERE, Machine
from jaxmig.pytree import pytree

C = TypeVar("C", bound=tuple[Any, ...])
Lanes = Int32[Array, " lanes"]
Mask = Bool[Array, " lanes"]


@pytree
class Known:
    """What the call itself wrote last: nobody else did, so it is not read again."""

    row: Int32[Array, "lanes 4"]
    words: (
        Int32[Array, "lanes 2"] | None
    )  # of the only entry; None where chains are walked


def rows(
    array: Int32[Array, "n *columns"], index: Lanes
) -> Int32[Array, "lanes *columns"]:
    """Rows of `array`; a padding lane gets row 0."""
    safe = jnp.where(index == NOWHERE, 0, index)
    return array.at[safe].get(mode="promise_in_bounds")


def scatter(array: Array, index: Lanes, where: Mask, values: Array) -> Array:
    """`array` with the rows of the lanes in `where` replaced."""
    return array.at[jnp.where(where, index, NOWHERE)].set(values, mode="drop")


def columns(*values: Lanes) -> Int32[Array, "lanes columns"]:
    """Columns side by side; unlike a stack, this fuses with what makes them."""
    column = jnp.arange(len(values))
    out = values[-1][:, None]
    for i, value in reversed(list(enumerate(values[:-1]))):
        out = jnp.where(column == i, value[:, None], out)
    return out


def rank(mask: Mask) -> Lanes:
    """Position of each lane among those of `mask`."""
    lanes = jnp.arange(mask.shape[0], dtype=jnp.int32)
    first = mask.sum(dtype=jnp.int32)
    # The common masks are all lanes, or all but padding at the end.
    prefix = (mask == (lanes < first)).all()
    return jax.lax.cond(
        prefix, lambda: lanes, lambda: jnp.cumsum(mask.astype(jnp.int32)) - 1
    )


def entry_of(m: Machine, entry: Lanes) -> tuple[Int32[Array, "lanes 2"], Lanes]:
    """Both words of each entry, and the next entry that maps the same frame."""
    if not m.geometry.shared:
        # Nothing is mapped twice: the chain ends here, and its array need not be read.
        return rows(m.pte, entry), jnp.full_like(entry, NOWHERE)
    following = rows(m.rmap_next, entry)
    return rows(m.pte, entry), jnp.where(entry == NOWHERE, NOWHERE, following)


def entry_or(
    words: Int32[Array, "lanes 2"] | None, m: Machine, entry: Lanes
) -> tuple[Int32[Array, "lanes 2"], Lanes]:
    """entry_of(), of which the words may be known."""
    if words is None:
        return wall.read(entry, lambda: entry_of(m, entry))
    return words, jnp.full_like(entry, NOWHERE)


def along_chains(shared: bool, step: Callable[[C], C], start: C) -> C:
    """`step` once for every entry of the longest chain, all lanes in lockstep.

    The second item of the carry holds each lane's entry.
    """
    if not shared:
        return step(start)
    return jax.lax.while_loop(lambda c: (c[1] != NOWHERE).any(), step, start)
