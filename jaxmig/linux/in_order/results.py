"""What a pass does, and how the result of each of its folios is counted.

    SERIAL      unmap and move each folio of `from` (up to 6.2)
    HUGETLB     the same for hugetlb folios, which never are in a batch
    UNMAPS      unmap the folios of a batch
    MOVES       move those of unmap_folios
    UNDOES      map again what could not be moved
    PIECES...   the pieces of split_folios, after the other passes of a batch or call

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
from jaxmig.linux.in_order.carried import Context, State
from jaxmig.state import frame
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
SERIAL, HUGETLB, UNMAPS, MOVES, UNDOES = range(5)
PIECES, PIECES_UNMAPPED, PIECES_MOVED, PIECES_COUNTED, DONE = range(5, 10)
# Which step of a folio's attempt is next: the first; unmap after a split that failed; move
# after the unmap just done; split after -ENOMEM.
FIRST, PLAIN, UNMAPPED_NOW, SHORT = range(4)


@pytree
class Pass:
    """One pass: what is done, over how many folios, and how."""

    op: Index
    size: Index
    stage: Stage

    @property
    def listed(self) -> Flag:
        """Whether -EAGAIN leaves a folio on the list for the next pass."""
        return self.op <= MOVES

    @property
    def source(self) -> Index:
        """The list that is gone through."""
        held = (self.op == HUGETLB) | (self.op == MOVES) | (self.op == UNDOES)
        which = jnp.where(held, reg.UNMAP_FOLIOS, reg.FROM)
        return jnp.where(self.op >= PIECES, reg.SPLIT_FOLIOS, which)

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
    """Count and list a folio by its rc: the switch of migrate_pages(); if `over`.

    Args:
      head, flags: int32, the folio's head frame, and its flags before the step.
      act: what the step did: UNMAP ... SKIP of attempt.py.
      turn: which step of the attempt it was: FIRST ... SHORT.
      done: the step's result.
      over: whether the attempt ends with this step.
    Returns:
      The state with statistics, lists and error.
    Source: migrate_pages(), migrate_pages_batch(), migrate_hugetlbs() in mm/migrate.c.
    """
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
    # The list that gets the folio: `again` stays on the pass's own list.
    which = jnp.where(pass_.op >= PIECES, reg.FROM, pass_.source)
    which = jnp.where(split, reg.SPLIT_FOLIOS, which)
    which = jnp.where(unmapped, reg.UNMAP_FOLIOS, which)
    which = jnp.where(bad | undone, reg.RET_FOLIOS, which)
    kept = (bad & batch) | undone | (unmapped & (pass_.op == UNMAPS))
    state = state.append(which, head, again | (split & pass_.listed) | kept)
    sums = _counts(context, pass_, state, pages, thp, bad, again, split, short, later)
    state = state.add(sums).add(_pieces(pass_, rc, tried, done, flags))
    # -ENOMEM ends the pass unless the folio was split, or will be retried.
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

    -ENOMEM: a large folio is split and the pass goes on; if it cannot be, the pass ends.
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
    # A piece that sleeps for ever ends the call, and is no failure.
    good |= (rc == SLEEPS) & (pass_.op == PIECES)
    bad = tried & (pass_.op >= PIECES) & ~good
    there = (pass_.op == PIECES_COUNTED) & (frame.kind(flags) != frame.FREE)
    return {
        reg.FAILED_PAGES: bad,
        reg.PIECES: (pass_.op == PIECES_UNMAPPED) & done.taken,
        reg.REMAINING: (bad & (pass_.op == PIECES)) | there,
    }
