"""migrate_pages() one folio at a time, in the kernel's own order, for every release.

This form is right for everything: folios of any size, splits that cut a batch's flush in
two, memory that ends in the middle of a batch, the posted series that moves what it has
unmapped before it sleeps.  Where none of that can happen, `engine/windows.py` works on
all batches of a window at once.

A call is a sequence of passes over lists.  Every release and mode goes through the same
few lines (`sequence.py`), so that one compiled program serves them all:

    up to 6.2   SERIAL up to ten times, then the PIECES of what was split
    from 6.3    HUGETLB; then batch by batch UNMAPS up to three times, one flush, MOVES
                up to three times, UNDOES; what is left one by one in the same way with
                seven passes each; then the PIECES of what was split
    as posted   the same with ten passes, and again after every -EDEADLOCK

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18; the posted series: v4 of February 2023.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.call import CallState
from jaxmig.linux.checks import PASSES
from jaxmig.linux.folio import Where
from jaxmig.linux.in_order import carried as reg, passes
from jaxmig.linux.in_order.carried import UNMAP_FOLIOS, Context
from jaxmig.linux.in_order.progress import (
    WHOLE,
    CallProgress,
    Carried,
    FromList,
    stage,
)
from jaxmig.linux.in_order.results import DONE, FIRST, HUGETLB, SERIAL, Pass
from jaxmig.linux.in_order.sequence import next_pass
from jaxmig.linux.phases.copypage import copy_folios, no_copies
from jaxmig.linux.rules import Rules
from jaxmig.state import lanes, log

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The part of `from` that a call works on."""

    first: Index | int  # its first folio
    huge: Index | int  # hugetlb folios, at the front of the list
    once: bool = False  # one batch, and no more
    passes: Index | int = PASSES  # of a serial call


def migrate_in_order(
    rules: Rules, call: CallState, at: Where, limit: Index, stretch: Stretch
) -> tuple[CallState, Index]:
    """The call on a stretch of `call.todo`.

    Args:
      at: the migrating CPU and the target node.
      limit: int32, base pages that close a batch.
      stretch: which folios of the list, and how many passes over them.
    Returns:
      The call, with its result in stats.failed and error; int32, the place on the list
      of the first folio that was not tried.
    Source: migrate_pages() in mm/migrate.c.
    """
    c = Context(rules, call.m.geometry, at, call.m.pmd_table)
    numbers = (stretch.first, stretch.huge, stretch.passes)
    first, huge, passes_ = (jnp.asarray(n, jnp.int32) for n in numbers)
    begin = jnp.maximum(first, huge)
    todo, once = call.todo, stretch.once
    q = FromList(todo.folios, todo.size, begin, begin, limit, passes_, once)
    st = reg.begin(call, at.fallback is not None)
    x, st = _start(c, q, st, first, huge)
    memory = call.m.memory

    def more(carry: tuple[Carried, Any]) -> Flag:
        return carry[0][1].op != DONE

    def then_copy(carry: tuple[Carried, Any]) -> tuple[Carried, Any]:
        q, x, st = _passes(c, carry[0])
        if st.copies is None:
            return (q, x, st), carry[1]
        memory = copy_folios(c.geometry.orders, carry[1], st.copies)
        st = st.set(copies=no_copies(len(c.geometry.orders), reg.COPIES))
        return (q, x, st), memory

    (q, _, st), memory = jax.lax.while_loop(more, then_copy, ((q, x, st), memory))
    return reg.end(call, st, memory), q.next


def _passes(context: Context, carried: Carried) -> Carried:
    """Passes, until the call is over or `copies` is full."""

    def more(carried: Carried) -> Flag:
        return (carried[1].op != DONE) & ~jnp.asarray(carried[2].waits)

    def one(carried: Carried) -> Carried:
        q, x, st = carried
        p = Pass(x.op, x.size, stage(context.rules, x))
        fresh = (x.at.folio == 0) & (x.at.piece == 0) & (x.at.turn == FIRST)
        for retry in (reg.RETRY, reg.RETRY_PAGES, reg.RETRY_THPS):
            st = st.empty(retry, fresh)
        # The pass appends to it the folios that are to be retried.
        st = st.empty(p.source, p.listed & fresh)
        st, at = passes.run(context, p, st, x.at)
        over = ~passes.goes_on(p, st, at)
        x = dataclasses.replace(x, at=at)
        return next_pass(context, q, x, st, over)

    return jax.lax.while_loop(more, one, carried)


def _start(
    context: Context, from_list: FromList, state: reg.State, first: Index, huge: Index
) -> tuple[CallProgress, reg.State]:
    """The first pass of a stretch that begins at the folio `first`."""
    batched = jnp.asarray(context.rules.batched)
    none = jnp.int32(0)
    n = jnp.where(batched, jnp.maximum(huge - first, 0), from_list.size - first)
    # migrate_hugetlbs() works on its own list; a serial call has only `from`.
    which = jnp.where(batched, UNMAP_FOLIOS, reg.FROM)
    index = jnp.arange(from_list.folios.shape[0])
    here = (index >= first) & (index < first + n)
    place = which * state.room + index - first
    lists = lanes.scatter(state.lists, place, here, from_list.folios)
    state = state.set(lists=lists).put({UNMAP_FOLIOS: jnp.where(batched, n, 0)})
    state = state.note(log.BEGIN, log.HUGETLBS, n, when=batched & (n > 0))
    x = CallProgress(
        op=jnp.where(batched, HUGETLB, SERIAL).astype(jnp.int32),
        stage=jnp.int32(WHOLE),
        number=none,
        size=n,
        alone=none,
        saved=none,
        before=state.reg,
        at=passes.start(),
    )
    return x, state
