"""migrate_pages() one folio at a time, in the kernel's own order, for every release.

This is the form that is right for everything: folios of any size, splits that cut a
batch's flush in two, memory that ends in the middle of a batch, the posted series that
stops to move what it holds before it sleeps.  `batched.py` does the same for all
batches at once where none of that can happen, `serial_pages.py` is a tight loop.

A call is a sequence of passes over lists.  What comes after a pass is worked out here;
every release and mode goes through the same few lines, so that one compiled program
serves them all:

    up to 6.2   SERIAL up to ten times, then the PIECES of what was split
    from 6.3    HUGETLB; then batch by batch UNMAPS up to three times, one flush, MOVES
                up to three times, UNDOES; what is left one by one in the same way with
                seven passes each; then the pieces of what was split
    as posted   the same with ten passes, and again after every -EDEADLOCK

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18; T:V4 (the series of February 2023) for the posted.
"""

import dataclasses
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, log, tlb, wall
from jaxmig.frame import FLAGS
from jaxmig.phases import lanes
from jaxmig.phases.copypage import copy_folios, no_copies
from jaxmig.policy import passes, state as reg
from jaxmig.policy.call import Call
from jaxmig.policy.folio import EDEADLOCK, ENOMEM, SLEEPS, Where, pages_of
from jaxmig.policy.hurdles import Stage
from jaxmig.policy.passes import (
    DONE,
    FIRST,
    HUGETLB,
    MOVES,
    PIECES,
    PIECES_COUNTED,
    PIECES_MOVED,
    PIECES_UNMAPPED,
    SERIAL,
    UNDOES,
    UNMAPS,
    Pass,
    Place,
)
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
from jaxmig.pytree import pytree
from jaxmig.switches import Switches

PASSES: Final = 10  # of all forms; ASYNC callers, hugetlb, the posted series
ASYNC_PASSES: Final = 3
SYNC_PASSES: Final = PASSES - ASYNC_PASSES
UNFORCED: Final = 3  # passes that never sleep
NO_LIMIT: Final = 2**31 - 1
# Stages: a batch; one folio after its batch; as posted; one folio from start to end.
ASYNC, SYNC, POSTED, WHOLE = range(4)

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@pytree
class Queue:
    """The caller's list, and where the next batch begins."""

    folios: Int32[Array, " folios"]
    size: Index
    next: Index
    limit: Index  # base pages that close a batch
    passes: Index  # of a serial call


@pytree
class Course:
    """How far a call is."""

    op: Index  # the pass that comes next, see passes.py
    stage: Index
    number: Index  # of the pass
    size: Index  # folios of the pass
    alone: Index  # the next of the folios that are tried one by one
    saved: Index  # the error of the unmap passes, while the move passes go on
    before: Int32[Array, " registers"]  # registers at the beginning of the batch
    at: Place  # in the pass

    def to(self, when: Flag, **changes: Any) -> "Course":
        """This course, with some fields replaced if `when`."""
        old = {name: getattr(self, name) for name in changes}
        new = {name: jnp.where(when, n, old[name]) for name, n in changes.items()}
        return dataclasses.replace(self, **new)


Progress = tuple[Queue, Course, State]


def _stage(s: Switches, x: Course) -> Stage:
    """What the next pass may do."""
    posted = x.stage == POSTED
    early = ((x.op != UNMAPS) | posted) & (x.number < UNFORCED)
    return Stage(
        batch=(x.stage == ASYNC) | posted,
        sleeps=(x.stage != ASYNC) & s.may_sleep,
        posted=posted,
        force=~early & (x.op != PIECES),
    )


def _most(s: Switches, q: Queue, x: Course) -> Index:
    """How many passes there are at most."""
    most = jnp.where((x.stage == ASYNC) & s.two_stages, ASYNC_PASSES, PASSES)
    most = jnp.where(x.stage == SYNC, SYNC_PASSES, most)
    return jnp.where(x.op == SERIAL, q.passes, most)


def _first_stage(s: Switches) -> Index:
    return jnp.where(s.async_first | s.asynchronous, ASYNC, POSTED)


