"""migrate_pages() since 6.3, one attempt at a time, in the kernel's own order.

This is the form that is right for everything: folios of any size, splits that cut a
batch's flush in two, memory that ends in the middle of a batch, the posted series that
stops to move what it holds before it sleeps.  `batched.py` does the same for all
batches at once where none of that can happen.

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.3 to 6.18; T:V4 (the series of February 2023) for `posted`.
"""

import dataclasses
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import frame, log, tlb, wall
from jaxmig.frame import FLAGS
from jaxmig.policy.call import Call, List, each, no_retry, no_stats, passes
from jaxmig.policy.folio import (
    EAGAIN,
    EDEADLOCK,
    ENOMEM,
    FAILED,
    SLEEPS,
    SUCCESS,
    UNMAPPED,
    Stage,
    Where,
    is_thp,
    move_attempt,
    pages_of,
    stage,
    undo,
    unmap_attempt,
)
from jaxmig.policy.pieces import each_piece
from jaxmig.policy.serial import attempt, no_memory, retried
from jaxmig.policy.splitting import try_split
from jaxmig.rules import Rules

PASSES: Final = 10  # ASYNC callers, hugetlb, the posted series
ASYNC_PASSES: Final = 3
SYNC_PASSES: Final = PASSES - ASYNC_PASSES
UNFORCED: Final = 3
NO_LIMIT: Final = 2**31 - 1

Index = Int32[Array, ""]


def split_first(
    rules: Rules, k: Call, head: Index, at: Where, st: Stage
) -> tuple[Call, Array]:
    """Since 6.10 a partially mapped folio is split before anything else is tried."""
    no = jnp.asarray(False)
    if not rules.release.splits_partially_mapped or k.m.geometry.orders == (0,):
        return k, no
    flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
    # Only anonymous folios are ever on that queue.
    queued = frame.has(flags, frame.SPLIT_QUEUED) & frame.is_anon(flags)
    queued &= frame.order(flags) > 1
    trylock = rules.release.split_trylocks and not st.sleeps
    k, split, _ = try_split(rules, k, head, at, trylock, queued)
    n = split.astype(jnp.int32)
    thp = n * is_thp(rules, flags)
    return k.set(
        stats=k.stats.add(failed=n, thp_failed=thp, thp_split=thp, split=n)
    ), split


def unmap_one(
    rules: Rules, st: Stage, k: Call, head: Index, at: Where, force: Array
) -> Call:
    """The body of the unmap loop for one folio, result booked."""
    k, split = split_first(rules, k, head, at, st)
    flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
    held = k.held.size > 0
    # A folio that is gone in pieces is not looked at any more.
    m, ev, rc = unmap_attempt(rules, st, k.m, k.ev, head, at, force, held, ~split)
    rc = jnp.where(split, -1, rc)
    k = k.set(m=m, ev=_success(rules, ev, rc, flags))
    trylock = rules.release.split_trylocks and not st.sleeps
    k = no_memory(rules, k, head, at, flags, rc, trylock)
    again, failed, unmapped = rc == EAGAIN, rc == FAILED, rc == UNMAPPED
    k = k.set(held=k.held.append(head, unmapped))
    return _book(rules, k, head, flags, rc, again, failed)


def _success(rules: Rules, ev, rc: Index, flags: Index):  # type: ignore[no-untyped-def]
    ok = rc == SUCCESS
    return ev.add(
        pgmigrate_success=jnp.where(ok, pages_of(flags), 0),
        thp_migration_success=ok & is_thp(rules, flags),
    )


def _book(
    rules: Rules,
    k: Call,
    head: Index,
    flags: Index,
    rc: Index,
    again: Array,
    bad: Array,
) -> Call:
    pages, thp = pages_of(flags), is_thp(rules, flags).astype(jnp.int32)
    n = bad.astype(jnp.int32)
    stop = (rc == SLEEPS) | (rc == EDEADLOCK)
    return k.set(
        todo=k.todo.append(head, again),
        ret=k.ret.append(head, bad),
        stats=k.stats.add(failed=n, failed_pages=n * pages, thp_failed=n * thp),
        retry=retried(k, again, pages, thp),
        error=jnp.where(stop, rc, k.error),
    )


