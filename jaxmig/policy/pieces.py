"""The pieces of the folios that a call has split, in the order of the kernel's list."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.policy.call import Call
from jaxmig.rules import Rules

Index = Int32[Array, ""]


def each_piece(rules: Rules, k: Call, step: Callable[[Call, Index], Call]) -> Call:
    """`step(k, pfn)` for each piece of each split folio, until the call has an error.

    The tails come first and the head last: descending up to 6.12, ascending in 6.18.
    """

    def go_on(c: tuple[Call, Index, Index]) -> Array:
        return (c[1] < c[0].split.size) & (c[0].error == 0)

    def body(c: tuple[Call, Index, Index]) -> tuple[Call, Index, Index]:
        k, folio, i = c
        head = k.split.at(folio)
        pages = pieces_of(k, head)
        tail = i + 1 if rules.release.pieces_ascend else pages - 1 - i
        end = i + 1 == pages
        k = step(k, head + jnp.where(end, 0, tail))
        return k, folio + end, jnp.where(end, 0, i + 1)

    return jax.lax.while_loop(go_on, body, (k, jnp.int32(0), jnp.int32(0)))[0]


def pieces_of(k: Call, head: Index) -> Index:
    """How many pieces a split folio became: its place tells the pool it came from."""
    g = k.m.geometry
    offset = head % g.frames_per_node
    order = jnp.int32(0)
    for i, o in enumerate(g.orders):
        order = jnp.where(offset >= g.pool_start(i), o, order)
    return jnp.int32(1) << order
