"""Which pass comes after a pass.

Every release and mode runs the same lines; flags of the rules select which of them act,
so that one compiled program serves all.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18; the posted series: v4 of February 2023.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import tlb
from jaxmig.linux.folio import EDEADLOCK, ENOMEM, SLEEPS
from jaxmig.linux.in_order import carried as reg, passes
from jaxmig.linux.in_order.carried import (
    ERROR,
    FROM,
    REMAINING,
    RET_FOLIOS,
    SPLIT_FOLIOS,
    SYNC_FOLIOS,
    UNMAP_FOLIOS,
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
    """What comes after a pass.

    Args:
      from_list: the caller's list, and where its next batch begins.
      progress: the pass, and the stage it is in.
      ended: whether it is over; if not, it goes on once contents have been copied.
    Returns:
      The list, the progress and the state at the beginning of the next pass.
    Source: migrate_pages_batch(), migrate_pages_sync() in mm/migrate.c.
    """
    # A pass that only pauses to copy is followed by itself: no operation matches DONE.
    op, number = jnp.where(ended, progress.op, DONE), progress.number + 1
    state = _keep_rest(op, progress, state)
    at = jax.tree.map(lambda a, b: jnp.where(ended, a, b), passes.start(), progress.at)
    progress = dataclasses.replace(progress, at=at)
    passing = op <= MOVES
    again = passing & (number < most(context.rules, from_list, progress))
    again &= (state[reg.RETRY] > 0) & (state[ERROR] == 0)
    left = jnp.where((op == HUGETLB) | (op == MOVES), state[UNMAP_FOLIOS], state[FROM])
    progress = progress.to(again, number=number, size=left)
    over = passing & ~again
    state = _leftovers(op, state, over)
    progress, state, ends = _send(context, op, progress, state, over)
    progress, state, closes = _alone(context, progress, state, ends)
    serial = over & (op == SERIAL)
    progress, state, opens = _pieces(context, op, progress, state, closes, serial)
    state = state.note(log.END, log.BATCH, when=opens)
    huge = over & (op == HUGETLB)
    # Hugetlb folios left go back to the caller: the first batch starts with none unmapped.
    state = state.note(log.END, log.HUGETLBS, when=huge & (progress.size > 0))
    state = state.empty(UNMAP_FOLIOS, huge)
    return _open(context, from_list, progress, state, opens | huge)


def _keep_rest(op: Index, progress: CallProgress, state: State) -> State:
    """After -EDEADLOCK or -ENOMEM the rest stays on `from`, with the folio that failed."""
    back = (op == UNMAPS) & ((state[ERROR] == EDEADLOCK) | (state[ERROR] == ENOMEM))
    first = jnp.where(back, progress.at.folio - 1, progress.size)
    if_any = jnp.where(op == UNMAPS, progress.size, 0)
    return state.append_all(FROM, FROM, first, if_any)


def _leftovers(op: Index, state: State, over: Flag) -> State:
    """Folios still to be retried after the last pass count as failed."""
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
    """try_to_unmap_flush() after the unmap passes, then the move passes, then the undo.

    Returns also whether the batch has ended.
    """
    unmapped, moved = over & (op == UNMAPS), over & (op == MOVES)
    state = state.note(log.END, log.UNMAP, when=unmapped)
    # -ENOMEM with an empty unmap_folios: `goto out`, past try_to_unmap_flush().
    skips = (state[ERROR] == ENOMEM) & (state[UNMAP_FOLIOS] == 0)
    skips |= state[ERROR] == SLEEPS
    sends, pieces = unmapped & ~skips, op == PIECES_UNMAPPED
    flushes = sends | (pieces & ((state[ERROR] == 0) | (state[reg.PIECES] > 0)))
    state = _engine_first(context, state, sends)
    held = jnp.where(sends, state[UNMAP_FOLIOS], state[reg.PIECES])
    state = state.note(log.BEGIN, log.SEND, held, when=flushes)
    rules, cpu = context.rules, context.at.cpu
    cached, ev = tlb.flush_batch(rules, state.cached, state.ev, cpu, flushes)
    state = state.set(cached=cached, ev=ev)
    n = jnp.where(sends, state[UNMAP_FOLIOS], 0)
    state = state.note(log.BEGIN, log.MOVE, n, when=flushes)
    # The move passes run in spite of -ENOMEM, which is restored after them.
    progress = progress.to(sends | pieces, saved=state[ERROR], number=0)
    progress = progress.to(sends, op=MOVES, size=state[UNMAP_FOLIOS])
    progress = progress.to(pieces, op=PIECES_MOVED)
    state = state.put({ERROR: jnp.where(flushes, 0, state[ERROR])})
    none = state[UNMAP_FOLIOS] == 0
    progress = progress.to(moved & ~none, op=UNDOES, size=state[UNMAP_FOLIOS])
    back = (op == UNDOES) | ((sends | moved) & none)
    state = state.note(log.END, log.MOVE, when=back).empty(UNMAP_FOLIOS, back)
    fine = back & (state[ERROR] == 0)
    state = state.put({ERROR: jnp.where(fine, progress.saved, state[ERROR])})
    ends = back | (unmapped & skips)
    # As posted: once all folios locked before are moved, the batch starts over and may
    # sleep on the lock that gave -EDEADLOCK.
    once_more = ends & (state[ERROR] == EDEADLOCK)
    state = state.put({ERROR: jnp.where(once_more, 0, state[ERROR])})
    state = state.note(log.BEGIN, log.UNMAP, state[FROM], when=once_more)
    progress = progress.to(once_more, op=UNMAPS, number=0, size=state[FROM])
    return progress, state, ends & ~once_more


def _engine_first(context: Context, state: State, when: Flag) -> State:
    """Reorder unmap_folios: those that a copy engine has copied are moved first."""
    # A batch of several is asynchronous: nothing is on SYNC_FOLIOS yet.
    n = state[UNMAP_FOLIOS]
    n = jnp.where(when & context.rules.offloads & (n > 1), n, 0)

    def take(carry: tuple[Array, Index, Index]) -> tuple[Array, Index, Index]:
        lists, i, size = carry
        at = UNMAP_FOLIOS * state.room + jnp.where(i < n, i, i - n)
        head = xla.read(i, lambda: xla.row(lists, at))
        flags = xla.read(head, lambda: xla.row(state.frame, head)[frame.FLAGS])
        mine = frame.has(flags, frame.COPIED) == (i < n)
        return xla.put(lists, SYNC_FOLIOS * state.room + size, head), i + 1, size + mine

    none = jnp.int32(0)
    start = (state.lists, none, none)
    lists, _, _ = jax.lax.while_loop(lambda v: v[1] < 2 * n, take, start)
    state = state.set(lists=lists).empty(UNMAP_FOLIOS, n > 0)
    return state.append_all(UNMAP_FOLIOS, SYNC_FOLIOS, none, n)


def _alone(
    context: Context, progress: CallProgress, state: State, ends: Flag
) -> tuple[CallProgress, State, Flag]:
    """migrate_pages_sync(): folios that the batch did not migrate are tried one by one.

    Returns also whether the batch is over.
    """
    batch = ends & (progress.stage == ASYNC) & context.rules.two_stages
    one = ends & (progress.stage == SYNC)
    state = _merge(context, progress, state, batch)
    # list_splice_tail_init(): `from`, then ret_folios.
    state = state.empty(SYNC_FOLIOS, batch)
    for which in (FROM, RET_FOLIOS):
        size = jnp.where(batch, state[which], 0)
        state = state.append_all(SYNC_FOLIOS, which, jnp.int32(0), size)
        state = state.empty(which, batch)
    # A folio still to be retried after its synchronous passes goes back to the caller.
    last = jnp.where(one, state[FROM], 0)
    state = state.append_all(RET_FOLIOS, FROM, jnp.int32(0), last).empty(FROM, one)
    state = state.note(log.END, log.ALONE, when=one)
    progress = progress.to(batch, alone=0)
    goes = (batch | one) & (state[ERROR] == 0) & (progress.alone < state[SYNC_FOLIOS])
    upto = jnp.where(goes, progress.alone + 1, 0)
    state = state.append_all(FROM, SYNC_FOLIOS, progress.alone, upto)
    state = state.note(log.BEGIN, log.ALONE, 1, when=goes)
    state = state.note(log.BEGIN, log.UNMAP, 1, when=goes)
    after = progress.alone + 1
    progress = progress.to(goes, op=UNMAPS, stage=SYNC, number=0, size=1, alone=after)
    # Folios on these lists go back to the caller; after an error also those not tried.
    closes = ends & ~goes
    untried = jnp.where(batch, state[SYNC_FOLIOS], 0)
    left = jnp.where(closes, state[FROM] + state[RET_FOLIOS] + untried, 0)
    return progress, state.add({REMAINING: left}), closes


def _merge(context: Context, progress: CallProgress, state: State, when: Flag) -> State:
    """Statistics of the asynchronous stage, whose failures are tried again (astats)."""
    old, new = progress.before, state
    fine = state[ERROR] == 0
    thps = new[reg.THP_SPLIT] - old[reg.THP_SPLIT]
    splits = new[reg.SPLITS] - old[reg.SPLITS]
    splits = jnp.where(context.rules.counts_nr_split, splits, thps)
    thp_failed = old[reg.THP_FAILED] + thps
    merged = {
        reg.FAILED: old[reg.FAILED] + jnp.where(fine, splits, 0),
        reg.FAILED_PAGES: jnp.where(fine, old[reg.FAILED_PAGES], new[reg.FAILED_PAGES]),
        reg.THP_FAILED: jnp.where(fine, thp_failed, new[reg.THP_FAILED]),
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

    One asynchronous pass, one flush, no retries; up to 6.2 one attempt for each piece.
    Returns also whether the next batch may begin.
    """
    some = (state[SPLIT_FOLIOS] > 0) & (state[ERROR] == 0)
    begins, whole = closes & some, serial & some
    state = state.note(log.BEGIN, log.SPLIT, state[SPLIT_FOLIOS], when=begins | whole)
    state = state.note(log.BEGIN, log.UNMAP, 0, when=begins)
    state = state.empty(reg.PIECES, begins)
    progress = progress.to(begins | whole, size=state[SPLIT_FOLIOS], number=0)
    progress = progress.to(begins, op=PIECES_UNMAPPED, stage=ASYNC)
    progress = progress.to(whole, op=PIECES)
    progress = progress.to((serial & ~some) | (op == PIECES), op=DONE)
    moved, counted = op == PIECES_MOVED, op == PIECES_COUNTED
    state = state.note(log.END, log.SPLIT, when=moved | (op == PIECES))
    progress = progress.to(moved, op=PIECES_COUNTED)
    # migrate_pages_batch() of split_folios: its return value is ignored, -ENOMEM included.
    # As posted, the pieces are one more round of the batch, and -ENOMEM ends the call.
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
    # An error ends the call: the rest of the list is not tried.
    more = opens & (from_list.next < from_list.size) & (state[ERROR] == 0)
    if from_list.once:
        more &= from_list.next == from_list.first
    state = state.empty(FROM, opens).empty(RET_FOLIOS, opens).empty(SPLIT_FOLIOS, opens)
    lists, size, after = cut(context, from_list, state, more)
    state = state.set(lists=lists, ev=state.ev.add(batches=more))
    state = state.put({FROM: jnp.where(more, size, state[FROM])})
    state = state.note(log.BEGIN, log.BATCH, size, when=more)
    state = state.note(log.BEGIN, log.UNMAP, size, when=more)
    stage = first_stage(context.rules)
    progress = progress.to(more, op=UNMAPS, stage=stage, number=0, size=size)
    progress = progress.to(more, before=state.reg)
    progress = progress.to(opens & ~more, op=DONE)
    return dataclasses.replace(from_list, next=after), progress, state