def _unmap_pass(rules: Rules, st: Stage, k: Call, at: Where, force: Array) -> Call:
    size = k.todo.size
    k = k.set(todo=List(k.todo.folios, jnp.int32(0)))
    stopped = jnp.int32(0)

    def go_on(c: tuple[Call, Index]) -> Array:
        return (c[1] < size) & (c[0].error == 0)

    def body(c: tuple[Call, Index]) -> tuple[Call, Index]:
        k, i = c
        return unmap_one(rules, st, k, k.todo.at(i), at, force), i + 1

    k, stopped = jax.lax.while_loop(go_on, body, (k, stopped))
    # After -EDEADLOCK or -ENOMEM the rest stays on the list, the folio itself included.
    return _keep_rest(k, stopped, size)


def _keep_rest(k: Call, stopped: Index, size: Index) -> Call:
    back = (k.error == EDEADLOCK) | (k.error == ENOMEM)
    first = jnp.where(back, stopped - 1, size)

    def keep(c: tuple[List, Index]) -> tuple[List, Index]:
        todo, i = c
        return todo.append(todo.at(i), jnp.asarray(True)), i + 1

    todo, _ = jax.lax.while_loop(lambda c: c[1] < size, keep, (k.todo, first))
    return k.set(todo=todo)


def _leftovers(k: Call) -> Call:
    """Retries that the passes did not use up count as failures."""
    r = k.retry
    over = (k.error == 0).astype(jnp.int32)
    stats = k.stats.add(
        failed=r.folios * over, failed_pages=r.pages * over, thp_failed=r.thps * over
    )
    return k.set(stats=stats, retry=no_retry())


def _move_pass(rules: Rules, st: Stage, k: Call, at: Where) -> Call:
    size = k.held.size
    k = k.set(held=List(k.held.folios, jnp.int32(0)))

    def step(k: Call, i: Index) -> Call:
        head = k.held.at(i)
        flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
        yes = jnp.asarray(True)
        m, ev, rc = move_attempt(rules, st, k.m, k.ev, head, at, yes)
        again, failed = rc == EAGAIN, rc == FAILED
        m, ev = undo(m, ev, head, at, failed)
        k = k.set(m=m, ev=_success(rules, ev, rc, flags))
        todo = k.todo
        k = _book(rules, k, head, flags, rc, again, failed)
        # What must be retried stays unmapped: it is on `held`, not on `todo`.
        return k.set(todo=todo, held=k.held.append(head, again))

    return each(k, jnp.int32(0), size, step)


def _undo_held(k: Call, at: Where) -> Call:
    """Everything still unmapped goes back where it was."""

    def step(c: tuple[Call, Index]) -> tuple[Call, Index]:
        k, i = c
        head = k.held.at(i)
        m, ev = undo(k.m, k.ev, head, at, jnp.asarray(True))
        return k.set(m=m, ev=ev, ret=k.ret.append(head, jnp.asarray(True))), i + 1

    size = k.held.size
    k, _ = jax.lax.while_loop(lambda c: c[1] < size, step, (k, jnp.int32(0)))
    return k.set(held=List(k.held.folios, jnp.int32(0)))


def flush_and_move(rules: Rules, st: Stage, k: Call, at: Where, limit: int) -> Call:
    """One flush for all that was unmapped, then the move passes, then the undoing."""
    error = k.error
    k = k.note(log.BEGIN, log.SEND, k.held.size)
    m, ev = tlb.flush_batch(rules, k.m, k.ev, at.cpu)
    k = k.set(m=m, ev=ev, error=jnp.int32(0))
    k = k.note(log.BEGIN, log.MOVE, k.held.size)
    k = passes(k, limit, lambda k, _: _move_pass(rules, st, k, at))
    k = _undo_held(_leftovers(k), at).note(log.END, log.MOVE)
    return k.set(error=jnp.where(k.error == 0, error, k.error))


