"""What is fixed during one call: release, mode, reason, architecture."""

import dataclasses
from typing import Final

from jaxmig.releases import Release, release

MODES: Final = ("async", "sync_light", "sync")
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


@dataclasses.dataclass(frozen=True)
class Rules:
    """Static: other rules are another compilation."""

    release: Release
    mode: str = "sync"
    reason: str = "syscall_or_cpuset"
    arch: str = "x86"
    memalloc: bool = False  # the caller is in reclaim (PF_MEMALLOC)

    @property
    def nosplit(self) -> bool:
        """NUMA balancing would rather not move a THP than split it."""
        return self.reason == "numa_misplaced"

    @property
    def broadcasts(self) -> bool:
        """Invalidations reach all CPUs in hardware: no IPIs and no counters of them."""
        return self.arch == "arm64"

    @property
    def invlpgb(self) -> bool:
        """AMD's broadcast instruction, on a CPU and in a release that have it."""
        return self.arch == "x86-invlpgb" and self.release.invlpgb


def rules(
    kernel: str,
    mode: str = "sync",
    reason: str = "syscall_or_cpuset",
    arch: str = "x86",
    memalloc: bool = False,
) -> Rules:
    """Checked rules.

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
    return Rules(release(kernel), mode, reason, arch, memalloc)