def migrate_stepwise(
    s: Switches,
    k: Call,
    at: Where,
    limit: Index,
    first: Index | int = 0,
    passes_: Index | int = PASSES,
) -> Call:
    """The call on `k.todo` from its `first` folio on.

    `passes_`: of a serial call.  The result is in stats.failed and error.
    """
    c = Context(s, k.m.geometry, at, k.m.pmd_table)
    numbers = (jnp.asarray(n, jnp.int32) for n in (first, limit, passes_))
    q = Queue(k.todo.folios, k.todo.size, *numbers)
    st = reg.begin(k)
    q, x, st = _start(c, q, st)

    memory = k.m.memory

    def more(v: tuple[Progress, Any]) -> Flag:
        return v[0][1].op != DONE

    def then_copy(v: tuple[Progress, Any]) -> tuple[Progress, Any]:
        q, x, st = _passes(c, v[0])
        if st.copies is None:
            return (q, x, st), v[1]
        memory = copy_folios(c.g.orders, v[1], st.copies)
        return (q, x, st.set(copies=no_copies(len(c.g.orders), reg.COPIES))), memory

    (_, _, st), memory = jax.lax.while_loop(more, then_copy, ((q, x, st), memory))
    return reg.end(k, st, memory)


def _passes(c: Context, v: Progress) -> Progress:
    """Passes, until the call is over or contents have to be copied."""

    def more(v: Progress) -> Flag:
        return (v[1].op != DONE) & ~jnp.asarray(v[2].waits)

    def one(v: Progress) -> Progress:
        q, x, st = v
        p = Pass(x.op, x.size, _stage(c.s, x))
        fresh = (x.at.folio == 0) & (x.at.piece == 0) & (x.at.turn == FIRST)
        for retry in (reg.RETRY, reg.RETRY_PAGES, reg.RETRY_THPS):
            st = st.empty(retry, fresh)
        # The list is compacted to what must be tried again.
        st = st.empty(p.source, p.listed & fresh)
        st, at = passes.run(c, p, st, x.at)
        over = ~passes.goes_on(p, st, at)
        x = dataclasses.replace(x, at=at)
        return _next(c, q, x, st, over)

    return jax.lax.while_loop(more, one, v)


def _start(c: Context, q: Queue, s: State) -> tuple[Queue, Course, State]:
    """The first pass of a call."""
    batched = jnp.asarray(c.s.batched)
    none = jnp.int32(0)
    x = Course(
        op=jnp.where(batched, HUGETLB, SERIAL).astype(jnp.int32),
        stage=jnp.int32(WHOLE),
        number=none,
        size=jnp.where(batched, 0, q.size),
        alone=none,
        saved=none,
        before=s.reg,
        at=passes.start(),
    )
    if len(c.g.orders) == 1:
        return q, x, s
    # Hugetlb folios to a list of their own; both keep their order.
    live = jnp.arange(q.folios.shape[0]) < q.size
    rows = lanes.rows(s.frame, jnp.where(live, q.folios, 0))
    huge = live & batched & (frame.kind(rows[:, FLAGS]) == frame.HUGETLB)
    rest = live & ~huge
    held = HELD * s.room + lanes.rank(huge)
    folios = lanes.scatter(q.folios, lanes.rank(rest), rest, q.folios)
    s = s.set(lists=lanes.scatter(s.lists, held, huge, q.folios))
    n = huge.sum(dtype=jnp.int32)
    s = s.put({HELD: n}).note(log.BEGIN, log.HUGETLBS, n, when=n > 0)
    q = dataclasses.replace(q, folios=folios, size=q.size - n)
    return q, dataclasses.replace(x, size=jnp.where(batched, n, x.size)), s


def _next(c: Context, q: Queue, x: Course, s: State, ended: Flag) -> Progress:
    """What comes after a pass, if it has `ended`."""
    # Nothing comes after a pass that will go on.
    op, number = jnp.where(ended, x.op, DONE), x.number + 1
    s = _keep_rest(op, x, s)
    at = jax.tree.map(lambda a, b: jnp.where(ended, a, b), passes.start(), x.at)
    x = dataclasses.replace(x, at=at)
    passing = op <= MOVES
    again = passing & (number < _most(c.s, q, x))
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
    s = s.note(log.END, log.HUGETLBS, when=huge & (x.size > 0))
    return _open(c, q, x, s, opens | huge)


def _keep_rest(op: Index, x: Course, s: State) -> State:
    """After -EDEADLOCK or -ENOMEM the rest stays on the list, the last one included."""
    back = (op == UNMAPS) & ((s[ERROR] == EDEADLOCK) | (s[ERROR] == ENOMEM))
    first = jnp.where(back, x.at.folio - 1, x.size)
    if_any = jnp.where(op == UNMAPS, x.size, 0)
    return _append_all(s, TODO, TODO, first, if_any)