def migrate_pages_batch(
    rules: Rules, st: Stage, k: Call, at: Where, limit: int, unforced: int = 0
) -> Call:
    """All passes over `k.todo`: what failed ends on `k.todo` and `k.ret`.

    Statistics are added to k.stats; k.error holds -ENOMEM or an endless sleep.
    """

    def unmaps(k: Call, n: Index) -> Call:
        return _unmap_pass(rules, st, k, at, n >= unforced)

    k = k.note(log.BEGIN, log.UNMAP, k.todo.size)
    k = _leftovers(passes(k, limit, unmaps)).note(log.END, log.UNMAP)
    # With -ENOMEM and nothing unmapped the flush is not even sent.
    skip = (k.error == ENOMEM) & (k.held.size == 0) | (k.error == SLEEPS)
    return wall.when(~skip, lambda k: flush_and_move(rules, st, k, at, limit), k)


def _async_stage(rules: Rules, k: Call, at: Where, limit: int) -> Call:
    return migrate_pages_batch(rules, stage(rules, "async"), k, at, limit)


def migrate_pages_sync(rules: Rules, k: Call, at: Where) -> Call:
    """Asynchronously as a batch first; what fails then, one folio at a time."""
    before = k.stats
    k = _async_stage(rules, k.set(stats=no_stats()), at, ASYNC_PASSES)
    a = k.stats
    r = rules.release
    splits = a.split if r.counts_nr_split else a.thp_split
    ok = (k.error == 0).astype(jnp.int32)
    stats = before.add(
        thp_split=a.thp_split,
        split=a.split,
        failed=ok * splits,
        thp_failed=ok * a.thp_split + (1 - ok) * a.thp_failed,
        failed_pages=(1 - ok) * a.failed_pages,
    )
    k = _join(k.set(stats=stats))
    return wall.when(k.error == 0, lambda k: _one_by_one(rules, k, at), k)


def _join(k: Call) -> Call:
    """`from` and then what came back: the order in which the sync stage takes them."""

    def move(c: tuple[Call, Index]) -> tuple[Call, Index]:
        k, i = c
        return k.set(todo=k.todo.append(k.ret.at(i), jnp.asarray(True))), i + 1

    size = k.ret.size
    k, _ = jax.lax.while_loop(lambda c: c[1] < size, move, (k, jnp.int32(0)))
    return k.set(ret=List(k.ret.folios, jnp.int32(0)))


def _one_by_one(rules: Rules, k: Call, at: Where) -> Call:
    st = stage(rules, "sync")
    size = k.todo.size
    queue = k.todo
    none = List(queue.folios, jnp.int32(0))

    def step(c: tuple[Call, List, Index]) -> tuple[Call, List, Index]:
        k, queue, i = c
        # The list of one folio uses the call's own array: what stays on it has failed.
        alone = k.set(todo=List(k.todo.folios, jnp.int32(0)))
        alone = alone.set(todo=alone.todo.append(queue.at(i), jnp.asarray(True)))
        alone = alone.note(log.BEGIN, log.ALONE, 1)
        k = migrate_pages_batch(rules, st, alone, at, SYNC_PASSES)
        return _to_ret(k).note(log.END, log.ALONE), queue, i + 1

    k = k.set(todo=List(jnp.zeros_like(none.folios), jnp.int32(0)))
    k, _, _ = jax.lax.while_loop(
        lambda c: (c[2] < size) & (c[0].error == 0), step, (k, queue, jnp.int32(0))
    )
    return k


def _to_ret(k: Call) -> Call:
    """What is left on the list goes back to the caller."""
    some = k.todo.size > 0
    head = k.todo.at(jnp.int32(0))
    return k.set(ret=k.ret.append(head, some), todo=List(k.todo.folios, jnp.int32(0)))


def posted_batch(rules: Rules, k: Call, at: Where) -> Call:
    """The series as posted: all modes batched, -EDEADLOCK before a sleep."""
    st = stage(rules, "posted" if rules.mode != "async" else "async")

    def again(k: Call) -> Call:
        k = k.set(error=jnp.int32(0))
        return migrate_pages_batch(rules, st, k, at, PASSES, UNFORCED)

    k = again(k)
    return jax.lax.while_loop(lambda k: k.error == EDEADLOCK, again, k)


def one_batch(rules: Rules, k: Call, at: Where) -> Call:
    """What a release does with one batch."""
    if not rules.release.async_first:
        return posted_batch(rules, k, at)
    if rules.mode == "async":
        return _async_stage(rules, k, at, PASSES)
    return migrate_pages_sync(rules, k, at)


