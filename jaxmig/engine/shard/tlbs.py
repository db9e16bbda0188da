"""The end of a call on shards: what every TLB still holds.

One device drops translations window by window.  No TLB is filled during a call, so that
shards may do it once at the end: CPUs that flush everything are emptied, the others lose
translations that no longer agree with the page table.  Entries that were flushed and
restored do agree: their frames are marked FLUSHED until then.

Every device has all TLBs, but only its own entries.  If a comparison can change anything,
the entries of all translations are gathered as a machine on which translation i is
entry i and its frame is frame i.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.engine.shard.sharded import ShardPlan
from jaxmig.linux import tlb
from jaxmig.linux.phases import flush
from jaxmig.linux.phases.flush import CallFlushes, FlushRequests
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.lanes import Lanes
from jaxmig.state.machine import NOWHERE, Cpus, Machine

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def some_drop_pages(
    rules: Rules,
    cpus: Cpus,
    flushed: Bool[Array, " mms"],
    emptied: Bool[Array, " cpus"],
) -> Flag:
    """Whether a flush of single pages reaches a CPU that does not flush everything.

    Args:
      flushed: address spaces of which something is flushed.
      emptied: CPUs that flush everything.
    Returns:
      Whether there is one.
    """
    runs = cpus.mm[None] == jnp.arange(flushed.shape[0])[:, None]
    reached = (runs & ~cpus.lazy & ~emptied) | rules.broadcasts
    return (flushed[:, None] & reached).any()


def catch_up(
    rules: Rules,
    plan: ShardPlan,
    m: Machine,
    cpu: Index,
    flushes: CallFlushes,
    flushed: Bool[Array, " mms"],
    others: Flag,
) -> Machine:
    """TLBs and generations after all rounds of a call, as on one device.

    Args:
      cpu: int32, the migrating CPU.
      flushes: the rounds, and the CPUs that flush everything.
      flushed: address spaces of which something was flushed.
      others: whether others than this call flushed something.
    Returns:
      The machine, its frames still marked FLUSHED.
    Source: flush_tlb_func() in arch/x86/mm/tlb.c.
    """
    some = some_drop_pages(rules, m.cpus, flushed, flushes.emptied)
    words, rows = _held(plan, m, some | others)
    held = m.tlb.entry
    number = jnp.arange(held.size, dtype=jnp.int32).reshape(held.shape)
    there = held != NOWHERE
    same = words[:, pte.PFN] == m.tlb.pfn.reshape(-1)
    pfn = jnp.where(same, number.reshape(-1), NOWHERE)
    small = dataclasses.replace(
        m,
        frame=rows,
        pte=jnp.stack([pfn, words[:, pte.BITS]], axis=1),
        tlb=dataclasses.replace(
            m.tlb, entry=jnp.where(there, number, NOWHERE), pfn=number
        ),
    )
    # CPUs that a batch's flush reaches are in `emptied`: the rest drop single pages.
    one = flushed.astype(jnp.int32)
    small = flush.drop(
        rules, small, FlushRequests(flushed & False, one, one * 0), flushes.emptied
    )
    small = tlb.drop_all_sizes(small, flushes.emptied)
    small = flush.catch_up(rules, small, flushes, cpu)
    if m.conditions is not None:
        small = flush.forget(small, others)
    kept = jnp.where(small.tlb.entry == NOWHERE, NOWHERE, held)
    kept_tlb = dataclasses.replace(m.tlb, entry=kept)
    return dataclasses.replace(
        m, tlb=kept_tlb, huge_tlb=small.huge_tlb, cpus=small.cpus
    )


def unmark(m: Machine, some: Flag) -> Machine:
    """Clear the FLUSHED marks, if there are any."""

    def clear(rows: Array) -> Array:
        return rows & jnp.asarray([-1, -1, ~frame.FLUSHED, -1], jnp.int32)

    # After the last read of the marks: else XLA would clear them in a copy.
    some &= m.tlb.entry[0, 0] >= 0
    return dataclasses.replace(m, frame=xla.when(some, clear, m.frame))


def _held(
    plan: ShardPlan, m: Machine, look: Flag
) -> tuple[Int32[Array, "slots 2"], Int32[Array, "slots 4"]]:
    """Entries of all translations, and rows of the frames that they name."""
    n = m.tlb.entry.size

    def bring() -> tuple[Array, Array]:
        entry, pfn = m.tlb.entry.reshape(-1), m.tlb.pfn.reshape(-1)
        # An empty slot is compared with entry 0, and a frame past the end with the last.
        entry = jnp.where(entry == NOWHERE, 0, entry)
        pfn = jnp.clip(pfn, 0, plan.frames.rows - 1)
        mine = (jax.lax.axis_index(plan.axis), plan)
        words = _own(*mine, "pte", entry, m.pte)
        rows = _own(*mine, "frame", pfn, m.frame)
        return jax.lax.psum((words, rows), plan.axis)

    nothing = (jnp.zeros((n, 2), jnp.int32), jnp.zeros((n, 4), jnp.int32))
    return jax.lax.cond(look, bring, lambda: nothing)


def _own(me: Index, plan: ShardPlan, name: str, index: Lanes, array: Array) -> Array:
    """Rows that this shard keeps, 0 elsewhere."""
    d = plan.deal_of(name)
    mine = d.owner(index) == me
    rows = lanes.rows(array, d.local(index, mine))
    return jnp.where(mine[:, None], rows, 0)
