"""Padding of small machines to common sizes, so that they share compiled programs.

A program is compiled for the sizes of a machine, which takes a thousand times as long as
a call on a small one.  The padding is never used: nodes without memory, CPUs on which
nothing runs, address spaces that map nothing, free frames, orders without folios.  It
changes no count, nor which form of the engine runs a call.

Sizes: nodes 4, 8, 16 ...; CPUs 8, 16 ...; address spaces 4, 8 ...; folios of base pages
alone, or of the orders in COMMON; pages and entries in steps of a factor of four.  A
machine with another order, with more folios, or with larger folios that hold contents has
its own pools.  Machines with shared pages and machines with conditions are not
distinguished.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool

from jaxmig.sources.assemble import Classes, Hardware
from jaxmig.state.buckets import coarse

# Beyond this, to lay out and check unused frames would take as long as compiling.
FEW_PAGES: Final = 1 << 13
# Each call copies the contents of all frames.
FEW_WITH_CONTENTS: Final = 1 << 8
NODES: Final = 4
CPUS: Final = 8
MMS: Final = 4
# Orders, and folios of each.  Most frames are for folios of 2 MiB and for base pages into
# which they may be split.
COMMON: Final = ((0, 1 << 14), (2, 512), (4, 128), (6, 32), (9, 32))
SMALL: Final = Classes(4096, pmds=32, up=coarse, conditions=True, pools=COMMON)
# Each unused frame takes 4 KiB more: no pools for larger folios.
WITH_CONTENTS: Final = Classes(1024, large=2, pmds=32, up=coarse, conditions=True)


def alike(hw: Hardware) -> Hardware:
    """The hardware padded with unused nodes, CPUs and address spaces."""
    mms, cpus = hw.mask.shape
    nodes = _power(hw.nodes, NODES)
    rows = (0, _power(mms, MMS) - mms)
    columns = (0, _power(cpus, CPUS) - cpus)
    mask: Bool[np.ndarray, "mms cpus"] = np.pad(hw.mask, (rows, columns))
    free = [*hw.free, *[None] * (hw.nodes - len(hw.free)), *[0] * (nodes - hw.nodes)]
    return dataclasses.replace(
        hw, nodes=nodes, mask=mask, lazy=np.pad(hw.lazy, columns), free=free
    )


def _power(n: int, least: int) -> int:
    """The smallest power of two that holds `n`, at least `least`."""
    return max(least, 1 << (n - 1).bit_length())