def split_list(rules: Rules, k: Call, at: Where) -> Call:
    """The pieces of one batch: one asynchronous pass, one flush, nothing retried."""
    if k.m.geometry.orders == (0,):
        return k
    return wall.when(
        (k.split.size > 0) & (k.error == 0), lambda k: _split_list(rules, k, at), k
    )


def _split_list(rules: Rules, k: Call, at: Where) -> Call:
    st = stage(rules, "async")
    before, failed = k.stats, k.remaining

    def unmap(k: Call, head: Index) -> Call:
        no = jnp.asarray(False)
        yes = jnp.asarray(True)
        m, ev, rc = unmap_attempt(rules, st, k.m, k.ev, head, at, no, no, yes)
        bad = ((rc != SUCCESS) & (rc != UNMAPPED)).astype(jnp.int32)
        k = k.set(m=m, ev=ev.add(pgmigrate_success=rc == SUCCESS))
        return k.set(
            stats=k.stats.add(failed_pages=bad),
            error=jnp.where(rc == ENOMEM, ENOMEM, k.error),
            remaining=k.remaining + (rc == UNMAPPED),
        )

    def move(k: Call, head: Index) -> Call:
        flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
        # A piece is held if it is locked; the others failed or were never tried.
        live = frame.has(flags, frame.LOCKED)
        m, ev, rc = move_attempt(rules, st, k.m, k.ev, head, at, live)
        ok = live & (rc == SUCCESS)
        m, ev = undo(m, ev, head, at, live & ~ok)
        bad = (live & ~ok).astype(jnp.int32)
        k = k.set(m=m, ev=ev.add(pgmigrate_success=ok))
        return k.set(stats=k.stats.add(failed_pages=bad))

    k = k.note(log.BEGIN, log.SPLIT, k.split.size).note(log.BEGIN, log.UNMAP, 0)
    k = each_piece(rules, k.set(remaining=jnp.int32(0)), unmap)
    error = k.error
    sent = (k.error == 0) | (k.remaining > 0)

    def flush(k: Call) -> Call:
        k = k.note(log.BEGIN, log.SEND, k.remaining)
        m, ev = tlb.flush_batch(rules, k.m, k.ev, at.cpu)
        k = k.set(m=m, ev=ev, error=jnp.int32(0)).note(log.BEGIN, log.MOVE, 0)
        return each_piece(rules, k, move)

    k = wall.when(sent, flush, k).note(log.END, log.SPLIT)
    stats = dataclasses.replace(k.stats, failed=before.failed)
    k = k.set(error=jnp.int32(0), stats=stats, remaining=failed)
    k = _count_pieces(rules, k)
    # The result of this list is ignored by its caller, an abort included; as posted, the
    # pieces were a last round of the same batch, and memory that ends ends the call.
    return k if rules.release.async_first else k.set(error=error)


def _count_pieces(rules: Rules, k: Call) -> Call:
    def count(k: Call, head: Index) -> Call:
        flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
        stays = frame.kind(flags) != frame.FREE
        return k.set(remaining=k.remaining + stays)

    return each_piece(rules, k, count)


def hugetlbs(rules: Rules, k: Call, at: Where) -> Call:
    """migrate_hugetlbs(): first of all, one by one, up to ten passes."""

    def one_pass(k: Call, n: Index) -> Call:
        size = k.held.size
        k = k.set(held=List(k.held.folios, jnp.int32(0)))

        def step(k: Call, i: Index) -> Call:
            head = k.held.at(i)
            flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
            k, rc = attempt(rules, k, head, at, n >= UNFORCED)
            again, bad = rc == EAGAIN, (rc == FAILED).astype(jnp.int32)
            k = k.set(ev=_success(rules, k.ev, rc, flags))
            pages = pages_of(flags)
            # Without a huge page the whole call is over.
            short = rc == ENOMEM
            lost = jnp.where(short, pages + k.retry.pages, bad * pages)
            stop = short | (rc == SLEEPS)
            return k.set(
                held=k.held.append(head, again),
                retry=retried(k, again, pages, jnp.int32(0)),
                stats=k.stats.add(failed=bad, failed_pages=lost),
                error=jnp.where(stop, rc, k.error),
                remaining=k.remaining + bad,
            )

        return each(k, jnp.int32(0), size, step)

    k = k.note(log.BEGIN, log.HUGETLBS, k.held.size)
    k = passes(k, PASSES, one_pass).note(log.END, log.HUGETLBS)
    k = k.set(remaining=k.remaining + k.retry.folios)
    return _leftovers(k).set(held=List(k.held.folios, jnp.int32(0)))


