"""The state: one pytree of arrays.

Dimensions: frames, entries, nodes, mms, cpus, sets, ways, slots (free-frame stacks).

`entries` is one flat space for all processes: first the PTEs, process by process in
address order, then their PMD leaves.  An entry number is therefore also the TLB's tag:
it says which address of which process.

Each node owns the same number of consecutive frames, cut into one pool per folio order
in use.  A pool has a slot for every folio of its order, so that a large folio always
finds contiguous frames: the model has no fragmentation.  How much memory a node has
left is a number of its own, `nfree`, in base pages.

Source: struct page, mm_struct (include/linux/mm_types.h), page tables, anon_vma trees,
cpu_tlbstate (arch/x86/include/asm/tlbflush.h).
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Array, Bool, Int32, Scalar, UInt32

from jaxmig.state import frame
from jaxmig.state.frame import PMD_ORDER
from jaxmig.state.pytree import pytree, static

PAGE_BYTES: Final = 4096
WORDS: Final = 1024  # of 32 bits, in a base page
PMD_PAGES: Final = 1 << PMD_ORDER
# An index beyond every array: scatters drop it, gathers fill it.  -1 would be the last
# row.
NOWHERE: Final = np.int32(2**31 - 1)
BLANK: Final = (0, 0, 0, NOWHERE)  # the row of a free frame


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes that do not follow from shapes.  Static: each one is another compilation."""

    nodes: int
    frames_per_node: int
    orders: tuple[int, ...]  # of the folios in use, ascending; 0 always among them
    pool_blocks: tuple[int, ...]  # per order: folios a node has room for
    ptes: int  # entries below this number are PTEs, the others PMDs
    shared: bool  # some frame has more than one mapping
    headroom: bool = False  # a node can be source and destination of one call
    hugetlb: bool = False  # some folios may be hugetlb's
    poisoned: bool = False  # some pages cannot be read

    @property
    def frames(self) -> int:
        """Frames of all nodes."""
        return self.nodes * self.frames_per_node

    @property
    def largest(self) -> int:
        """Base pages of the largest folio."""
        return 1 << self.orders[-1]

    @property
    def shares_pmds(self) -> bool:
        """Whether two PMD leaves can map one folio."""
        return self.shared and self.orders[-1] == PMD_ORDER

    def only_heads(self, row: Int32[Array, "*n 4"]) -> Bool[Array, "*n"]:
        """Whether entries map large folios as a whole, PMD leaves, and no others do.

        Args:
          row: int32[..., 4], rows of heads.
        Returns:
          bool[...]: a head's chain lists PTEs before PMD leaves.
        """
        first, flags = row[..., frame.RMAP], row[..., frame.FLAGS]
        leaf = (first >= self.ptes) & (first != NOWHERE)
        return leaf & ~frame.has(flags, frame.TAILS_MAPPED)

    def pool_start(self, pool: int) -> int:
        """First frame of a pool within a node."""
        blocks = self.pool_blocks[:pool]
        return sum(n << o for n, o in zip(blocks, self.orders[:pool], strict=True))

    def stack_start(self, pool: int) -> int:
        """First slot of a pool's stack within a node."""
        return sum(self.pool_blocks[:pool])

    @property
    def slots_per_node(self) -> int:
        """Stack slots of one node."""
        return sum(self.pool_blocks)


@pytree
class Tlb:
    """Translations as they were filled; they stay so until flushed.

    One row is one set of all CPUs, so that a shootdown of one page reads and writes
    `cpus * ways` neighbours.
    """

    entry: Int32[Array, "sets cpus*ways"]  # NOWHERE if empty
    pfn: Int32[Array, "sets cpus*ways"]
    bits: Int32[Array, "sets cpus*ways"]  # WRITE and DIRTY as cached
    age: Int32[Array, "sets cpus*ways"]  # time of last use: LRU within a set


@pytree
class Cpus:
    """cpu_tlbstate of each CPU, mm_cpumask() and tlb_gen of each address space."""

    mask: Bool[Array, "mms cpus"]  # mm_cpumask
    lazy: Bool[Array, " cpus"]  # lazy TLB mode: in a mask, but takes no IPI
    mm: Int32[Array, " cpus"]  # loaded_mm, NOWHERE if it is of no modelled process
    gen: Int32[Array, " cpus"]  # tlb_gen this CPU has caught up with
    mm_gen: Int32[Array, " mms"]  # tlb_gen of each mm
    pending: Bool[Array, " cpus"]  # task->tlb_ubc: a deferred flush not yet sent


@pytree
class Machine:
    """Frames, page tables, reverse map, free memory, TLBs, CPUs."""

    frame: Int32[Array, "frames 4"]
    memory: UInt32[Array, "frames 1024"] | None
    pte: Int32[Array, "entries 2"]
    rmap_next: Int32[Array, " entries"]
    pmd_table: Int32[Array, " pmds"]  # first PTE under each PMD leaf
    free: Int32[Array, " slots"]
    top: Int32[Array, "nodes orders"]
    nfree: Int32[Array, " nodes"]
    tlb: Tlb
    huge_tlb: Tlb
    cpus: Cpus
    conditions: Int32[Array, "frames 4"] | None  # see conditions.py
    geometry: Geometry = static()

    def node_of(self, pfn: Int32[Array, "*lanes"]) -> Int32[Array, "*lanes"]:
        """The node that owns each frame."""
        return pfn // np.int32(self.geometry.frames_per_node)


NodeId = int | Int32[Scalar, ""] | Int32[Array, ""]
