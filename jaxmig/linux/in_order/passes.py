"""One pass over a list of folios.

A folio that must be tried again stays on its list, which is compacted in place, as the
kernel leaves such folios on `from`.

Source: migrate_pages(), migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import ENOMEM, SLEEPS, UNMAPPED, split_first
from jaxmig.linux.in_order import carried as reg
from jaxmig.linux.in_order.attempt import DIVIDE, MOVE, SKIP, UNDO, UNMAP, look
from jaxmig.linux.in_order.carried import Context, State
from jaxmig.linux.in_order.results import (
    FIRST,
    MOVES,
    PIECES,
    PIECES_COUNTED,
    PIECES_MOVED,
    PLAIN,
    SERIAL,
    SHORT,
    UNDOES,
    UNMAPPED_NOW,
    UNMAPS,
    Pass,
    count_result,
)
from jaxmig.linux.in_order.split import pieces_of
from jaxmig.linux.in_order.step import step
from jaxmig.state import frame
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@pytree
class Place:
    """How far a pass is."""

    folio: Index  # of the list
    piece: Index  # of that folio
    turn: Index  # FIRST, or where the folio is in the course of its attempt


def start() -> Place:
    """The beginning of a pass."""
    return Place(jnp.int32(0), jnp.int32(0), jnp.int32(FIRST))


def goes_on(pass_: Pass, state: State, at: Place) -> Flag:
    """Whether there are folios left, and the call has no error."""
    # What was unmapped is mapped again whatever happened.
    return (at.folio < pass_.size) & ((state[reg.ERROR] == 0) | (pass_.op == UNDOES))


def run(context: Context, pass_: Pass, state: State, at: Place) -> tuple[State, Place]:
    """One pass from a place on, to its end or until contents have to be copied."""

    def more(carry: tuple[State, Place]) -> Flag:
        return goes_on(pass_, *carry) & ~jnp.asarray(carry[0].waits)

    def body(carry: tuple[State, Place]) -> tuple[State, Place]:
        s, at = carry
        head, pages = _folio(context, pass_, s, at.folio, at.piece)
        s, turn = _one(context, pass_, s, head, at.turn)
        over = turn == FIRST
        end = over & (at.piece + 1 == pages)
        piece = jnp.where(end, 0, at.piece + over)
        return s, Place(at.folio + end, piece, turn)

    return jax.lax.while_loop(more, body, (state, at))


def _folio(
    context: Context, pass_: Pass, state: State, i: Index, index: Index
) -> tuple[Index, Index]:
    """The head of the folio or piece that is next, and how many pieces it is one of.

    The tails come first and the head last: descending up to 6.12, ascending in 6.18.
    """
    head = state.at(pass_.source, i)
    if len(context.geometry.orders) == 1:
        return head, jnp.int32(1)
    pages = jnp.where(pass_.op >= PIECES, pieces_of(context.geometry, head), 1)
    tail = jnp.where(context.rules.pieces_ascend, index + 1, pages - 1 - index)
    return head + jnp.where(index + 1 == pages, 0, tail), pages


def _act(context: Context, pass_: Pass, flags: Index, turn: Index) -> Index:
    """What is done now to a folio with these flags."""
    moves = (pass_.op == MOVES) | (pass_.op == PIECES_MOVED)
    act = jnp.where(moves | (turn == UNMAPPED_NOW), MOVE, UNMAP)
    act = jnp.where(pass_.op == UNDOES, UNDO, act)
    # A piece is held if it is locked; the others failed or were never tried.
    skipped = (pass_.op == PIECES_MOVED) & ~frame.has(flags, frame.LOCKED)
    act = jnp.where(skipped | (pass_.op == PIECES_COUNTED), SKIP, act)
    if len(context.geometry.orders) == 1:
        return act
    first = (turn == FIRST) & (pass_.op == UNMAPS) & split_first(context.rules, flags)
    return jnp.where(first | (turn == SHORT), DIVIDE, act)


def _one(
    context: Context, pass_: Pass, state: State, head: Index, turn: Index
) -> tuple[State, Index]:
    """One step with a folio; where the folio is then, FIRST if it is done with."""
    f = look(state, head)
    act = _act(context, pass_, f.flags, turn)
    state, done = step(context, pass_.stage, state, f, act, pass_.op == MOVES)
    rc, unmaps = done.rc, act == UNMAP
    large = (f.pages > 1) & (f.kind != frame.HUGETLB) & ~context.rules.nosplit
    asks = (
        unmaps & (rc == ENOMEM) & large & ((pass_.op == SERIAL) | (pass_.op == UNMAPS))
    )
    first = (act == DIVIDE) & (turn == FIRST)
    moves_on = unmaps & (rc == UNMAPPED) & pass_.at_once
    follows = jnp.where(moves_on, UNMAPPED_NOW, FIRST)
    follows = jnp.where(asks, SHORT, follows)
    follows = jnp.where(first & ~done.divided & (rc != SLEEPS), PLAIN, follows)
    state = count_result(
        context, pass_, state, f.head, f.flags, act, turn, done, follows == FIRST
    )
    return state, follows
