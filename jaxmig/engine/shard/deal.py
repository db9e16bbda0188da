"""Which device keeps which row: arrays dealt out to shards in blocks of neighbours.

Row i of an array belongs to shard (i / block) mod shards, as cards are dealt.  Blocks
that divide a node's frames give every shard a slice of every node, so that a page can
move to another node and stay where it is ("striped").  One block a shard makes nodes
and shards the same thing, and every page that changes its node crosses ("nodes").

JAX cuts an array into consecutive pieces; so what it holds is the array in the order in
which the shards have it, each piece padded to the same length.
"""

import dataclasses
from typing import Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, Int64

from jaxmig.state.machine import NOWHERE

BLOCK: Final = 512  # rows: a page table's worth, and a small part of a chunk
LAYOUTS: Final = ("striped", "nodes")

Rows = Int32[Array, " lanes"]


@dataclasses.dataclass(frozen=True)
class Deal:
    """One array's rows among `shards` shards.  Static."""

    shards: int
    block: int
    rows: int  # of the whole array

    @property
    def room(self) -> int:
        """Rows that each shard has room for."""
        return -(-self.rows // (self.block * self.shards)) * self.block

    def owner(self, index: Rows) -> Rows:
        """The shard of each row; `shards` for NOWHERE."""
        shard = index // np.int32(self.block) % np.int32(self.shards)
        return jnp.where(index == NOWHERE, np.int32(self.shards), shard)

    def local(self, index: Rows, mine: Bool[Array, " lanes"]) -> Rows:
        """Where its shard keeps each row; NOWHERE for rows that are not `mine`."""
        block, stride = np.int32(self.block), np.int32(self.block * self.shards)
        here = index // stride * block + index % block
        return jnp.where(mine, here, NOWHERE)

    def rows_of(self, shard: int) -> Int64[np.ndarray, " room"]:
        """The rows of one shard in the order in which it keeps them; host only.

        Numbers past the end of the array are padding.
        """
        here = np.arange(self.room)
        return (here // self.block * self.shards + shard) * self.block + (
            here % self.block
        )

    def position(self, index: np.ndarray) -> np.ndarray:
        """Places of rows in the array that JAX has, shard after shard; host only."""
        shard = index // self.block % self.shards
        stride = self.block * self.shards
        here = index // stride * self.block + index % self.block
        return shard * self.room + here

    def piece(self, array: np.ndarray, shard: int) -> np.ndarray:
        """What one shard keeps of an array; host only."""
        at = self.rows_of(shard)
        there = at < self.rows
        if there.all():
            return array[at]
        out = np.zeros((self.room, *array.shape[1:]), array.dtype)
        out[there] = array[at[there]]
        return out

    def whole(self, pieces: np.ndarray) -> np.ndarray:
        """The array that the pieces of all shards, one behind the other, are of."""
        out = np.empty((self.rows, *pieces.shape[1:]), pieces.dtype)
        for shard in range(self.shards):
            at = self.rows_of(shard)
            there = at < self.rows
            mine = pieces[shard * self.room : (shard + 1) * self.room]
            out[at[there]] = mine[there]
        return out


def block_of(layout: str, shards: int, nodes: int, frames_per_node: int) -> int:
    """How many neighbouring frames a layout keeps on one shard.

    Args:
      layout: one of LAYOUTS.
      shards: devices of the mesh.
      nodes, frames_per_node: of the machine.
    Returns:
      Rows of a block.
    Raises:
      ValueError: for a layout that is none, or nodes that shards do not fill.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r}: one of {' '.join(LAYOUTS)}")
    if layout == "nodes":
        if shards % nodes and nodes % shards:
            raise ValueError(
                f"layout 'nodes': {nodes} nodes do not go evenly into {shards} shards; "
                "use a mesh of another size, or 'striped'"
            )
        return -(-nodes * frames_per_node // shards)
    # The largest block of which every shard gets equally many of each node.
    block = BLOCK
    while block > 1 and frames_per_node % (block * shards):
        block //= 2
    return block
