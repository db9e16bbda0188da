"""Loads and stores through TLB and page table, of all CPUs in parallel."""

from jaxmig.time.access.state import (
    AGE_LIMIT,
    BINS,
    MM_SHIFT,
    NEVER,
    NR_DYN_ASIDS,
    Access,
    BlockTally,
    Costs,
    Cpu,
    CpuTlbs,
    FolioMemory,
    MigrationWindow,
    Shape,
    Stream,
)
from jaxmig.time.access.step import ready, step

__all__ = [
    "AGE_LIMIT",
    "BINS",
    "MM_SHIFT",
    "NEVER",
    "NR_DYN_ASIDS",
    "Access",
    "BlockTally",
    "Costs",
    "Cpu",
    "CpuTlbs",
    "FolioMemory",
    "MigrationWindow",
    "Shape",
    "Stream",
    "ready",
    "step",
]
