"""Flushes that a stretch of a batched call owes: batch by batch, and at once.

Source: set_tlb_ubc_flush_pending(), should_defer_flush() in mm/rmap.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import pte, xla
from jaxmig.events import Events
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import flush, lanes
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.policy.look import Seen, chain
from jaxmig.policy.plan import Plan
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@dataclasses.dataclass(frozen=True)
class Span:
    """A stretch of the list."""

    start: Index
    end: Index
    index: Lanes  # place of each lane in the list
    limit: Index  # base pages of a batch


def settle(
    rules: Rules,
    ev: Events,
    owed: Owed,
    m: Machine,
    cpu: Index,
    span: Span,
    known: tuple[Lanes, Int32[Array, "lanes 4"], Seen, Plan],
    put_off: Bool[Array, " mms"],
) -> tuple[Events, Owed, Bool[Array, ""]]:
    """Close the batches that end in the stretch; its last one may go on in the next.

    `known`: of each lane folio, row, mappings and fate.  Also returned: true, once
    everything that is read of the page tables has been read.
    """
    src, row, seen, p = known
    base = span.start // span.limit
    local = lanes.numbers(span.index - base * span.limit, span.limit)
    owes = p.first.unmapped | (p.first.pin_tries > 0)
    slots = src.shape[0] + 1
    pending = pendings(m, src, row, seen, owes, local, slots, put_off, rules)
    pending = pending.at[0].set(pending[0] | owed.open)
    whole = span.end // span.limit - base
    more = immediates(m, row, seen, p, put_off)
    still = pending[jnp.minimum(whole, slots - 1)]
    owed = dataclasses.replace(
        owed,
        open=jnp.where(whole < slots, still, False),
        immediate=owed.immediate + more,
    )
    read = jnp.int32(0)
    for looked in (seen.mm, more, pending[0].astype(jnp.int32)):
        read = xla.after(read, looked)
    closed = jnp.arange(slots) < whole
    ev, owed = flush.close(rules, ev, owed, m.cpus, cpu, pending, closed)
    return ev, owed, read == 0


def pendings(
    m: Machine,
    src: Lanes,
    row: Int32[Array, "lanes 4"],
    seen: Seen,
    where: Mask,
    local: Lanes,
    slots: int,
    put_off: Bool[Array, " mms"],
    rules: Rules,
) -> Bool[Array, "batches mms"]:
    """Which address spaces each batch of the chunk has something pending of."""
    mms = put_off.shape[0]
    none = jnp.zeros((slots, mms), bool)
    if not m.geometry.shared:
        owes = where & (seen.counted > 0)
        at = jnp.where(owes, local * mms + seen.mm, NOWHERE)
        flat = jax.lax.platform_dependent(
            at, none.reshape(-1), cpu=_marked, default=_marked_once
        )
        return flat.reshape(slots, mms)

    def step(c: tuple) -> tuple:
        pending, entry = c
        old, following = xla.read(entry, lambda: lanes.entry_of(m, entry))
        bits = old[:, pte.BITS]
        mm = jnp.where(entry == NOWHERE, 0, pte.mm_of(bits))
        counted = pte.accessible(bits) | ~rules.checks_pte_accessible
        owes = (entry != NOWHERE) & counted & put_off[mm]
        at = jnp.where(owes, local, slots)
        return pending.at[at, mm].set(True, mode="drop"), following

    first = jnp.where(where, chain(m, row), NOWHERE)
    return lanes.along_chains(True, step, (none, first))[0]


def _marked(at: Lanes, none: Bool[Array, " slots"]) -> Bool[Array, " slots"]:
    return lanes.scattered(at, jnp.ones(at.shape[0], bool), none)


def _marked_once(at: Lanes, none: Bool[Array, " slots"]) -> Bool[Array, " slots"]:
    # One of a run is enough; all of it would be in each other's way on a GPU.
    run = at[1:] == at[:-1]
    return _marked(at.at[1:].set(jnp.where(run, NOWHERE, at[1:])), none)


def immediates(
    m: Machine,
    row: Int32[Array, "lanes 4"],
    seen: Seen,
    p: Plan,
    put_off: Bool[Array, " mms"],
) -> Int32[Array, " mms"]:
    """Rounds of one entry each, by address space."""
    mms = put_off.shape[0]
    a, y = p.first, p.second
    times_a = a.unmapped + a.pin_tries
    times_y = 0 if y is None else y.unmapped + y.pin_tries
    none = jnp.zeros(mms, jnp.int32)
    if not m.geometry.shared:
        n = jnp.where(put_off[seen.mm], 0, times_a) * seen.held
        n += times_y * jnp.where(a.unmapped, seen.later, seen.held)
        if mms == 1:
            return jnp.stack(lanes.totals(n))
        return jax.lax.cond(
            lanes.some(n)[0], lambda: none.at[seen.mm].add(n), lambda: none
        )

    def step(c: tuple) -> tuple:
        total, entry = c
        old, following = xla.read(entry, lambda: lanes.entry_of(m, entry))
        bits = old[:, pte.BITS]
        mm = jnp.where(entry == NOWHERE, 0, pte.mm_of(bits))
        held = pte.accessible(bits)
        later = jnp.where(a.unmapped, ~pte.has(bits, pte.VM_PROT_NONE), held)
        n = jnp.where(put_off[mm], 0, times_a) * held + times_y * later
        return total.at[mm].add(jnp.where(entry != NOWHERE, n, 0)), following

    some = (times_y > 0) | ((times_a > 0) & ~put_off.all())
    first = jnp.where(some, chain(m, row), NOWHERE)
    return lanes.along_chains(True, step, (none, first))[0]
