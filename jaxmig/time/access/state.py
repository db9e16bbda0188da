"""State of the CPUs that run a program: lanes, TLBs, page table, counters.

A lane is a CPU with its own clock.  A TLB is rows of sets; tags, ages and payloads lie
in arrays of their own, so that a lane reads a row of each and writes one way.  An entry
no younger than the last flush of its ASID is dead: a full flush writes one number.

Source: struct tlb_state in arch/x86/include/asm/tlbflush.h, Linux 6.3.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Array, Bool, Int32, UInt32

from jaxmig.state.pytree import pytree

NEVER: Final = np.int32(2**30)  # ns, later than any time of a block
NO_WAY: Final = np.int32(2**27 - 1)  # age of a way that does not exist
AGE_LIMIT: Final = 1 << 26  # steps after which ages are counted anew
NR_DYN_ASIDS: Final = 6  # TLB_NR_DYN_ASIDS
WAY_SHIFT: Final = 4  # a key is age << 4 | way: at most 16 ways
YOUNG, DIRTY, PTE_SHIFT = 1, 2, 2  # a page-table word: frame << 2 | dirty | young
FRAME_SHIFT: Final = 4  # a payload: frame << 4 | asid << 1 | dirty
ASID_MASK: Final = 7
SUB_BINS: Final = 16  # of an octave of latencies
FIRST_OCTAVE: Final = 8
MM_SHIFT: Final = 24  # in the second word of a stream: mm, word, store
BINS: Final = 1 + (31 - FIRST_OCTAVE) * SUB_BINS
GROUP: Final = 8  # accesses of a lane that one step tries
Lanes = Int32[Array, " cpus"]
Mask = Bool[Array, " cpus"]
Group = Int32[Array, "group cpus"]
GroupMask = Bool[Array, "group cpus"]


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes and switches; each shape is compiled separately.

    `huge` folios of 2 MiB come first, then base pages; `words` is how many words of
    each folio carry contents (0: none).  With `strict` accesses happen one by one in the
    order of time.  Otherwise lanes run independently between two acts of the migrator,
    which can only change the order of first touches and dirty bits.
    """

    cpus: int
    folios: int
    huge: int = 0
    sets: int = 128
    ways: int = 12
    huge_sets: int = 32
    huge_ways: int = 4
    mms: int = 1
    words: int = 0
    strict: bool = False

    @property
    def group(self) -> int:
        """Accesses of a lane that one step tries."""
        return 1 if self.strict else GROUP

    @property
    def asids(self) -> int:
        """Dynamic ASIDs; a single address space needs one."""
        return NR_DYN_ASIDS if self.mms > 1 else 1

    @property
    def width(self) -> int:
        """Ways a row has room for."""
        return max(self.ways, self.huge_ways if self.huge else 0)

    @property
    def rows(self) -> int:
        """Rows of one CPU."""
        return self.sets + (self.huge_sets if self.huge else 0)


@pytree
class Costs:
    """Times of one access, ns."""

    gen: Int32[Array, ""]  # the program's own work before each access
    hit: Int32[Array, ""]
    walk: Int32[Array, ""]
    local: Int32[Array, ""]
    remote: Int32[Array, ""]
    fault: Int32[Array, ""]
    wake: Int32[Array, ""]
    switch: Int32[Array, ""]  # to another address space


@pytree
class Cpu:
    """The thread on each CPU, and the CPU's address spaces."""

    clock: (
        Lanes  # start of its next access; NEVER if ended, or if the wait has no end yet
    )
    begin: Lanes  # end of its last access
    pos: Lanes  # accesses done of this block's stream
    left: Lanes  # accesses until it reads the time
    asleep: Mask  # its next access follows a sleep
    sleep: Lanes  # when that sleep began
    wait: Lanes  # folio whose remap time is not known yet, or NOWHERE
    since: Lanes  # first try of an access that must be repeated, or NEVER
    stalled: Mask  # whether that access waits for a migration
    node: Lanes
    mm: Lanes
    asid: Lanes
    next_asid: Lanes
    asid_mm: Int32[Array, "cpus asids"]
    asid_gen: Int32[Array, "cpus asids"]  # tlb_gen it has caught up with
    flushed: Int32[Array, "cpus asids"]  # age of the last full flush


@pytree
class BlockTally:
    """Counters of one block, by CPU, which the host adds up over blocks.

    Accesses are in `Cpu.pos`; those without a walk are hits.
    """

    walks: Lanes
    faults: Lanes  # first touches
    stalls: Lanes
    stall_ns: Lanes
    stall_max: Lanes
    ipis: Lanes
    ipi_ns: Lanes
    wrong: Lanes  # accesses to a frame that is not the page's: must be 0
    latency: Int32[Array, " kinds*bins"]  # reads, then writes
    waits: Int32[Array, " bins"]


@pytree
class FolioMemory:
    """Contents of frames, one for each folio; a store adds 1, so that a loss shows."""

    words: UInt32[Array, "frames words"]
    owner: Int32[Array, " frames"]


@pytree
class MigrationWindow:
    """Folios being migrated: consecutive ones, from `first` on."""

    first: Int32[Array, ""]
    unmap: Int32[Array, " window"]  # NEVER: not yet
    remap: Int32[Array, " window"]  # NEVER: not known yet
    start: Int32[
        Array, ""
    ]  # of the present unmapping, which raises the mm's generation
    unit: Int32[Array, ""]  # every `unit` ns, `count` times
    count: Int32[Array, ""]
    gen: Int32[Array, " mms"]  # tlb_gen before it


@pytree
class CpuTlbs:
    """The entries of all CPUs' TLBs; rows of a CPU are adjacent."""

    tag: Int32[Array, "rows ways"]  # folio, or -1
    age: Int32[Array, "rows ways"]  # step of its last use
    load: Int32[Array, "rows ways"]


@pytree
class Access:
    """The state that accesses read and write."""

    cpu: Cpu
    tlb: CpuTlbs
    pte: Int32[Array, " entries"]  # -1: never touched
    memory: FolioMemory | None
    tally: BlockTally
    age: Int32[Array, ""]


@pytree
class Stream:
    """A block of accesses: folio, and mm << 24 | word << 1 | store."""

    op: Int32[Array, "cpus block 2"]
