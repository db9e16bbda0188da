"""The end of a call on shards: what every TLB still holds.

TLBs are the same on all devices, entries are not.  What translations are compared with
is brought together, where a comparison can change anything, and laid out as a machine
on which translation i is entry i and its frame is frame i.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import pte
from jaxmig.machine import NOWHERE, Cpus, Machine, Tlb
from jaxmig.phases import flush, lanes
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Lanes
from jaxmig.rules import Rules
from jaxmig.shard.state import Plan

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def catch_up(
    rules: Rules, plan: Plan, m: Machine, owed: Owed, cpu: Index, flushed: Flag
) -> Machine:
    """TLBs and generations after all rounds of a call, as on one device."""
    look = flushed | _by_pages(rules, m.cpus, owed)
    words, rows = _held(plan, m, look)
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
    small = flush.catch_up(rules, small, owed, cpu)
    if m.conditions is not None:
        small = flush.forget(small, flushed)
    kept = jnp.where(small.tlb.entry == NOWHERE, NOWHERE, held)
    tlb = dataclasses.replace(m.tlb, entry=kept)
    return dataclasses.replace(m, tlb=tlb, huge_tlb=small.huge_tlb, cpus=small.cpus)


def _by_pages(rules: Rules, c: Cpus, owed: Owed) -> Flag:
    """Whether some CPU may drop single pages: not all of it, and not nothing."""
    if rules.broadcasts:
        return jnp.asarray(True)
    spared = (c.mm != NOWHERE) & ~c.lazy & ~owed.told
    return (owed.immediate > 0).any() | spared.any()


def _held(
    plan: Plan, m: Machine, look: Flag
) -> tuple[Int32[Array, "slots 2"], Int32[Array, "slots 4"]]:
    """Entries of all translations, and rows of the frames that they name."""
    tlb: Tlb = m.tlb
    n = tlb.entry.size

    def bring() -> tuple[Array, Array]:
        entry, pfn = tlb.entry.reshape(-1), tlb.pfn.reshape(-1)
        # An empty slot is compared with entry 0, and a frame past the end with the last.
        entry = jnp.where(entry == NOWHERE, 0, entry)
        pfn = jnp.clip(pfn, 0, plan.frames.rows - 1)
        mine = (jax.lax.axis_index(plan.axis), plan)
        words = _own(*mine, "pte", entry, m.pte)
        rows = _own(*mine, "frame", pfn, m.frame)
        return jax.lax.psum((words, rows), plan.axis)

    nothing = (jnp.zeros((n, 2), jnp.int32), jnp.zeros((n, 4), jnp.int32))
    return jax.lax.cond(look, bring, lambda: nothing)


def _own(me: Index, plan: Plan, name: str, index: Lanes, array: Array) -> Array:
    """Rows that this shard keeps, 0 elsewhere."""
    d = plan.deal_of(name)
    mine = d.owner(index) == me
    rows = lanes.rows(array, d.local(index, mine))
    return jnp.where(mine[:, None], rows, 0)
