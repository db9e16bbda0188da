"""How far a call is: its list, the pass that comes next, and what that may do.

Source: migrate_pages(), migrate_pages_sync() in mm/migrate.c.
"""

import dataclasses
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.checks import UNFORCED, Stage, most_passes
from jaxmig.linux.folio import pages_of
from jaxmig.linux.in_order.carried import FROM, Context, State
from jaxmig.linux.in_order.passes import Place
from jaxmig.linux.in_order.results import PIECES, SERIAL, UNMAPS
from jaxmig.linux.rules import Rules
from jaxmig.state import xla
from jaxmig.state.frame import FLAGS
from jaxmig.state.pytree import pytree, static

NO_LIMIT: Final = 2**31 - 1
# Stages: a batch with TTU_BATCH_FLUSH; one folio in migrate_pages_sync(); a batch of the
# posted series, which may sleep; unmap and move in one (up to 6.2, hugetlb).
ASYNC, SYNC, POSTED, WHOLE = range(4)

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@pytree
class FromList:
    """The caller's list, and where the next batch begins."""

    folios: Int32[Array, " folios"]
    size: Index
    first: Index  # where the part of the list that is worked on begins
    next: Index
    limit: Index  # base pages that close a batch
    passes: Index  # of a serial call
    once: bool = static()  # one batch, and no more


@pytree
class CallProgress:
    """How far a call is."""

    op: Index  # the pass that comes next: SERIAL ... DONE of results.py
    stage: Index
    number: Index  # of the pass
    size: Index  # folios of the pass
    alone: Index  # how many of SYNC_FOLIOS have been tried
    saved: Index  # the error of the unmap passes, while the move passes go on
    before: Int32[Array, " registers"]  # registers at the beginning of the batch
    at: Place  # in the pass

    def to(self, when: Flag, **changes: Any) -> "CallProgress":
        """This progress, with some fields replaced if `when`."""
        old = {name: getattr(self, name) for name in changes}
        new = {name: jnp.where(when, n, old[name]) for name, n in changes.items()}
        return dataclasses.replace(self, **new)


Carried = tuple[FromList, CallProgress, State]


def stage(rules: Rules, progress: CallProgress) -> Stage:
    """What the next pass may do."""
    posted = progress.stage == POSTED
    early = ((progress.op != UNMAPS) | posted) & (progress.number < UNFORCED)
    return Stage(
        batch=(progress.stage == ASYNC) | posted,
        sleeps=(progress.stage != ASYNC) & rules.may_sleep,
        posted=posted,
        force=~early & (progress.op != PIECES),
        isolated=jnp.asarray(True),
    )


def most(rules: Rules, from_list: FromList, progress: CallProgress) -> Index:
    """How many passes there are at most."""
    n = most_passes(rules, progress.stage == ASYNC, progress.stage == SYNC)
    return jnp.where(progress.op == SERIAL, from_list.passes, n)


def first_stage(rules: Rules) -> Index:
    """The stage in which a batch begins."""
    return jnp.where(rules.begins_async, ASYNC, POSTED)


def cut(
    context: Context, from_list: FromList, state: State, when: Flag
) -> tuple[Array, Index, Index]:
    """Fill FROM with the next batch (list_cut_before() in migrate_pages()).

    Args:
      state: its `lists` are filled, its rows read; FROM must be empty.
      when: whether there is a next batch; if not, nothing is written.
    Returns:
      int32[places] lists; int32, folios of the batch; int32, where the next one begins.
    """

    def go_on(carry: tuple[Array, Index, Index, Index]) -> Flag:
        _, i, pages, size = carry
        fits = (pages == 0) | (pages + size <= from_list.limit)
        full = pages >= from_list.limit
        full = jnp.where(context.rules.crossing_opens_next, ~fits, full)
        return when & (i < from_list.size) & ~full

    def more(carry: tuple[Array, Index, Index, Index]) -> tuple:
        lists, i, pages, size = carry
        place = FROM * state.room + i - from_list.next
        lists = xla.put(lists, place, xla.row(from_list.folios, i))
        return lists, i + 1, pages + size, size_of(i + 1)

    def size_of(i: Index) -> Index:
        def read() -> Index:
            # A slice clamps: behind the end of the list stands its last folio.
            head = xla.row(from_list.folios, i)
            return pages_of(xla.row(state.frame, head)[FLAGS])

        return xla.read(i, read)

    start = (state.lists, from_list.next, jnp.int32(0), size_of(from_list.next))
    lists, i, _, _ = jax.lax.while_loop(go_on, more, start)
    return lists, i - from_list.next, i
