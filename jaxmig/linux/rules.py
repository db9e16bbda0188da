"""What is fixed during one call: release, mode, reason, architecture, as flags.

`rules()` makes them from names; `word()` packs their flags into one int32 and
`from_word()` unpacks it inside the program, so that releases and modes can be data of
one compiled program.  XLA folds flags that are constants of a trace: a program for one
release pays nothing for the others.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from jaxtyping import Array, Int32

from jaxmig.linux.releases import MODES, Defers, release
from jaxmig.state.pytree import pytree, static

ARCHES: Final = ("x86", "x86-invlpgb", "arm64")
# MR_* of include/linux/migrate_mode.h, by number.
REASONS: Final = (
    "compaction",
    "memory_failure",
    "memory_hotplug",
    "syscall_or_cpuset",
    "mempolicy_mbind",
    "numa_misplaced",
    "contig_range",
    "longterm_pin",
    "demotion",
    "damon",
)
Flag = Any  # Bool[Array, ""], or numpy's where the rules are known


@pytree
class Rules:
    """The flags in which a call's release, mode, reason and architecture matter.

    Releases that differ only in their names have equal rules, and share compiled
    programs.
    """

    # Of the release: see releases.py.
    batched: Flag
    thp_counts_large: Flag
    async_first: Flag
    crossing_opens_next: Flag
    checks_pte_accessible: Flag
    retry_is_no_failure: Flag
    arm64_defers: Flag
    drains_mlocked: Flag
    counts_nr_split: Flag
    split_flushes_batch: Flag
    splits_partially_mapped: Flag
    splits_one_shared_pmd: Flag
    requeues_deferred: Flag
    zero_pieces: Flag
    unmap_flushes_hints: Flag
    unmaps_file_runs: Flag
    split_trylocks: Flag
    pieces_ascend: Flag
    moves_freed_driver_pages: Flag
    keeps_mask: Flag
    gives_up_dirty: Flag
    # Of the call.
    asynchronous: Flag  # mode is ASYNC
    waits_for_writeback: Flag  # mode is SYNC: the others fail with -EBUSY
    memalloc: Flag  # the caller is in reclaim (PF_MEMALLOC)
    nosplit: Flag  # MR_NUMA_MISPLACED: a THP that gets no destination is not split
    longterm_pin: Flag  # MR_LONGTERM_PIN: a folio that could not be split is retried
    offloads: Flag  # an engine copies, in a release that supports it
    # Invalidations reach all CPUs in hardware: no IPIs and no counters of them.
    broadcasts: Flag
    invlpgb: Flag  # AMD's broadcast, on a CPU and in a release that have it
    # A function cannot be data: another one is another compilation.
    defers: Defers | None = static(default=None)

    @property
    def may_sleep(self) -> Flag:
        """Whether some stage of the call may sleep."""
        return ~self.asynchronous & ~self.memalloc

    @property
    def begins_async(self) -> Flag:
        """Whether batches begin with the asynchronous stage."""
        return self.async_first | self.asynchronous

    @property
    def two_stages(self) -> Flag:
        """migrate_pages_sync(): asynchronously first, then one by one."""
        return self.async_first & ~self.asynchronous


# In the order of the bits of a word.
FLAGS: Final = tuple(
    f.name for f in dataclasses.fields(Rules) if not f.metadata.get("static")
)


def rules(
    kernel: str,
    mode: str = "sync",
    reason: str = "syscall_or_cpuset",
    arch: str = "x86",
    memalloc: bool = False,
    engine: bool = False,
) -> Rules:
    """Checked rules, with flags that are known: they hash, and can be static.

    Args:
      kernel, mode, reason, arch: names, as in RELEASES, MODES, REASONS and ARCHES.
      memalloc: the caller is in reclaim (PF_MEMALLOC).
      engine: a copy engine is registered, for all reasons.
    Returns:
      The rules; equal ones where all flags are.
    Raises:
      ValueError: for a release, mode, reason or architecture that is not modelled.
    """
    for what, name, known in (
        ("mode", mode, MODES),
        ("reason", reason, REASONS),
        ("arch", arch, ARCHES),
    ):
        if name not in known:
            raise ValueError(f"{what} {name!r}: not modelled; one of {' '.join(known)}")
    row = release(kernel)
    call = {
        "asynchronous": mode == "async",
        "waits_for_writeback": mode == "sync",
        "memalloc": memalloc,
        "nosplit": reason == "numa_misplaced",
        "longterm_pin": reason == "longterm_pin",
        "offloads": engine and row.offloads,
        "broadcasts": arch == "arm64",
        # A release that does not know the instruction interrupts on such a CPU too.
        "invlpgb": arch == "x86-invlpgb" and row.invlpgb,
    }
    # numpy's, because ~ of Python's own True is -2.
    flags = {
        name: np.bool_(call[name] if name in call else getattr(row, name))
        for name in FLAGS
    }
    return Rules(**flags, defers=row.defers)


def word(rules: Rules) -> np.int32 | Int32[Array, ""]:
    """The flags as bits of one number, without a `defers` of the user's own."""
    bits: Any = np.int32(0)
    for i, name in enumerate(FLAGS):
        bits |= getattr(rules, name).astype(np.int32) << np.int32(i)
    return bits


def from_word(bits: np.int32 | Int32[Array, ""], defers: Defers | None = None) -> Rules:
    """The rules of a word, with a `defers` of the user's own, for which no bit stands."""
    flags = (((bits >> i) & 1) == 1 for i in range(len(FLAGS)))
    return Rules(*flags, defers=defers)
