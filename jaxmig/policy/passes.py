"""One pass over a list of folios, and the books that are kept of it.

    SERIAL      unmap and move each folio of the list (up to 6.2)
    HUGETLB     the same for hugetlb folios, which never are in a batch
    UNMAPS      unmap the folios of a batch
    MOVES       move those that are unmapped
    UNDOES      map again what could not be moved
    PIECES...   the pieces of the folios that were split, at the end of a list

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
from jaxmig.policy.folio import (
    EAGAIN,
    EDEADLOCK,
    ENOMEM,
    FAILED,
    SLEEPS,
    SUCCESS,
    UNMAPPED,
    is_thp,
    pages_of,
)
from jaxmig.policy.hurdles import Stage
from jaxmig.policy.state import HELD, RET, SPLIT, TODO, Context, State
from jaxmig.policy.step import DIVIDE, MOVE, SKIP, UNDO, UNMAP, Plan, look, step
from jaxmig.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
SERIAL, HUGETLB, UNMAPS, MOVES, UNDOES = range(5)
PIECES, PIECES_UNMAPPED, PIECES_MOVED, PIECES_COUNTED, DONE = range(5, 10)
# Where a folio is in the course of one attempt.
FIRST, PLAIN, UNMAPPED_NOW, SHORT = range(4)


@pytree
class Pass:
    """One pass: what is done, over how many folios, and how."""

    op: Index
    size: Index
    stage: Stage

    @property
    def listed(self) -> Flag:
        """Whether folios may stay on the list to be tried again."""
        return self.op <= MOVES

    @property
    def source(self) -> Index:
        """The list that is gone through."""
        held = (self.op == HUGETLB) | (self.op == MOVES) | (self.op == UNDOES)
        return jnp.where(self.op >= PIECES, SPLIT, jnp.where(held, HELD, TODO))

    @property
    def at_once(self) -> Flag:
        """Whether a folio is moved as soon as it is unmapped."""
        return (self.op == SERIAL) | (self.op == HUGETLB) | (self.op == PIECES)


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
    tail = jnp.where(c.s.pieces_ascend, j + 1, pages - 1 - j)
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
    # Since 6.10 a partially mapped folio is split before anything else is tried; only
    # anonymous folios are ever on that queue.
    queued = frame.has(flags, frame.SPLIT_QUEUED) & frame.is_anon(flags)
    queued &= (frame.order(flags) > 1) & (turn == FIRST) & (p.op == UNMAPS)
    return jnp.where(
        (queued & c.s.splits_partially_mapped) | (turn == SHORT), DIVIDE, act
    )


def _one(
    c: Context, p: Pass, s: State, head: Index, turn: Index
) -> tuple[State, Index]:
    """One step with a folio; where the folio is then, FIRST if it is done with."""
    f = look(s, head)
    act = _act(c, p, f.flags, turn)
    s, done = step(c, p.stage, s, f, act, p.op == MOVES)
    rc, unmaps = done.rc, act == UNMAP
    large = (f.pages > 1) & (f.kind != frame.HUGETLB) & ~c.s.nosplit
    asks = unmaps & (rc == ENOMEM) & large & ((p.op == SERIAL) | (p.op == UNMAPS))
    first = (act == DIVIDE) & (turn == FIRST)
    moves_on = unmaps & (rc == UNMAPPED) & p.at_once
    follows = jnp.where(moves_on, UNMAPPED_NOW, FIRST)
    follows = jnp.where(asks, SHORT, follows)
    follows = jnp.where(first & ~done.divided & (rc != SLEEPS), PLAIN, follows)
    s = _book(c, p, s, f.head, f.flags, act, turn, done, follows == FIRST)
    return s, follows


def _book(
    c: Context,
    p: Pass,
    s: State,
    head: Index,
    flags: Index,
    act: Index,
    turn: Index,
    done: Plan,
    over: Flag,
) -> State:
    """Book how a folio ended: the switch of migrate_pages(); nothing until `over`."""
    pages, thp = pages_of(flags), is_thp(c.s, flags).astype(jnp.int32)
    rc, tried = done.rc, over & ((act == UNMAP) | (act == MOVE))
    ok = tried & (rc == SUCCESS)
    batch = (p.op == UNMAPS) | (p.op == MOVES)
    listed = tried & p.listed
    bad = listed & (rc == FAILED)
    split = over & done.divided
    asked = over & (turn == SHORT)
    short = asked | (tried & (rc == ENOMEM))
    # Only a longterm pin tries a folio again that could not be split just now.
    later = asked & (rc == EAGAIN) & c.s.longterm_pin
    again = later | (listed & (rc == EAGAIN))
    unmapped = tried & (rc == UNMAPPED)
    undone = over & (act == UNDO)
    s = s.set(
        ev=s.ev.add(
            pgmigrate_success=jnp.where(ok, pages, 0),
            thp_migration_success=jnp.where(ok, thp, 0),
        )
    )
    which = jnp.where(p.op >= PIECES, TODO, p.source)
    for when, there in ((split, SPLIT), (unmapped, HELD), (bad | undone, RET)):
        which = jnp.where(when, there, which)
    kept = (bad & batch) | undone | (unmapped & (p.op == UNMAPS))
    s = s.append(which, head, again | (split & p.listed) | kept)
    s = s.add(_counts(c, p, s, pages, thp, bad, again, split, short, later))
    s = s.add(_pieces(p, rc, tried, done, flags))
    stops = over & ((rc == SLEEPS) | (rc == EDEADLOCK))
    abort = short & ~split & ~later
    error = jnp.where(stops, rc, jnp.where(abort, ENOMEM, s[reg.ERROR]))
    return s.put({reg.ERROR: error})


def _counts(
    c: Context,
    p: Pass,
    s: State,
    pages: Index,
    thp: Index,
    bad: Flag,
    again: Flag,
    split: Flag,
    short: Flag,
    later: Flag,
) -> dict[int, Index]:
    """Statistics of a folio of a list.

    -ENOMEM: a large folio is split and the loop goes on; otherwise all is over.
    """
    listed = (p.op == SERIAL) | (p.op == UNMAPS)
    abort = short & ~split & ~later & p.listed
    lost = listed & (split | (short & ~(later & c.s.checks_pte_accessible)))
    failed = (bad | lost).astype(jnp.int32)
    retry_thps = jnp.where(abort & listed, s[reg.RETRY_THPS], 0)
    n = again.astype(jnp.int32)
    alone = (p.op == SERIAL) | (p.op == HUGETLB)
    return {
        reg.FAILED: failed,
        reg.FAILED_PAGES: bad * pages + abort * (pages + s[reg.RETRY_PAGES]),
        reg.THP_FAILED: failed * thp + retry_thps,
        reg.THP_SPLIT: split * thp,
        reg.SPLITS: split.astype(jnp.int32),
        reg.RETRY: n,
        reg.RETRY_PAGES: n * pages,
        reg.RETRY_THPS: n * thp,
        reg.REMAINING: bad & alone,
    }


def _pieces(
    p: Pass, rc: Index, tried: Flag, done: Plan, flags: Index
) -> dict[int, Index]:
    """Statistics of a piece of a split folio."""
    good = (rc == SUCCESS) | ((rc == UNMAPPED) & (p.op == PIECES_UNMAPPED))
    good |= (rc == SLEEPS) & (p.op == PIECES)
    bad = tried & (p.op >= PIECES) & ~good
    there = (p.op == PIECES_COUNTED) & (frame.kind(flags) != frame.FREE)
    return {
        reg.FAILED_PAGES: bad,
        reg.PIECES: (p.op == PIECES_UNMAPPED) & done.taken,
        reg.REMAINING: (bad & (p.op == PIECES)) | there,
    }