def _sort_out_hugetlbs(
    k: Call, folios: Array, size: Index
) -> tuple[Call, Array, Index]:
    """Hugetlb folios to `held`, the others to the front of `folios`."""

    def step(c: tuple[List, List, Index]) -> tuple[List, List, Index]:
        rest, huge, i = c
        head = rest.at(i)
        flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
        is_huge = frame.kind(flags) == frame.HUGETLB
        return rest.append(head, ~is_huge), huge.append(head, is_huge), i + 1

    start = (List(folios, jnp.int32(0)), k.held, jnp.int32(0))
    rest, huge, _ = jax.lax.while_loop(lambda c: c[2] < size, step, start)
    return k.set(held=huge), rest.folios, rest.size


def _cut(
    rules: Rules, k: Call, queue: List, i: Index, limit: Index
) -> tuple[Call, Index]:
    """Fill `k.todo` with the next batch; where the one after begins."""

    def go_on(c: tuple[List, Index, Index]) -> Array:
        _, i, pages = c
        more = (i < queue.size) & (pages < limit)
        if rules.release.crossing_opens_next:
            head = queue.at(jnp.minimum(i, queue.size - 1))
            flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
            more &= (pages == 0) | (pages + pages_of(flags) <= limit)
        return more

    def step(c: tuple[List, Index, Index]) -> tuple[List, Index, Index]:
        todo, i, pages = c
        head = queue.at(i)
        flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
        yes = jnp.asarray(True)
        return todo.append(head, yes), i + 1, pages + pages_of(flags)

    start = (List(k.todo.folios, jnp.int32(0)), i, jnp.int32(0))
    todo, i, _ = jax.lax.while_loop(go_on, step, start)
    empty = jnp.int32(0)
    k = k.set(
        todo=todo,
        ret=List(k.ret.folios, empty),
        held=List(k.held.folios, empty),
        split=List(k.split.folios, empty),
    )
    return k, i


def migrate_stepwise(
    rules: Rules, k: Call, at: Where, limit: Index, first: Index | int = 0
) -> Call:
    """The call on `k.todo` from its `first` folio on.

    The result is in stats.failed and error.
    """
    folios, size = k.todo.folios, k.todo.size
    if len(k.m.geometry.orders) > 1:
        k, folios, size = _sort_out_hugetlbs(k, folios, size)
        k = wall.when(k.held.size > 0, lambda k: hugetlbs(rules, k, at), k)
    queue = List(folios, size)
    k = k.set(todo=List(jnp.zeros_like(folios), jnp.int32(0)))

    def batch(c: tuple[Call, List, Index]) -> tuple[Call, List, Index]:
        k, queue, i = c
        k, i = _cut(rules, k, queue, i, limit)
        k = k.set(ev=k.ev.add(batches=1)).note(log.BEGIN, log.BATCH, k.todo.size)
        k = one_batch(rules, k, at)
        k = k.set(remaining=k.remaining + k.todo.size + k.ret.size)
        return split_list(rules, k, at).note(log.END, log.BATCH), queue, i

    def go_on(c: tuple[Call, List, Index]) -> Array:
        return (c[2] < c[1].size) & (c[0].error == 0)

    start = (k, queue, jnp.asarray(first, jnp.int32))
    k = jax.lax.while_loop(go_on, batch, start)[0]
    # What a refused walk put off and -ENOMEM kept from being sent: its entries are as
    # they were, so nobody misses it.
    cpus = dataclasses.replace(k.m.cpus, pending=k.m.cpus.pending & False)
    return k.set(m=dataclasses.replace(k.m, cpus=cpus))
