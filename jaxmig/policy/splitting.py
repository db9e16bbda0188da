"""try_split_folio(): split a folio of a call and queue its pieces."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, wall
from jaxmig.phases.split import may_split, split_folio
from jaxmig.policy.call import Call
from jaxmig.policy.folio import SLEEPS, Where, conditions_of, put_conditions
from jaxmig.rules import Rules

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


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
        k = c[0]
        left, marks = conditions_of(k.m, head)
        can, again, sleeps = may_split(k.m, head, left, marks, trylock)
        # Whoever sleeps on the lock finds it free afterwards.
        awake = cond.ended(left, cond.LOCKED, ~sleeps & (not trylock))
        k = k.set(m=put_conditions(k.m, head, awake, marks))

        def go(k: Call) -> Call:
            m, ev = split_folio(rules, k.m, k.ev, head, at.cpu)
            return k.set(m=m, ev=ev, split=k.split.append(head, jnp.asarray(True)))

        k = wall.when(can, go, k)
        k = k.set(error=jnp.where(sleeps, SLEEPS, k.error))
        return k, can, again

    return wall.when(live, attempt, (k, no, no))
