"""The compiled program of many calls, on one device or divided among several.

Where batches are independent and memory lasts, all calls are counted at once
(`counts.py`).  Otherwise they are played one after the other in a loop, since under
`vmap` the engine would run both sides of every branch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec as P
from jaxtyping import Array, Int32

from jaxmig.engine import migrate
from jaxmig.linux.releases import Defers
from jaxmig.linux.rules import Rules, from_word
from jaxmig.state import events, lanes, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.machine import PMD_PAGES, Cpus, Machine
from jaxmig.tools.sweep.counts import What, count

SLOTS: Final = 64  # calls that one program has room for
# How much work a program is, in calls: 64 calls of 22,000 pages take 2.5 s if it is not
# optimized and 0.3 s if it is, which takes 2.4 s more to compile.
WORK: Final = SLOTS // 4
Index = Int32[Array, ""]
Found = tuple[Events, Array, Array, Array]


def local_mesh() -> Mesh | None:
    """The devices of this process, if there are several that share SLOTS evenly."""
    devices = jax.local_devices()
    if len(devices) == 1 or SLOTS % len(devices):
        return None
    return Mesh(devices, ("configurations",))


def jitted(
    function: Callable[..., Any],
    mesh: Mesh | None,
    dealt: Sequence[int],
    arguments: int,
) -> Any:
    """A jitted function; on a mesh each device gets a part of some arguments.

    Args:
      function: to be compiled.
      mesh: of one axis; None for one device.
      dealt: positions of arguments whose first axis is that of configurations, which is
        divided among the devices; the others are copied to all.
      arguments: how many there are.
    Returns:
      The compiled function; all its results have configurations as their first axis.
    """
    if mesh is None:
        return xla.Program(function, work=WORK)
    # A mesh without the user's axis types, so that arguments are placed here.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    axis = P(mesh.axis_names[0])
    specs = tuple(axis if i in dealt else P() for i in range(arguments))
    return xla.Program(xla.shard_map(function, mesh, specs, axis), work=WORK)


@functools.cache
def program_of(defers: Defers | None, counts: bool, mesh: Mesh | None = None) -> Any:
    """The jitted program of up to SLOTS calls of one list, each with its CPUs and limit.

    Its last argument is their rules as bits (`rules.word`).

    Args:
      defers: the user's own rule of a release, or None.
      counts: whether the calls are `countable()`.
      mesh: devices that share the sets.
    """

    def many(
        m: Machine, heads: Any, size: Any, node: Any, cpu: Any, limits: Any,
        stack: Cpus, n: Any, bits: Any,
    ) -> Found:  # fmt: skip
        r, call = from_word(bits, defers), (heads, size, node, cpu)
        if counts:
            return _counted(r, m, call, limits, stack)
        slots = limits.shape[0]
        if mesh is not None:
            n = n - jax.lax.axis_index(mesh.axis_names[0]) * slots
        return _played(r, m, call, limits, stack, jnp.clip(n, 0, slots))

    return jitted(many, mesh, dealt=(5, 6), arguments=9)


def _counted(rules: Rules, m: Machine, call: What, limits: Array, stack: Cpus) -> Found:
    before = mapped(m)
    # All configurations together have as many lanes as a window that suits the device.
    width = max(lanes.CHUNK, lanes.chunk() // limits.shape[0])

    def one(cpus: Cpus, limit: Index) -> Found:
        start = dataclasses.replace(m, cpus=cpus)
        result, shift = count(rules, start, call, limit, width)
        return result.events, result.failed, result.error, before + shift

    return jax.vmap(one)(stack, limits)


def _played(
    rules: Rules, m: Machine, call: What, limits: Array, stack: Cpus, n: Index
) -> Found:
    def one(i: Any, out: Found) -> Found:
        cpus = jax.tree.map(lambda a: a[i], stack)
        start = dataclasses.replace(m, cpus=cpus)
        after, result = played(rules, start, call, limits[i])
        # A result from the page tables keeps the compiler from removing their updates.
        new = (result.events, result.failed, result.error, mapped(after))
        return jax.tree.map(lambda a, x: a.at[i].set(x), out, new)

    zero = jnp.int32(0)
    blank = (events.none(stack.lazy.shape[1]), zero, zero, mapped(m) * 0)
    slots = limits.shape[0]
    cleared = jax.tree.map(lambda a: jnp.zeros((slots, *a.shape), a.dtype), blank)
    return jax.lax.fori_loop(0, n, one, cleared)


def played(
    rules: Rules, m: Machine, call: What, limit: Index
) -> tuple[Machine, migrate.Result]:
    """Make the call, as part of a loop over configurations.

    In such a loop XLA finds arguments constant or results unused, which `xla.whole` does
    not allow.

    Args:
      call: heads, their number, the node and the CPU, as arrays.
      limit: base pages at which a batch is closed.
    Returns:
      The machine after the call, and the result.
    """
    with xla.tricks(on=False):
        return migrate.run(m, *call, limit, rules)


def mapped(m: Machine) -> Int32[Array, " nodes"]:
    """Base pages mapped on each node."""
    bits = m.pte[:, pte.BITS]
    there = (bits & (pte.PRESENT | pte.ZERO_PAGE)) == pte.PRESENT
    size = jnp.where((bits & pte.HUGE) != 0, PMD_PAGES, 1)
    node = jnp.where(there, m.node_of(m.pte[:, pte.PFN]), m.geometry.nodes)
    none = jnp.zeros(m.geometry.nodes, jnp.int32)
    return none.at[node].add(size, mode="drop")
