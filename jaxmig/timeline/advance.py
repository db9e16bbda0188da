"""The compiled loop: lanes run up to the migrator's next act, then it acts.

The lanes' loop is inside the migrator's: most trips are accesses, and see no act.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmig import xla
from jaxmig.access import NEVER, Access, Costs, Cpu, Shape, Stream, step
from jaxmig.machine import NOWHERE
from jaxmig.timeline.flush import send
from jaxmig.timeline.move import arrive, shift
from jaxmig.timeline.state import (
    FLUSH,
    IDLE,
    SECOND,
    UNMAP,
    Migrator,
    Number,
    Plan,
    World,
)


def advance(
    s: Shape,
    k: Costs,
    p: Plan,
    w: World,
    stream: Stream,
    goal: Number,
    check: Number,
    migrated: Bool[Array, ""],
) -> World:
    """Run until a lane has used up its stream, or all threads have ended.

    Args:
      goal: ns from the present zero; threads that look at the time later than that end.
      check: accesses between two looks.
      migrated: stop at the end of the migration instead.
    """
    block = stream.op.shape[1]
    # Without a migration nobody else moves the zero of time on.
    idle = w.migrator.phase == IDLE
    by = jnp.where(idle, w.access.cpu.clock.min() % NEVER, 0)
    w, goal = shift(w, by), _less(goal, by)

    def going(c: tuple[World, Number]) -> Bool[Array, ""]:
        w, _ = c
        cpu = w.access.cpu
        ended = (cpu.clock == NEVER) & (cpu.wait == NOWHERE)
        stop = jnp.where(migrated, w.migrator.phase == IDLE, ended.all())
        return ~_dry(cpu, block) & ~stop

    def steps(c: tuple[World, Number]) -> World:
        w, goal = c
        a = _steps(s, k, w, stream, goal, check)
        return World(a, w.window, w.migrator)

    def trip(c: tuple[World, Number]) -> tuple[World, Number]:
        w = steps(c)
        zero = (w.migrator.start_s, w.migrator.start_ns)
        due, phase = _due(w), w.migrator.phase
        w = xla.when(due & (phase == UNMAP), partial(send, s, p), w)
        w = xla.when(due & (phase == FLUSH), partial(arrive, s, k, p), w)
        return w, _same_goal(c[1], zero, w.migrator)

    return jax.lax.while_loop(going, trip, (w, goal))[0]


def _steps(
    s: Shape, k: Costs, w: World, stream: Stream, goal: Number, check: Number
) -> Access:
    """Accesses of all lanes up to their limits."""
    limit, block = w.migrator.limit, stream.op.shape[1]

    def more(a: Access) -> Bool[Array, ""]:
        return (a.cpu.clock < limit).any() & ~_dry(a.cpu, block)

    def once(a: Access) -> Access:
        return step(s, k, a, w.window, stream, limit, goal, check)

    return jax.lax.while_loop(more, once, w.access)


def _dry(c: Cpu, block: int) -> Bool[Array, ""]:
    """Whether a thread that goes on has no more of its stream."""
    ended = (c.clock == NEVER) & (c.wait == NOWHERE)
    return ((c.pos >= block) & ~ended).any()


def _due(w: World) -> Bool[Array, ""]:
    """Whether the migrator is next: no lane is below its limit."""
    return ~(w.access.cpu.clock < w.migrator.limit).any()


def _same_goal(goal: Number, zero: tuple[Number, Number], m: Migrator) -> Number:
    """`goal` counted from a zero that has moved; the far future stays far."""
    by = (m.start_s - zero[0]) * SECOND + m.start_ns - zero[1]
    return _less(goal, by)


def _less(goal: Number, by: Number) -> Number:
    return jnp.where(jnp.abs(goal) >= NEVER, goal, jnp.maximum(goal - by, 1 - NEVER))


@lru_cache(maxsize=64)
def compiled(s: Shape, short: bool = False) -> Any:
    """The jitted `advance` of a shape; the world is given away.

    `short`: compiled in a fifth of the time, for runs of few accesses.

    Without XLA's region analysis, which finds fewer copies here and wrong results
    (jaxlib 0.10.2: a lane's state was written before all of its readers had run).
    """
    options = xla.quick() if short else {}
    return jax.jit(partial(advance, s), donate_argnums=(2,), compiler_options=options)
