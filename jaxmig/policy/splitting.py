"""try_split_folio(): split a folio of a call and queue its pieces.

Source: can_split_folio(), split_huge_page_to_list() in mm/huge_memory.c,
try_split_folio() in mm/migrate.c, Linux 6.3 to 6.18.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, wall
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.machine import Machine
from jaxmig.phases.split import mappings, split_folio
from jaxmig.policy.call import Call
from jaxmig.policy.folio import (
    EAGAIN,
    FAILED,
    SLEEPS,
    SUCCESS,
    Tests,
    Where,
    conditions_of,
    pages_of,
    put_conditions,
    references,
)
from jaxmig.rules import Rules

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def split_tests(m: Machine, head: Index, trylock: bool) -> tuple[Machine, Index]:
    """What split_huge_page_to_list() and its caller look at, worn out by the look.

    A lock that is only tried, references that nobody accounts for, and mappings that the
    walk would skip give EAGAIN; writeback, a missing mapping and locked buffers FAILED.
    """
    no = jnp.asarray(False)
    frow = wall.read(head, lambda: m.frame[head])
    flags = frow[FLAGS]
    row, bits = conditions_of(m, head)
    endless = (bits & cond.forever(cond.LOCKED)) != 0
    t = Tests(row, jnp.asarray(True), jnp.int32(SUCCESS))
    t = t.test(cond.LOCKED, jnp.asarray(not trylock), endless, EAGAIN)
    t = t.test(cond.WRITEBACK, no, no, FAILED)
    t = t.test(cond.NO_MAPPING, no, no, FAILED)
    buffers = frame.has(flags, frame.PRIVATE)
    t = t.only(buffers, cond.BUFFERS_LOCKED, no, no, FAILED)
    row, bits, refs = references(t.row, bits, frow, t.going, jnp.asarray(True))
    expected = mappings(m, head, pages_of(flags)) + frame.cache_refs(flags)
    busy = t.going & (refs != expected)
    t = Tests(row, t.going & ~busy, jnp.where(busy, EAGAIN, t.rc))
    t = t.only(frame.on_stack(flags), cond.TEMP_STACK, no, no, EAGAIN)
    m = put_conditions(m, head, t.row, bits)
    if m.conditions is not None:
        rows = wall.put(m.frame, head, frow.at[REFCOUNT].set(refs))
        m = dataclasses.replace(m, frame=rows)
    return m, t.rc


def try_split(
    rules: Rules, k: Call, head: Index, at: Where, trylock: bool, live: Flag
) -> tuple[Call, Flag, Flag]:
    """Split the folio at `head` if `live` and possible.

    Returns the call, whether it was split, and whether it failed with -EAGAIN.
    """
    no = jnp.asarray(False)
    if k.m.geometry.orders == (0,):
        return k, no, no

    def attempt(c: tuple[Call, Flag, Flag]) -> tuple[Call, Flag, Flag]:
        m, rc = split_tests(c[0].m, head, trylock)
        k = c[0].set(m=m)
        can, again, sleeps = rc == SUCCESS, rc == EAGAIN, rc == SLEEPS

        def go(k: Call) -> Call:
            m, ev = split_folio(rules, k.m, k.ev, head, at.cpu)
            return k.set(m=m, ev=ev, split=k.split.append(head, jnp.asarray(True)))

        k = wall.when(can, go, k)
        k = k.set(error=jnp.where(sleeps, SLEEPS, k.error))
        return k, can, again

    return wall.when(live, attempt, (k, no, no))
