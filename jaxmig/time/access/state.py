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

NEVER: Final = np.int32(2**30)  # later than any time of a block, ns
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
    """Sizes and switches; another shape is another compilation.

    `huge` folios of 2 MiB come first, then base pages; `words` is how many words of
    each folio carry contents (0: none).  `strict`: accesses happen one by one in the
    order of time; else lanes run apart between two acts of the migrator, which only
    first touches and dirty bits see.
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

    gen: Int32[Array, ""]  # choosing the address
    hit: Int32[Array, ""]
    walk: Int32[Array, ""]
    local: Int32[Array, ""]
    remote: Int32[Array, ""]
    fault: Int32[Array, ""]
    wake: Int32[Array, ""]
    switch: Int32[Array, ""]  # to another address space


@pytree
class Cpu:
    """The thread on each CPU, and what its CPU knows of address spaces."""

    clock: Lanes  # start of its next access; NEVER: ended, or the wait's end is unknown
    begin: Lanes  # end of its last access
    pos: Lanes  # accesses done of this block's stream
    left: Lanes  # accesses until it looks at the time
    asleep: Mask  # its next access follows a sleep
    sleep: Lanes  # when that sleep began
    wait: Lanes  # folio whose remap time is not known yet, or NOWHERE
    since: Lanes  # first try of an access that has to be tried again, or NEVER
    stalled: Mask  # it had to wait for a migration
    node: Lanes
    mm: Lanes
    asid: Lanes
    next_asid: Lanes
    asid_mm: Int32[Array, "cpus asids"]
    asid_gen: Int32[Array, "cpus asids"]  # tlb_gen it has caught up with
    flushed: Int32[Array, "cpus asids"]  # age of the last full flush


@pytree
class BlockTally:
    """Counters of one block, by CPU; the host adds blocks up.

    Accesses are `Cpu.pos`, and those that did not walk are hits.
    """

    walks: Lanes
    faults: Lanes  # first touches
    stalls: Lanes
    stall_ns: Lanes
    stall_max: Lanes
    ipis: Lanes
    ipi_ns: Lanes
    wrong: Lanes  # accesses to a frame that is not the page's: must stay 0
    latency: Int32[Array, " kinds*bins"]  # reads, then writes
    waits: Int32[Array, " bins"]


@pytree
class FolioMemory:
    """Frames in folios' units; a store adds 1, so that a lost one is missed."""

    words: UInt32[Array, "frames words"]
    owner: Int32[Array, " frames"]


@pytree
class MigrationWindow:
    """Folios being migrated: consecutive ones, from `first` on."""

    first: Int32[Array, ""]
    unmap: Int32[Array, " window"]  # NEVER: not yet
    remap: Int32[Array, " window"]  # NEVER: not known yet
    start: Int32[Array, ""]  # of the present unmapping; the mm's generation moves on
    unit: Int32[Array, ""]  # every `unit` ns, `count` times
    count: Int32[Array, ""]
    gen: Int32[Array, " mms"]  # tlb_gen before it


@pytree
class CpuTlbs:
    """All CPUs' entries, a CPU's rows side by side."""

    tag: Int32[Array, "rows ways"]  # folio, or -1
    age: Int32[Array, "rows ways"]  # step of its last use
    load: Int32[Array, "rows ways"]


@pytree
class Access:
    """What an access reads and writes."""

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
