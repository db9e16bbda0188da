"""What comes after a pass.

Every release and mode goes through the same few lines; which of them act is data.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18; T:V4 (the series of February 2023) for the posted.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import tlb
from jaxmig.linux.folio import EDEADLOCK, ENOMEM, SLEEPS
from jaxmig.linux.in_order import carried as reg, passes
from jaxmig.linux.in_order.carried import (
    ALONE,
    ERROR,
    HELD,
    REMAINING,
    RET,
    SPLIT,
    TODO,
    Context,
    State,
)
from jaxmig.linux.in_order.progress import (
    ASYNC,
    SYNC,
    CallProgress,
    Carried,
    FromList,
    cut,
    first_stage,
    most,
)
from jaxmig.linux.in_order.results import (
    DONE,
    HUGETLB,
    MOVES,
    PIECES,
    PIECES_COUNTED,
    PIECES_MOVED,
    PIECES_UNMAPPED,
    SERIAL,
    UNDOES,
    UNMAPS,
)
from jaxmig.state import frame, log, xla

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def next_pass(
    context: Context,
    from_list: FromList,
    progress: CallProgress,
    state: State,
    ended: Flag,
) -> Carried:
    """What comes after a pass, if it has `ended`."""
    # Nothing comes after a pass that will go on.
    op, number = jnp.where(ended, progress.op, DONE), progress.number + 1
    state = _keep_rest(op, progress, state)
    at = jax.tree.map(lambda a, b: jnp.where(ended, a, b), passes.start(), progress.at)
    progress = dataclasses.replace(progress, at=at)
    passing = op <= MOVES
    again = passing & (number < most(context.rules, from_list, progress))
    again &= (state[reg.RETRY] > 0) & (state[ERROR] == 0)
    left = jnp.where((op == HUGETLB) | (op == MOVES), state[HELD], state[TODO])
    progress = progress.to(again, number=number, size=left)
    over = passing & ~again
    state = _leftovers(op, state, over)
    progress, state, ends = _send(context, op, progress, state, over)
    progress, state, closes = _alone(context, progress, state, ends)
    progress, state, opens = _pieces(
        context, op, progress, state, closes, over & (op == SERIAL)
    )
    state = state.note(log.END, log.BATCH, when=opens)
    huge = over & (op == HUGETLB)
    # What is left of them goes back to the caller, and is not held by the first batch.
    state = state.note(log.END, log.HUGETLBS, when=huge & (progress.size > 0)).empty(
        HELD, huge
    )
    return _open(context, from_list, progress, state, opens | huge)


def _keep_rest(op: Index, progress: CallProgress, state: State) -> State:
    """After -EDEADLOCK or -ENOMEM the rest stays on the list, the last one included."""
    back = (op == UNMAPS) & ((state[ERROR] == EDEADLOCK) | (state[ERROR] == ENOMEM))
    first = jnp.where(back, progress.at.folio - 1, progress.size)
    if_any = jnp.where(op == UNMAPS, progress.size, 0)
    return state.append_all(TODO, TODO, first, if_any)


def _leftovers(op: Index, state: State, over: Flag) -> State:
    """Retries that the passes did not use up count as failures."""
    n = (over & (state[ERROR] == 0)).astype(jnp.int32)
    whole = over & ((op == SERIAL) | (op == HUGETLB))
    return state.add(
        {
            reg.FAILED: n * state[reg.RETRY],
            reg.FAILED_PAGES: n * state[reg.RETRY_PAGES],
            reg.THP_FAILED: n * state[reg.RETRY_THPS],
            REMAINING: jnp.where(whole, state[reg.RETRY], 0),
        }
    )


def _send(
    context: Context, op: Index, progress: CallProgress, state: State, over: Flag
) -> tuple[CallProgress, State, Flag]:
    """One flush for all that was unmapped, then the move passes, then the undoing.

    Returns also whether all passes over the list are over.
    """
    unmapped, moved = over & (op == UNMAPS), over & (op == MOVES)
    state = state.note(log.END, log.UNMAP, when=unmapped)
    # With -ENOMEM and nothing unmapped the flush is not even sent.
    skips = (state[ERROR] == ENOMEM) & (state[HELD] == 0) | (state[ERROR] == SLEEPS)
    sends, pieces = unmapped & ~skips, op == PIECES_UNMAPPED
    flushes = sends | (pieces & ((state[ERROR] == 0) | (state[reg.PIECES] > 0)))
    state = _engine_first(context, state, sends)
    held = jnp.where(sends, state[HELD], state[reg.PIECES])
    state = state.note(log.BEGIN, log.SEND, held, when=flushes)
    cached, ev = tlb.flush_batch(
        context.rules, state.cached, state.ev, context.at.cpu, flushes
    )
    state = state.set(cached=cached, ev=ev)
    n = jnp.where(sends, state[HELD], 0)
    state = state.note(log.BEGIN, log.MOVE, n, when=flushes)
    progress = progress.to(sends | pieces, saved=state[ERROR], number=0)
    progress = progress.to(sends, op=MOVES, size=state[HELD]).to(
        pieces, op=PIECES_MOVED
    )
    state = state.put({ERROR: jnp.where(flushes, 0, state[ERROR])})
    none = state[HELD] == 0
    progress = progress.to(moved & ~none, op=UNDOES, size=state[HELD])
    back = (op == UNDOES) | ((sends | moved) & none)
    state = state.note(log.END, log.MOVE, when=back).empty(HELD, back)
    state = state.put(
        {ERROR: jnp.where(back & (state[ERROR] == 0), progress.saved, state[ERROR])}
    )
    ends = back | (unmapped & skips)
    # As posted: what was held is moved, so that sleeping is safe; then from the start.
    once_more = ends & (state[ERROR] == EDEADLOCK)
    state = state.put({ERROR: jnp.where(once_more, 0, state[ERROR])})
    state = state.note(log.BEGIN, log.UNMAP, state[TODO], when=once_more)
    progress = progress.to(once_more, op=UNMAPS, number=0, size=state[TODO])
    return progress, state, ends & ~once_more


def _engine_first(context: Context, state: State, when: Flag) -> State:
    """What an engine copies is moved before the rest of its batch."""
    # A batch of several is asynchronous: nothing is on ALONE yet.
    n = jnp.where(when & context.rules.offloads & (state[HELD] > 1), state[HELD], 0)

    def take(carry: tuple[Array, Index, Index]) -> tuple[Array, Index, Index]:
        lists, i, size = carry
        at = HELD * state.room + jnp.where(i < n, i, i - n)
        head = xla.read(i, lambda: lists[at])
        flags = xla.read(head, lambda: state.frame[head, frame.FLAGS])
        mine = frame.has(flags, frame.COPIED) == (i < n)
        return xla.put(lists, ALONE * state.room + size, head), i + 1, size + mine

    none = jnp.int32(0)
    start = (state.lists, none, none)
    lists, _, _ = jax.lax.while_loop(lambda v: v[1] < 2 * n, take, start)
    state = state.set(lists=lists).empty(HELD, n > 0)
    return state.append_all(HELD, ALONE, none, n)


def _alone(
    context: Context, progress: CallProgress, state: State, ends: Flag
) -> tuple[CallProgress, State, Flag]:
    """What a batch left behind is tried one by one, unless the caller is ASYNC.

    Returns also whether the batch is over.
    """
    batch = ends & (progress.stage == ASYNC) & context.rules.two_stages
    one = ends & (progress.stage == SYNC)
    state = _merge(context, progress, state, batch)
    # `from` and then what came back: the order in which they are taken.
    state = state.empty(ALONE, batch)
    for which in (TODO, RET):
        state = state.append_all(
            ALONE, which, jnp.int32(0), jnp.where(batch, state[which], 0)
        )
        state = state.empty(which, batch)
    # What is left on the list of one folio goes back to the caller.
    last = jnp.where(one, state[TODO], 0)
    state = state.append_all(RET, TODO, jnp.int32(0), last).empty(TODO, one)
    state = state.note(log.END, log.ALONE, when=one)
    progress = progress.to(batch, alone=0)
    goes = (batch | one) & (state[ERROR] == 0) & (progress.alone < state[ALONE])
    upto = jnp.where(goes, progress.alone + 1, 0)
    state = state.append_all(TODO, ALONE, progress.alone, upto)
    state = state.note(log.BEGIN, log.ALONE, 1, when=goes)
    state = state.note(log.BEGIN, log.UNMAP, 1, when=goes)
    progress = progress.to(
        goes, op=UNMAPS, stage=SYNC, number=0, size=1, alone=progress.alone + 1
    )
    closes = ends & ~goes
    untried = jnp.where(batch, state[ALONE], 0)
    left = jnp.where(closes, state[TODO] + state[RET] + untried, 0)
    return progress, state.add({REMAINING: left}), closes


def _merge(context: Context, progress: CallProgress, state: State, when: Flag) -> State:
    """Statistics of the asynchronous stage: what will be tried again has not failed."""
    old, new = progress.before, state
    fine = state[ERROR] == 0
    thps = new[reg.THP_SPLIT] - old[reg.THP_SPLIT]
    splits = jnp.where(
        context.rules.counts_nr_split, new[reg.SPLITS] - old[reg.SPLITS], thps
    )
    merged = {
        reg.FAILED: old[reg.FAILED] + jnp.where(fine, splits, 0),
        reg.FAILED_PAGES: jnp.where(fine, old[reg.FAILED_PAGES], new[reg.FAILED_PAGES]),
        reg.THP_FAILED: jnp.where(
            fine, old[reg.THP_FAILED] + thps, new[reg.THP_FAILED]
        ),
    }
    return state.put({r: jnp.where(when, n, state[r]) for r, n in merged.items()})


def _pieces(
    context: Context,
    op: Index,
    progress: CallProgress,
    state: State,
    closes: Flag,
    serial: Flag,
) -> tuple[CallProgress, State, Flag]:
    """The pieces of split folios, at the end of a batch, or of all passes if `serial`.

    One asynchronous pass, one flush, nothing retried; up to 6.2 an attempt each.
    Returns also whether the next batch may begin.
    """
    some = (state[SPLIT] > 0) & (state[ERROR] == 0)
    begins, whole = closes & some, serial & some
    state = state.note(log.BEGIN, log.SPLIT, state[SPLIT], when=begins | whole)
    state = state.note(log.BEGIN, log.UNMAP, 0, when=begins)
    state = state.empty(reg.PIECES, begins)
    progress = progress.to(begins | whole, size=state[SPLIT], number=0)
    progress = progress.to(begins, op=PIECES_UNMAPPED, stage=ASYNC)
    progress = progress.to(whole, op=PIECES).to(
        (serial & ~some) | (op == PIECES), op=DONE
    )
    moved, counted = op == PIECES_MOVED, op == PIECES_COUNTED
    state = state.note(log.END, log.SPLIT, when=moved | (op == PIECES))
    progress = progress.to(moved, op=PIECES_COUNTED)
    # The result of this list is ignored by its caller, an abort included; as posted, the
    # pieces were a last round of the same batch, and memory that ends ends the call.
    error = jnp.where(moved | (counted & context.rules.async_first), 0, state[ERROR])
    error = jnp.where(counted & ~context.rules.async_first, progress.saved, error)
    return progress, state.put({ERROR: error}), (closes & ~some) | counted


def _open(
    context: Context,
    from_list: FromList,
    progress: CallProgress,
    state: State,
    opens: Flag,
) -> tuple[FromList, CallProgress, State]:
    """The next batch, or the end of the call."""
    more = opens & (from_list.next < from_list.size) & (state[ERROR] == 0)
    if from_list.once:
        more &= from_list.next == from_list.first
    state = state.empty(TODO, opens).empty(RET, opens).empty(SPLIT, opens)
    lists, size, after = cut(context, from_list, state, more)
    state = state.set(lists=lists, ev=state.ev.add(batches=more))
    state = state.put({TODO: jnp.where(more, size, state[TODO])})
    state = state.note(log.BEGIN, log.BATCH, size, when=more)
    state = state.note(log.BEGIN, log.UNMAP, size, when=more)
    stage = first_stage(context.rules)
    progress = progress.to(
        more, op=UNMAPS, stage=stage, number=0, size=size, before=state.reg
    )
    progress = progress.to(opens & ~more, op=DONE)
    return dataclasses.replace(from_list, next=after), progress, state
