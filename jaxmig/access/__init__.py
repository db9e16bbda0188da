"""A CPU's load or store, all CPUs in parallel through their TLBs."""

from jaxmig.access.state import (
    AGE_LIMIT,
    BINS,
    MM_SHIFT,
    NEVER,
    NR_DYN_ASIDS,
    Access,
    Costs,
    Cpu,
    Memory,
    Shape,
    Stream,
    Tally,
    Tlb,
    Window,
)
from jaxmig.access.step import ready, step

__all__ = [
    "AGE_LIMIT",
    "BINS",
    "MM_SHIFT",
    "NEVER",
    "NR_DYN_ASIDS",
    "Access",
    "Costs",
    "Cpu",
    "Memory",
    "Shape",
    "Stream",
    "Tally",
    "Tlb",
    "Window",
    "ready",
    "step",
]
