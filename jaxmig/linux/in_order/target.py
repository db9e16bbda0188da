"""On which node a folio's destination is allocated, where a call may fall back on others.

Source: alloc_demote_folio(), later alloc_migrate_folio() in mm/vmscan.c, Linux 6.1 to 7.1.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import Where
from jaxmig.linux.phases.alloc import top_of
from jaxmig.state import xla
from jaxmig.state.machine import NOWHERE, Geometry
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Nodes = Int32[Array, " nodes"]


@pytree
class Placed:
    """Where the folios of a call that falls back have found room."""

    node: Int32[Array, " frames"]  # of the destination reserved for each head
    cleared: Flag  # the mask is empty: every node may be used
    crowded: Flag  # a folio found memory, but no free frame

    def reserve(self, at: Where, head: Index, node: Index, when: Flag) -> "Placed":
        """These after a destination was reserved.

        Args:
          at: the target, with the nodes that may be used instead.
          head: int32, the folio's head frame.
          node: int32, the node that gave it.
          when: whether the step asked for one.
        Returns:
          Where the folios of the call have found room.
        """
        fallback = at.fallback
        assert fallback is not None
        nodes = xla.put(self.node, head, node)
        there = when & (fallback.distance[node] == 0) & ~fallback.keeps
        return dataclasses.replace(self, node=nodes, cleared=self.cleared | there)

    def popped(
        self, geometry: Geometry, top: Array, node: Index, order: Index, when: Flag
    ) -> "Placed":
        """These after a frame was popped from a stack.

        Args:
          geometry: the machine's.
          top: int32[nodes, orders], free blocks of each stack before.
          node, order: int32, whose stack it was.
          when: whether a frame was popped.
        Returns:
          Where the folios of the call have found room; `crowded` if the stack was empty.
        """
        none = when & (top_of(geometry, top, node, order) <= 0)
        return dataclasses.replace(self, crowded=self.crowded | none)


def nothing_placed(frames: int) -> Placed:
    """What a call begins with."""
    no = jnp.asarray(False)
    return Placed(jnp.zeros(frames, jnp.int32), no, no)


def choose(
    at: Where,
    placed: Placed | None,
    nfree: Nodes,
    head: Index,
    pages: Index,
    unmaps: Flag,
) -> Index:
    """The node of a folio's destination.

    Args:
      placed: what the call has placed so far; None: it does not fall back.
      nfree: int32[nodes], free base pages.
      head, pages: int32, the folio's head frame, and how many base pages it takes.
      unmaps: whether the destination is allocated now; if not, it was at the unmap.
    Returns:
      int32, the nearest allowed node with room; NOWHERE if there is none.
    """
    if placed is None or at.fallback is None:
        return at.node
    distance = at.fallback.distance
    may = (distance == 0) | ((at.fallback.allowed | placed.cleared) & (distance > 0))
    far = jnp.where(may & (nfree >= pages), distance, NOWHERE)
    nearest = far.argmin().astype(jnp.int32)
    near = jnp.where(far.min() == NOWHERE, NOWHERE, nearest)
    return jnp.where(unmaps, near, xla.read(head, lambda: xla.row(placed.node, head)))
