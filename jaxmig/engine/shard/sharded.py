"""A machine that lives on the devices of a mesh.

frames, their contents and conditions, entries, chains and free stacks are dealt out;
TLBs, CPU masks and what is free on each node are the same on every device: they are
small, and every shard counts interrupts with them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from jaxmig.engine.shard.deal import Deal, block_of
from jaxmig.state import frame
from jaxmig.state.machine import Machine
from jaxmig.state.pytree import pytree, static

DEALT: Final = ("frame", "memory", "conditions", "pte", "rmap_next", "free")


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """How a machine is cut up.  Static: another one is another compilation."""

    mesh: Mesh
    frames: Deal
    entries: Deal
    slots: Deal
    maps: int  # entries of the frame that has most

    @property
    def axis(self) -> str:
        """The mesh's only axis."""
        return self.mesh.axis_names[0]

    @property
    def shards(self) -> int:
        """Devices of the mesh."""
        return self.frames.shards

    def deal_of(self, name: str) -> Deal:
        """How the array of that name in a Machine is dealt."""
        if name in ("pte", "rmap_next"):
            return self.entries
        return self.slots if name == "free" else self.frames

    def specs(self, m: Machine) -> Machine:
        """A PartitionSpec for every array of a machine."""
        return _by_name(m, lambda name, _: P(self.axis) if name in DEALT else P())


@pytree
class Sharded:
    """A machine cut up by `plan`.

    `m` has the arrays of the whole machine in the order of the shards (see `deal.py`);
    `collect()` gives it back as any other machine.
    """

    m: Machine
    plan: ShardPlan = static()


def deal(state: Machine, mesh: Mesh, layout: str = "striped") -> Sharded:
    """Cut a machine up for the devices of a mesh with one axis.

    In a program of several processes every one of them calls this with the same state.

    Args:
      layout: "striped": each device keeps a slice of each node, pages can move without
        crossing; "nodes": each device keeps a node, or a part of one, and pages cross.
    Returns:
      The machine, its arrays on the devices.
    Raises:
      ValueError: for a mesh of several axes, a layout that is none, or a machine with
        folios larger than a base page.
    """
    plan = plan_of(state, mesh, layout)

    def put(name: str, array: Any) -> jax.Array:
        host = np.asarray(array)
        if name not in DEALT:
            where = NamedSharding(mesh, P())
            return jax.make_array_from_callback(host.shape, where, lambda _: host)
        return _cut(host, plan.deal_of(name), NamedSharding(mesh, P(plan.axis)))

    return Sharded(_by_name(state, put), plan)


def plan_of(state: Machine, mesh: Mesh, layout: str) -> ShardPlan:
    """How `deal` would cut the machine.

    Raises:
      ValueError: as `deal`.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(f"a mesh with axes {mesh.axis_names}: frames need one axis")
    g = state.geometry
    if g.orders != (0,):
        raise ValueError("larger folios are not sharded; migrate them on one device")
    block = block_of(layout, mesh.size, g.nodes, g.frames_per_node)
    most = 1
    if g.shared:
        most = int(np.asarray(state.frame[:, frame.MAPCOUNT]).max(initial=1))
    lengths = (state.frame.shape[0], state.pte.shape[0], state.free.shape[0])
    frames, entries, slots = (Deal(mesh.size, block, n) for n in lengths)
    return ShardPlan(mesh, frames, entries, slots, most)


def deal_list(folios: np.ndarray, room: int, plan: ShardPlan) -> tuple[jax.Array, Deal]:
    """A list of folios with room for so many, dealt out like frames."""
    padded = np.zeros(room, np.int32)
    padded[: folios.shape[0]] = folios
    # In blocks that do not leave most shards without any of a short list.
    block = min(plan.frames.block, -(-room // plan.shards))
    d = Deal(plan.shards, block, room)
    return _cut(padded, d, NamedSharding(plan.mesh, P(plan.axis))), d


def _cut(host: np.ndarray, deal: Deal, where: NamedSharding) -> jax.Array:
    def piece(index: Any) -> np.ndarray:
        return deal.piece(host, (index[0].start or 0) // deal.room)

    shape = (deal.room * deal.shards, *host.shape[1:])
    return jax.make_array_from_callback(shape, where, piece)


def collect(sharded: Sharded) -> Machine:
    """The whole machine as arrays of the first device; all processes call it."""

    def take(name: str, array: jax.Array) -> jax.Array:
        if not array.is_fully_addressable and not array.is_fully_replicated:
            host = np.asarray(multihost_utils.process_allgather(array, tiled=True))
        else:
            host = np.asarray(array)
        if name in DEALT:
            host = sharded.plan.deal_of(name).whole(host)
        # A copy: JAX must not share memory with an array of numpy's.
        return jax.numpy.array(host)

    return _by_name(sharded.m, take)


def _by_name(m: Machine, function: Callable[[str, Any], Any]) -> Machine:
    """`function(name of the field, array)` for every array of a machine."""
    return jax.tree.map_with_path(lambda path, x: function(path[0].name, x), m)
