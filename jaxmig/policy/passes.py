"""One pass over a list of folios.

A folio that must be tried again stays on its list, which is compacted in place, as the
kernel leaves such folios on `from`.

Source: migrate_pages(), migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame
from jaxmig.phases.split import pieces_of
from jaxmig.policy import state as reg
from jaxmig.policy.attempt import DIVIDE, MOVE, SKIP, UNDO, UNMAP, look
from jaxmig.policy.books import (
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
    book,
)
from jaxmig.policy.folio import ENOMEM, SLEEPS, UNMAPPED, split_first
from jaxmig.policy.state import Context, State
from jaxmig.policy.step import step
from jaxmig.pytree import pytree

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


def goes_on(p: Pass, s: State, at: Place) -> Flag:
    """Whether there are folios left, and the call has no error."""
    # What was unmapped is mapped again whatever happened.
    return (at.folio < p.size) & ((s[reg.ERROR] == 0) | (p.op == UNDOES))


def run(c: Context, p: Pass, s: State, at: Place) -> tuple[State, Place]:
    """One pass from a place on, to its end or until contents have to be copied."""

    def more(x: tuple[State, Place]) -> Flag:
        return goes_on(p, *x) & ~jnp.asarray(x[0].waits)

    def body(x: tuple[State, Place]) -> tuple[State, Place]:
        s, at = x
        head, pages = _folio(c, p, s, at.folio, at.piece)
        s, turn = _one(c, p, s, head, at.turn)
        over = turn == FIRST
        end = over & (at.piece + 1 == pages)
        piece = jnp.where(end, 0, at.piece + over)
        return s, Place(at.folio + end, piece, turn)

    return jax.lax.while_loop(more, body, (s, at))


def _folio(c: Context, p: Pass, s: State, i: Index, j: Index) -> tuple[Index, Index]:
    """The head of the folio or piece that is next, and how many pieces it is one of.

    The tails come first and the head last: descending up to 6.12, ascending in 6.18.
    """
    head = s.at(p.source, i)
    if len(c.g.orders) == 1:
        return head, jnp.int32(1)
    pages = jnp.where(p.op >= PIECES, pieces_of(c.g, head), 1)
    tail = jnp.where(c.rules.pieces_ascend, j + 1, pages - 1 - j)
    return head + jnp.where(j + 1 == pages, 0, tail), pages


def _act(c: Context, p: Pass, flags: Index, turn: Index) -> Index:
    """What is done now to a folio with these flags."""
    moves = (p.op == MOVES) | (p.op == PIECES_MOVED)
    act = jnp.where(moves | (turn == UNMAPPED_NOW), MOVE, UNMAP)
    act = jnp.where(p.op == UNDOES, UNDO, act)
    # A piece is held if it is locked; the others failed or were never tried.
    skipped = (p.op == PIECES_MOVED) & ~frame.has(flags, frame.LOCKED)
    act = jnp.where(skipped | (p.op == PIECES_COUNTED), SKIP, act)
    if len(c.g.orders) == 1:
        return act
    first = (turn == FIRST) & (p.op == UNMAPS) & split_first(c.rules, flags)
    return jnp.where(first | (turn == SHORT), DIVIDE, act)


def _one(
    c: Context, p: Pass, s: State, head: Index, turn: Index
) -> tuple[State, Index]:
    """One step with a folio; where the folio is then, FIRST if it is done with."""
    f = look(s, head)
    act = _act(c, p, f.flags, turn)
    s, done = step(c, p.stage, s, f, act, p.op == MOVES)
    rc, unmaps = done.rc, act == UNMAP
    large = (f.pages > 1) & (f.kind != frame.HUGETLB) & ~c.rules.nosplit
    asks = unmaps & (rc == ENOMEM) & large & ((p.op == SERIAL) | (p.op == UNMAPS))
    first = (act == DIVIDE) & (turn == FIRST)
    moves_on = unmaps & (rc == UNMAPPED) & p.at_once
    follows = jnp.where(moves_on, UNMAPPED_NOW, FIRST)
    follows = jnp.where(asks, SHORT, follows)
    follows = jnp.where(first & ~done.divided & (rc != SLEEPS), PLAIN, follows)
    s = book(c, p, s, f.head, f.flags, act, turn, done, follows == FIRST)
    return s, follows
