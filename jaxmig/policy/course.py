"""How far a call is: its list, the pass that comes next, and what that may do.

Source: migrate_pages(), migrate_pages_sync() in mm/migrate.c.
"""

import dataclasses
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import xla
from jaxmig.frame import FLAGS
from jaxmig.policy.books import PIECES, SERIAL, UNMAPS
from jaxmig.policy.folio import pages_of
from jaxmig.policy.hurdles import Stage
from jaxmig.policy.passes import Place
from jaxmig.policy.state import TODO, Context, State
from jaxmig.pytree import pytree, static
from jaxmig.rules import Rules

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
    first: Index  # where this stretch of the list begins
    next: Index
    limit: Index  # base pages that close a batch
    passes: Index  # of a serial call
    once: bool = static()  # one batch, and no more


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


def stage(rules: Rules, x: Course) -> Stage:
    """What the next pass may do."""
    posted = x.stage == POSTED
    early = ((x.op != UNMAPS) | posted) & (x.number < UNFORCED)
    return Stage(
        batch=(x.stage == ASYNC) | posted,
        sleeps=(x.stage != ASYNC) & rules.may_sleep,
        posted=posted,
        force=~early & (x.op != PIECES),
    )


def most(rules: Rules, q: Queue, x: Course) -> Index:
    """How many passes there are at most."""
    n = jnp.where((x.stage == ASYNC) & rules.two_stages, ASYNC_PASSES, PASSES)
    n = jnp.where(x.stage == SYNC, SYNC_PASSES, n)
    return jnp.where(x.op == SERIAL, q.passes, n)


def first_stage(rules: Rules) -> Index:
    """The stage in which a batch begins."""
    return jnp.where(rules.begins_async, ASYNC, POSTED)


def cut(c: Context, q: Queue, s: State, when: Flag) -> tuple[Array, Index, Index]:
    """Fill TODO with the next batch: the lists, its size, where the one after begins."""

    def go_on(v: tuple[Array, Index, Index, Index]) -> Flag:
        _, i, pages, size = v
        fits = (pages == 0) | (pages + size <= q.limit)
        full = jnp.where(c.rules.crossing_opens_next, ~fits, pages >= q.limit)
        return when & (i < q.size) & ~full

    def more(v: tuple[Array, Index, Index, Index]) -> tuple:
        lists, i, pages, size = v
        lists = xla.put(lists, TODO * s.room + i - q.next, q.folios[i])
        return lists, i + 1, pages + size, size_of(i + 1)

    def size_of(i: Index) -> Index:
        def read() -> Index:
            head = q.folios[jnp.minimum(i, q.folios.shape[0] - 1)]
            return pages_of(s.frame[head, FLAGS])

        return xla.read(i, read)

    start = (s.lists, q.next, jnp.int32(0), size_of(q.next))
    lists, i, _, _ = jax.lax.while_loop(go_on, more, start)
    return lists, i - q.next, i
