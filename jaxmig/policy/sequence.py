"""What comes after a pass.

Every release and mode goes through the same few lines; which of them act is data.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18; T:V4 (the series of February 2023) for the posted.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, tlb, xla
from jaxmig.policy import passes, state as reg
from jaxmig.policy.books import (
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
from jaxmig.policy.course import (
    ASYNC,
    SYNC,
    Course,
    Progress,
    Queue,
    cut,
    first_stage,
    most,
)
from jaxmig.policy.folio import EDEADLOCK, ENOMEM, SLEEPS
from jaxmig.policy.state import (
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

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def next_pass(c: Context, q: Queue, x: Course, s: State, ended: Flag) -> Progress:
    """What comes after a pass, if it has `ended`."""
    # Nothing comes after a pass that will go on.
    op, number = jnp.where(ended, x.op, DONE), x.number + 1
    s = _keep_rest(op, x, s)
    at = jax.tree.map(lambda a, b: jnp.where(ended, a, b), passes.start(), x.at)
    x = dataclasses.replace(x, at=at)
    passing = op <= MOVES
    again = passing & (number < most(c.rules, q, x))
    again &= (s[reg.RETRY] > 0) & (s[ERROR] == 0)
    left = jnp.where((op == HUGETLB) | (op == MOVES), s[HELD], s[TODO])
    x = x.to(again, number=number, size=left)
    over = passing & ~again
    s = _leftovers(op, s, over)
    x, s, ends = _send(c, op, x, s, over)
    x, s, closes = _alone(c, x, s, ends)
    x, s, opens = _pieces(c, op, x, s, closes, over & (op == SERIAL))
    s = s.note(log.END, log.BATCH, when=opens)
    huge = over & (op == HUGETLB)
    # What is left of them goes back to the caller, and is not held by the first batch.
    s = s.note(log.END, log.HUGETLBS, when=huge & (x.size > 0)).empty(HELD, huge)
    return _open(c, q, x, s, opens | huge)


def _keep_rest(op: Index, x: Course, s: State) -> State:
    """After -EDEADLOCK or -ENOMEM the rest stays on the list, the last one included."""
    back = (op == UNMAPS) & ((s[ERROR] == EDEADLOCK) | (s[ERROR] == ENOMEM))
    first = jnp.where(back, x.at.folio - 1, x.size)
    if_any = jnp.where(op == UNMAPS, x.size, 0)
    return s.append_all(TODO, TODO, first, if_any)


def _leftovers(op: Index, s: State, over: Flag) -> State:
    """Retries that the passes did not use up count as failures."""
    n = (over & (s[ERROR] == 0)).astype(jnp.int32)
    whole = over & ((op == SERIAL) | (op == HUGETLB))
    return s.add(
        {
            reg.FAILED: n * s[reg.RETRY],
            reg.FAILED_PAGES: n * s[reg.RETRY_PAGES],
            reg.THP_FAILED: n * s[reg.RETRY_THPS],
            REMAINING: jnp.where(whole, s[reg.RETRY], 0),
        }
    )


def _send(
    c: Context, op: Index, x: Course, s: State, over: Flag
) -> tuple[Course, State, Flag]:
    """One flush for all that was unmapped, then the move passes, then the undoing.

    Returns also whether all passes over the list are over.
    """
    unmapped, moved = over & (op == UNMAPS), over & (op == MOVES)
    s = s.note(log.END, log.UNMAP, when=unmapped)
    # With -ENOMEM and nothing unmapped the flush is not even sent.
    skips = (s[ERROR] == ENOMEM) & (s[HELD] == 0) | (s[ERROR] == SLEEPS)
    sends, pieces = unmapped & ~skips, op == PIECES_UNMAPPED
    flushes = sends | (pieces & ((s[ERROR] == 0) | (s[reg.PIECES] > 0)))
    s = _engine_first(c, s, sends)
    held = jnp.where(sends, s[HELD], s[reg.PIECES])
    s = s.note(log.BEGIN, log.SEND, held, when=flushes)
    cached, ev = tlb.flush_batch(c.rules, s.cached, s.ev, c.at.cpu, flushes)
    s = s.set(cached=cached, ev=ev)
    n = jnp.where(sends, s[HELD], 0)
    s = s.note(log.BEGIN, log.MOVE, n, when=flushes)
    x = x.to(sends | pieces, saved=s[ERROR], number=0)
    x = x.to(sends, op=MOVES, size=s[HELD]).to(pieces, op=PIECES_MOVED)
    s = s.put({ERROR: jnp.where(flushes, 0, s[ERROR])})
    none = s[HELD] == 0
    x = x.to(moved & ~none, op=UNDOES, size=s[HELD])
    back = (op == UNDOES) | ((sends | moved) & none)
    s = s.note(log.END, log.MOVE, when=back).empty(HELD, back)
    s = s.put({ERROR: jnp.where(back & (s[ERROR] == 0), x.saved, s[ERROR])})
    ends = back | (unmapped & skips)
    # As posted: what was held is moved, so that sleeping is safe; then from the start.
    once_more = ends & (s[ERROR] == EDEADLOCK)
    s = s.put({ERROR: jnp.where(once_more, 0, s[ERROR])})
    s = s.note(log.BEGIN, log.UNMAP, s[TODO], when=once_more)
    x = x.to(once_more, op=UNMAPS, number=0, size=s[TODO])
    return x, s, ends & ~once_more


def _engine_first(c: Context, s: State, when: Flag) -> State:
    """What an engine copies is moved before the rest of its batch."""
    # A batch of several is asynchronous: nothing is on ALONE yet.
    n = jnp.where(when & c.rules.offloads & (s[HELD] > 1), s[HELD], 0)

    def take(v: tuple[Array, Index, Index]) -> tuple[Array, Index, Index]:
        lists, i, size = v
        at = HELD * s.room + jnp.where(i < n, i, i - n)
        head = xla.read(i, lambda: lists[at])
        flags = xla.read(head, lambda: s.frame[head, frame.FLAGS])
        mine = frame.has(flags, frame.COPIED) == (i < n)
        return xla.put(lists, ALONE * s.room + size, head), i + 1, size + mine

    none = jnp.int32(0)
    start = (s.lists, none, none)
    lists, _, _ = jax.lax.while_loop(lambda v: v[1] < 2 * n, take, start)
    s = s.set(lists=lists).empty(HELD, n > 0)
    return s.append_all(HELD, ALONE, none, n)


def _alone(c: Context, x: Course, s: State, ends: Flag) -> tuple[Course, State, Flag]:
    """What a batch left behind is tried one by one, unless the caller is ASYNC.

    Returns also whether the batch is over.
    """
    batch = ends & (x.stage == ASYNC) & c.rules.two_stages
    one = ends & (x.stage == SYNC)
    s = _merge(c, x, s, batch)
    # `from` and then what came back: the order in which they are taken.
    s = s.empty(ALONE, batch)
    for which in (TODO, RET):
        s = s.append_all(ALONE, which, jnp.int32(0), jnp.where(batch, s[which], 0))
        s = s.empty(which, batch)
    # What is left on the list of one folio goes back to the caller.
    last = jnp.where(one, s[TODO], 0)
    s = s.append_all(RET, TODO, jnp.int32(0), last).empty(TODO, one)
    s = s.note(log.END, log.ALONE, when=one)
    x = x.to(batch, alone=0)
    goes = (batch | one) & (s[ERROR] == 0) & (x.alone < s[ALONE])
    upto = jnp.where(goes, x.alone + 1, 0)
    s = s.append_all(TODO, ALONE, x.alone, upto)
    s = s.note(log.BEGIN, log.ALONE, 1, when=goes)
    s = s.note(log.BEGIN, log.UNMAP, 1, when=goes)
    x = x.to(goes, op=UNMAPS, stage=SYNC, number=0, size=1, alone=x.alone + 1)
    closes = ends & ~goes
    untried = jnp.where(batch, s[ALONE], 0)
    left = jnp.where(closes, s[TODO] + s[RET] + untried, 0)
    return x, s.add({REMAINING: left}), closes


def _merge(c: Context, x: Course, s: State, when: Flag) -> State:
    """Statistics of the asynchronous stage: what will be tried again has not failed."""
    old, new = x.before, s
    fine = s[ERROR] == 0
    thps = new[reg.THP_SPLIT] - old[reg.THP_SPLIT]
    splits = jnp.where(c.rules.counts_nr_split, new[reg.SPLITS] - old[reg.SPLITS], thps)
    merged = {
        reg.FAILED: old[reg.FAILED] + jnp.where(fine, splits, 0),
        reg.FAILED_PAGES: jnp.where(fine, old[reg.FAILED_PAGES], new[reg.FAILED_PAGES]),
        reg.THP_FAILED: jnp.where(
            fine, old[reg.THP_FAILED] + thps, new[reg.THP_FAILED]
        ),
    }
    return s.put({r: jnp.where(when, n, s[r]) for r, n in merged.items()})


def _pieces(
    c: Context, op: Index, x: Course, s: State, closes: Flag, serial: Flag
) -> tuple[Course, State, Flag]:
    """The pieces of split folios, at the end of a batch, or of all passes if `serial`.

    One asynchronous pass, one flush, nothing retried; up to 6.2 an attempt each.
    Returns also whether the next batch may begin.
    """
    some = (s[SPLIT] > 0) & (s[ERROR] == 0)
    begins, whole = closes & some, serial & some
    s = s.note(log.BEGIN, log.SPLIT, s[SPLIT], when=begins | whole)
    s = s.note(log.BEGIN, log.UNMAP, 0, when=begins)
    s = s.empty(reg.PIECES, begins)
    x = x.to(begins | whole, size=s[SPLIT], number=0)
    x = x.to(begins, op=PIECES_UNMAPPED, stage=ASYNC)
    x = x.to(whole, op=PIECES).to((serial & ~some) | (op == PIECES), op=DONE)
    moved, counted = op == PIECES_MOVED, op == PIECES_COUNTED
    s = s.note(log.END, log.SPLIT, when=moved | (op == PIECES))
    x = x.to(moved, op=PIECES_COUNTED)
    # The result of this list is ignored by its caller, an abort included; as posted, the
    # pieces were a last round of the same batch, and memory that ends ends the call.
    error = jnp.where(moved | (counted & c.rules.async_first), 0, s[ERROR])
    error = jnp.where(counted & ~c.rules.async_first, x.saved, error)
    return x, s.put({ERROR: error}), (closes & ~some) | counted


def _open(
    c: Context, q: Queue, x: Course, s: State, opens: Flag
) -> tuple[Queue, Course, State]:
    """The next batch, or the end of the call."""
    more = opens & (q.next < q.size) & (s[ERROR] == 0)
    if q.once:
        more &= q.next == q.first
    s = s.empty(TODO, opens).empty(RET, opens).empty(SPLIT, opens)
    lists, size, after = cut(c, q, s, more)
    s = s.set(lists=lists, ev=s.ev.add(batches=more))
    s = s.put({TODO: jnp.where(more, size, s[TODO])})
    s = s.note(log.BEGIN, log.BATCH, size, when=more)
    s = s.note(log.BEGIN, log.UNMAP, size, when=more)
    stage = first_stage(c.rules)
    x = x.to(more, op=UNMAPS, stage=stage, number=0, size=size, before=s.reg)
    x = x.to(opens & ~more, op=DONE)
    return dataclasses.replace(q, next=after), x, s
