"""One pass over a list of folios.

The kernel leaves folios that end with -EAGAIN on `from`; here the list is compacted in
place to those that the next pass retries.

Source: migrate_pages(), migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import ENOMEM, SLEEPS, UNMAPPED, split_first, split_for_memory
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
from jaxmig.state import frame, xla
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@pytree
class Place:
    """How far a pass is."""

    folio: Index  # place on the list
    piece: Index  # of that folio, if it was split
    turn: Index  # which step of the folio's attempt is next: FIRST ... SHORT


def start() -> Place:
    """The beginning of a pass."""
    return Place(jnp.int32(0), jnp.int32(0), jnp.int32(FIRST))


def goes_on(pass_: Pass, state: State, at: Place) -> Flag:
    """Whether there are folios left, and the call has no error."""
    # migrate_folio_undo_src() runs for all of unmap_folios, after an error too.
    return (at.folio < pass_.size) & ((state[reg.ERROR] == 0) | (pass_.op == UNDOES))


def run(context: Context, pass_: Pass, state: State, at: Place) -> tuple[State, Place]:
    """One pass from a place on, to its end or until `state.copies` is full.

    Args:
      pass_: what is done, and over how many folios.
      at: the place from which it goes on, `start()` for a new pass.
    Returns:
      The state, and the place that is next.
    """

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

    A split puts the tails on the list before the head, descending or, in later releases,
    ascending.
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
    # Locked pieces are on unmap_folios; the others failed or were never tried.
    skipped = (pass_.op == PIECES_MOVED) & ~frame.has(flags, frame.LOCKED)
    act = jnp.where(skipped | (pass_.op == PIECES_COUNTED), SKIP, act)
    if len(context.geometry.orders) == 1:
        return act
    first = (turn == FIRST) & (pass_.op == UNMAPS) & split_first(context.rules, flags)
    return jnp.where(first | (turn == SHORT), DIVIDE, act)


def _one(
    context: Context, pass_: Pass, state: State, head: Index, turn: Index
) -> tuple[State, Index]:
    """One step with a folio, and which step is next: FIRST if its attempt is over."""
    f = look(state, head)
    act = xla.once(head, lambda: _act(context, pass_, f.flags, turn))
    state, done = step(context, pass_.stage, state, f, act, pass_.op == MOVES)
    rc, unmaps = done.rc, act == UNMAP
    asks = unmaps & (rc == ENOMEM) & split_for_memory(context.rules, f.flags)
    asks &= (pass_.op == SERIAL) | (pass_.op == UNMAPS)
    first = (act == DIVIDE) & (turn == FIRST)
    moves_on = unmaps & (rc == UNMAPPED) & pass_.at_once
    follows = jnp.where(moves_on, UNMAPPED_NOW, FIRST)
    follows = jnp.where(asks, SHORT, follows)
    follows = jnp.where(first & ~done.divided & (rc != SLEEPS), PLAIN, follows)
    over = follows == FIRST
    state = count_result(context, pass_, state, f.head, f.flags, act, turn, done, over)
    return state, follows
