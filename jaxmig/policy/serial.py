"""migrate_pages() up to 6.2: each folio is unmapped, flushed, copied and mapped alone.

Ten passes over the list; from the fourth a SYNC caller may sleep.  A folio that fails
is put back before the next one is touched, and pays everything again when it is
retried.

Source: migrate_pages(), unmap_and_move(), unmap_and_move_huge_page() in mm/migrate.c,
Linux 6.1 and 6.2.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import frame, log, wall
from jaxmig.frame import FLAGS
from jaxmig.policy.call import Call, List, each, no_retry, passes
from jaxmig.policy.folio import (
    EAGAIN,
    ENOMEM,
    FAILED,
    SLEEPS,
    SUCCESS,
    UNMAPPED,
    Where,
    is_thp,
    move_attempt,
    pages_of,
    stage,
    undo,
    unmap_attempt,
)
from jaxmig.policy.pieces import each_piece
from jaxmig.policy.splitting import try_split
from jaxmig.rules import Rules

PASSES: Final = 10
UNFORCED: Final = 3  # passes that never sleep

Index = Int32[Array, ""]


def attempt(rules: Rules, k: Call, head: Index, at: Where, force: Array) -> tuple:
    """unmap_and_move(): one folio from start to end; the Call and its result."""
    st = stage(rules, "serial")
    yes, no = jnp.asarray(True), jnp.asarray(False)
    m, ev, rc = unmap_attempt(rules, st, k.m, k.ev, head, at, force, no, yes)
    unmapped = rc == UNMAPPED
    m, ev, moved = move_attempt(rules, st, m, ev, head, at, unmapped)
    rc = jnp.where(unmapped, moved, rc)
    m, ev = undo(m, ev, head, at, unmapped & (moved != SUCCESS))
    return k.set(m=m, ev=ev), rc


def one_folio(rules: Rules, k: Call, head: Index, at: Where, force: Array) -> Call:
    """Try one folio of the list and book the result (the switch of migrate_pages())."""
    flags = wall.read(head, lambda: k.m.frame[head, FLAGS])
    pages, thp = pages_of(flags), is_thp(rules, flags).astype(jnp.int32)
    k, rc = attempt(rules, k, head, at, force)
    ok, again, failed = rc == SUCCESS, rc == EAGAIN, rc == FAILED
    ev = k.ev.add(
        pgmigrate_success=jnp.where(ok, pages, 0), thp_migration_success=ok * thp
    )
    k = no_memory(rules, k.set(ev=ev), head, at, flags, rc, trylock=False)
    rest = failed.astype(jnp.int32)
    stats = k.stats.add(failed=rest, failed_pages=rest * pages, thp_failed=rest * thp)
    return k.set(
        todo=k.todo.append(head, again),
        stats=stats,
        remaining=k.remaining + rest,
        retry=retried(k, again, pages, thp),
        error=jnp.where(rc == SLEEPS, SLEEPS, k.error),
    )


def retried(k: Call, again: Array, pages: Index, thp: Index):  # type: ignore[no-untyped-def]
    """The retry counters after one more -EAGAIN."""
    r, n = k.retry, again.astype(jnp.int32)
    return type(r)(r.folios + n, r.thps + n * thp, r.pages + n * pages)


def no_memory(
    rules: Rules,
    k: Call,
    head: Index,
    at: Where,
    flags: Index,
    rc: Index,
    trylock: bool,
) -> Call:
    """-ENOMEM: a large folio is split and the loop goes on; otherwise all is over."""
    short = rc == ENOMEM
    pages, thp = pages_of(flags), is_thp(rules, flags).astype(jnp.int32)
    large = (pages > 1) & (frame.kind(flags) != frame.HUGETLB)
    asked = short & large & (not rules.nosplit)
    k, split, busy = try_split(rules, k, head, at, trylock, asked)
    n = short.astype(jnp.int32)
    done = split.astype(jnp.int32)
    again = jnp.asarray(False)
    if rules.reason == "longterm_pin":
        again = short & busy
        k = k.set(todo=k.todo.append(head, again), retry=retried(k, again, pages, thp))
    undo_count = again if rules.release.checks_pte_accessible else again & False
    kept = n - undo_count.astype(jnp.int32)
    abort = short & ~split & ~again
    out = abort.astype(jnp.int32)
    stats = k.stats.add(
        failed=kept,
        thp_failed=kept * thp + out * k.retry.thps,
        thp_split=done * thp,
        split=done,
        failed_pages=out * (pages + k.retry.pages),
    )
    error = jnp.where(abort & (k.error == 0), ENOMEM, k.error)
    return k.set(stats=stats, error=error)


def serial_pass(rules: Rules, k: Call, number: Index, at: Where) -> Call:
    """One pass over the list, compacting it to what must be retried."""
    size = k.todo.size
    k = k.set(todo=List(k.todo.folios, jnp.int32(0)))

    def step(k: Call, i: Index) -> Call:
        return one_folio(rules, k, k.todo.at(i), at, number >= UNFORCED)

    return each(k, jnp.int32(0), size, step)


def split_phase(rules: Rules, k: Call, at: Where) -> Call:
    """The pieces of split folios get one unforced attempt each."""

    def step(k: Call, head: Index) -> Call:
        k, rc = attempt(rules, k, head, at, jnp.asarray(False))
        ok = rc == SUCCESS
        bad = (~ok & (rc != SLEEPS)).astype(jnp.int32)
        short = rc == ENOMEM
        error = jnp.where(short, ENOMEM, jnp.where(rc == SLEEPS, SLEEPS, k.error))
        return k.set(
            ev=k.ev.add(pgmigrate_success=ok),
            stats=k.stats.add(failed_pages=bad),
            remaining=k.remaining + bad,
            error=error,
        )

    k = k.note(log.BEGIN, log.SPLIT, k.split.size)
    return each_piece(rules, k, step).note(log.END, log.SPLIT)


def migrate_serial(rules: Rules, k: Call, at: Where, limit: int = PASSES) -> Call:
    """The whole call on `k.todo`.  The result is in stats.failed and error."""
    k = passes(k, limit, lambda k, n: serial_pass(rules, k, n, at))
    left, over = k.retry, (k.error == 0).astype(jnp.int32)
    stats = k.stats.add(
        failed=left.folios * over,
        failed_pages=left.pages * over,
        thp_failed=left.thps * over,
    )
    k = k.set(stats=stats, remaining=k.remaining + left.folios, retry=no_retry())
    if k.m.geometry.orders == (0,):
        return k
    go = (k.error == 0) & (k.split.size > 0)
    return wall.when(go, lambda k: split_phase(rules, k, at), k)