def _append_all(s: State, to: int, which: int, first: Index, last: Index) -> State:
    """Items `first` ... `last` - 1 of one list, at the end of another or of itself."""

    def go_on(v: tuple[Array, Index, Index]) -> Flag:
        return v[1] < last

    def move(v: tuple[Array, Index, Index]) -> tuple[Array, Index, Index]:
        lists, i, slot = v
        folio = wall.read(i, lambda: lists[which * s.room + i])
        return wall.put(lists, to * s.room + slot, folio), i + 1, slot + 1

    start = (s.lists, jnp.asarray(first), s[to])
    lists, _, size = jax.lax.while_loop(go_on, move, start)
    return s.set(lists=lists).put({to: size})


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
    held = jnp.where(sends, s[HELD], s[reg.PIECES])
    s = s.note(log.BEGIN, log.SEND, held, when=flushes)
    cached, ev = tlb.flush_batch(c.s, s.cached, s.ev, c.at.cpu, flushes)
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


def _alone(c: Context, x: Course, s: State, ends: Flag) -> tuple[Course, State, Flag]:
    """What a batch left behind is tried one by one, unless the caller is ASYNC.

    Returns also whether the batch is over.
    """
    batch = ends & (x.stage == ASYNC) & c.s.two_stages
    one = ends & (x.stage == SYNC)
    s = _merge(c, x, s, batch)
    # `from` and then what came back: the order in which they are taken.
    s = s.empty(ALONE, batch)
    for which in (TODO, RET):
        s = _append_all(s, ALONE, which, jnp.int32(0), jnp.where(batch, s[which], 0))
        s = s.empty(which, batch)
    # What is left on the list of one folio goes back to the caller.
    last = jnp.where(one, s[TODO], 0)
    s = _append_all(s, RET, TODO, jnp.int32(0), last).empty(TODO, one)
    s = s.note(log.END, log.ALONE, when=one)
    x = x.to(batch, alone=0)
    goes = (batch | one) & (s[ERROR] == 0) & (x.alone < s[ALONE])
    upto = jnp.where(goes, x.alone + 1, 0)
    s = _append_all(s, TODO, ALONE, x.alone, upto)
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
    splits = jnp.where(c.s.counts_nr_split, reg.SPLITS, reg.THP_SPLIT)
    fine = s[ERROR] == 0
    since = jnp.where(
        splits == reg.SPLITS,
        new[reg.SPLITS] - old[reg.SPLITS],
        new[reg.THP_SPLIT] - old[reg.THP_SPLIT],
    )
    thps = new[reg.THP_SPLIT] - old[reg.THP_SPLIT]
    merged = {
        reg.FAILED: old[reg.FAILED] + jnp.where(fine, since, 0),
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
    error = jnp.where(moved | (counted & c.s.async_first), 0, s[ERROR])
    error = jnp.where(counted & ~c.s.async_first, x.saved, error)
    return x, s.put({ERROR: error}), (closes & ~some) | counted


def _open(
    c: Context, q: Queue, x: Course, s: State, opens: Flag
) -> tuple[Queue, Course, State]:
    """The next batch, or the end of the call."""
    more = opens & (q.next < q.size) & (s[ERROR] == 0)
    s = s.empty(TODO, opens).empty(RET, opens).empty(SPLIT, opens)
    lists, size, after = _cut(c, q, s, more)
    s = s.set(lists=lists, ev=s.ev.add(batches=more))
    s = s.put({TODO: jnp.where(more, size, s[TODO])})
    s = s.note(log.BEGIN, log.BATCH, size, when=more)
    s = s.note(log.BEGIN, log.UNMAP, size, when=more)
    stage = _first_stage(c.s)
    x = x.to(more, op=UNMAPS, stage=stage, number=0, size=size, before=s.reg)
    x = x.to(opens & ~more, op=DONE)
    return dataclasses.replace(q, next=after), x, s


def _cut(c: Context, q: Queue, s: State, when: Flag) -> tuple[Array, Index, Index]:
    """Fill TODO with the next batch: the lists, its size, where the one after begins."""

    def go_on(v: tuple[Array, Index, Index, Index]) -> Flag:
        _, i, pages, size = v
        fits = (pages == 0) | (pages + size <= q.limit)
        full = jnp.where(c.s.crossing_opens_next, ~fits, pages >= q.limit)
        return when & (i < q.size) & ~full

    def more(v: tuple[Array, Index, Index, Index]) -> tuple:
        lists, i, pages, size = v
        lists = wall.put(lists, TODO * s.room + i - q.next, q.folios[i])
        return lists, i + 1, pages + size, size_of(i + 1)

    def size_of(i: Index) -> Index:
        def read() -> Index:
            head = q.folios[jnp.minimum(i, q.folios.shape[0] - 1)]
            return pages_of(s.frame[head, FLAGS])

        return wall.read(i, read)

    start = (s.lists, q.next, jnp.int32(0), size_of(q.next))
    lists, i, _, _ = jax.lax.while_loop(go_on, more, start)
    return lists, i - q.next, i
