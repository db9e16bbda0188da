"""What a pass is, and the books that are kept of it.

    SERIAL      unmap and move each folio of the list (up to 6.2)
    HUGETLB     the same for hugetlb folios, which never are in a batch
    UNMAPS      unmap the folios of a batch
    MOVES       move those that are unmapped
    UNDOES      map again what could not be moved
    PIECES...   the pieces of the folios that were split, at the end of a list

Source: migrate_pages(), migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.checks import Stage
from jaxmig.linux.folio import (
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
from jaxmig.linux.in_order import carried as reg
from jaxmig.linux.in_order.attempt import MOVE, UNDO, UNMAP, StepPlan
from jaxmig.linux.in_order.carried import HELD, RET, SPLIT, TODO, Context, State
from jaxmig.state import frame
from jaxmig.state.pytree import pytree

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


def count_result(
    context: Context,
    pass_: Pass,
    state: State,
    head: Index,
    flags: Index,
    act: Index,
    turn: Index,
    done: StepPlan,
    over: Flag,
) -> State:
    """Book how a folio ended: the switch of migrate_pages(); nothing until `over`."""
    pages, thp = pages_of(flags), is_thp(context.rules, flags).astype(jnp.int32)
    rc, tried = done.rc, over & ((act == UNMAP) | (act == MOVE))
    ok = tried & (rc == SUCCESS)
    batch = (pass_.op == UNMAPS) | (pass_.op == MOVES)
    listed = tried & pass_.listed
    bad = listed & (rc == FAILED)
    split = over & done.divided
    asked = over & (turn == SHORT)
    short = asked | (tried & (rc == ENOMEM))
    # Only a longterm pin tries a folio again that could not be split just now.
    later = asked & (rc == EAGAIN) & context.rules.longterm_pin
    again = later | (listed & (rc == EAGAIN))
    unmapped = tried & (rc == UNMAPPED)
    undone = over & (act == UNDO)
    state = state.set(
        ev=state.ev.add(
            pgmigrate_success=jnp.where(ok, pages, 0),
            thp_migration_success=jnp.where(ok, thp, 0),
        )
    )
    which = jnp.where(pass_.op >= PIECES, TODO, pass_.source)
    for when, there in ((split, SPLIT), (unmapped, HELD), (bad | undone, RET)):
        which = jnp.where(when, there, which)
    kept = (bad & batch) | undone | (unmapped & (pass_.op == UNMAPS))
    state = state.append(which, head, again | (split & pass_.listed) | kept)
    state = state.add(
        _counts(context, pass_, state, pages, thp, bad, again, split, short, later)
    )
    state = state.add(_pieces(pass_, rc, tried, done, flags))
    stops = over & ((rc == SLEEPS) | (rc == EDEADLOCK))
    abort = short & ~split & ~later
    error = jnp.where(stops, rc, jnp.where(abort, ENOMEM, state[reg.ERROR]))
    return state.put({reg.ERROR: error})


def _counts(
    context: Context,
    pass_: Pass,
    state: State,
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
    listed = (pass_.op == SERIAL) | (pass_.op == UNMAPS)
    abort = short & ~split & ~later & pass_.listed
    lost = listed & (split | (short & ~(later & context.rules.retry_is_no_failure)))
    failed = (bad | lost).astype(jnp.int32)
    retry_thps = jnp.where(abort & listed, state[reg.RETRY_THPS], 0)
    n = again.astype(jnp.int32)
    alone = (pass_.op == SERIAL) | (pass_.op == HUGETLB)
    return {
        reg.FAILED: failed,
        reg.FAILED_PAGES: bad * pages + abort * (pages + state[reg.RETRY_PAGES]),
        reg.THP_FAILED: failed * thp + retry_thps,
        reg.THP_SPLIT: split * thp,
        reg.SPLITS: split.astype(jnp.int32),
        reg.RETRY: n,
        reg.RETRY_PAGES: n * pages,
        reg.RETRY_THPS: n * thp,
        reg.REMAINING: bad & alone,
    }


def _pieces(
    pass_: Pass, rc: Index, tried: Flag, done: StepPlan, flags: Index
) -> dict[int, Index]:
    """Statistics of a piece of a split folio."""
    good = (rc == SUCCESS) | ((rc == UNMAPPED) & (pass_.op == PIECES_UNMAPPED))
    good |= (rc == SLEEPS) & (pass_.op == PIECES)
    bad = tried & (pass_.op >= PIECES) & ~good
    there = (pass_.op == PIECES_COUNTED) & (frame.kind(flags) != frame.FREE)
    return {
        reg.FAILED_PAGES: bad,
        reg.PIECES: (pass_.op == PIECES_UNMAPPED) & done.taken,
        reg.REMAINING: (bad & (pass_.op == PIECES)) | there,
    }
