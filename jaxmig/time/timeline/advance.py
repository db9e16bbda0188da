"""The compiled loop: lanes run up to the migrator's next act, then the migrator acts.

The lanes' loop is inside the migrator's loop, since most rounds have only accesses.
"""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmig.state import xla
from jaxmig.state.machine import NOWHERE
from jaxmig.time.access import NEVER, Access, Costs, Cpu, Shape, Stream, step
from jaxmig.time.timeline.flush import send
from jaxmig.time.timeline.move import arrive, shift
from jaxmig.time.timeline.world import (
    FLUSH,
    IDLE,
    SECOND,
    UNMAP,
    DeviceTimetable,
    Migrator,
    Number,
    World,
)


def advance(
    shape: Shape,
    costs: Costs,
    timetable: DeviceTimetable,
    world: World,
    stream: Stream,
    goal: Number,
    check: Number,
    migrated: Bool[Array, ""],
) -> World:
    """Run until a lane has used up its stream, or all threads have ended.

    Args:
      stream: the accesses of all lanes.
      goal: a thread that reads a later time than this ends; ns from the present zero.
      check: accesses between two readings of the time.
      migrated: stop at the end of the migration instead.
    Returns:
      Program and migration at that time.
    """
    block = stream.op.shape[1]
    # Without a migration nothing else advances the zero of time.
    idle = world.migrator.phase == IDLE
    by = jnp.where(idle, world.access.cpu.clock.min() % NEVER, 0)
    world, goal = shift(world, by), _less(goal, by)

    def going(carry: tuple[World, Number]) -> Bool[Array, ""]:
        w, _ = carry
        cpu = w.access.cpu
        ended = (cpu.clock == NEVER) & (cpu.wait == NOWHERE)
        stop = jnp.where(migrated, w.migrator.phase == IDLE, ended.all())
        return ~_dry(cpu, block) & ~stop

    def steps(carry: tuple[World, Number]) -> World:
        w, goal = carry
        a = _steps(shape, costs, w, stream, goal, check)
        return World(a, w.window, w.migrator)

    def trip(carry: tuple[World, Number]) -> tuple[World, Number]:
        w = steps(carry)
        zero = (w.migrator.start_s, w.migrator.start_ns)
        due, phase = _due(w), w.migrator.phase
        w = xla.when(due & (phase == UNMAP), partial(send, shape, timetable), w)
        w = xla.when(
            due & (phase == FLUSH), partial(arrive, shape, costs, timetable), w
        )
        return w, _same_goal(carry[1], zero, w.migrator)

    return jax.lax.while_loop(going, trip, (world, goal))[0]


def _steps(
    shape: Shape,
    costs: Costs,
    world: World,
    stream: Stream,
    goal: Number,
    check: Number,
) -> Access:
    """Do the accesses of all lanes up to their limits."""
    limit, block = world.migrator.limit, stream.op.shape[1]

    def more(access: Access) -> Bool[Array, ""]:
        return (access.cpu.clock < limit).any() & ~_dry(access.cpu, block)

    def once(access: Access) -> Access:
        return step(shape, costs, access, world.window, stream, limit, goal, check)

    return jax.lax.while_loop(more, once, world.access)


def _dry(cpu: Cpu, block: int) -> Bool[Array, ""]:
    """Whether some thread that has not ended has used up its stream."""
    ended = (cpu.clock == NEVER) & (cpu.wait == NOWHERE)
    return ((cpu.pos >= block) & ~ended).any()


def _due(world: World) -> Bool[Array, ""]:
    """Whether the migrator is next: no lane is below its limit."""
    return ~(world.access.cpu.clock < world.migrator.limit).any()


def _same_goal(goal: Number, zero: tuple[Number, Number], m: Migrator) -> Number:
    """`goal` counted from the new zero of time; NEVER stays NEVER."""
    by = (m.start_s - zero[0]) * SECOND + m.start_ns - zero[1]
    return _less(goal, by)


def _less(goal: Number, by: Number) -> Number:
    return jnp.where(jnp.abs(goal) >= NEVER, goal, jnp.maximum(goal - by, 1 - NEVER))


@lru_cache(maxsize=64)
def compiled(shape: Shape, short: bool = False) -> Any:
    """The jitted `advance` of a shape; the world is given away.

    `short`: compiled in a fifth of the time, for runs of few accesses.

    Without XLA's region analysis, which finds fewer copies here and wrong results
    (jaxlib 0.10.2: a lane's state was written before all of its readers had run).
    """
    options = xla.quick_options() if short else {}
    return jax.jit(
        partial(advance, shape), donate_argnums=(2,), compiler_options=options
    )
