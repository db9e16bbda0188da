"""Small machines made alike, so that many of them share the same compiled programs.

A program is compiled for the sizes of a machine, which takes a thousand times as long as
a call on a small one.  What is added here nobody uses: nodes without memory, CPUs on
which nothing runs, address spaces that map nothing, free frames, orders without folios.
Which form of the engine works a call does not depend on it, nor does any count.

Classes: nodes 4, 8, 16 ...; CPUs 8, 16 ...; address spaces 4, 8 ...; folios of base
pages alone, or of the orders in COMMON; pages and entries so many, or four times as many,
and so on.  A machine with another order, with more folios, or with larger folios that
hold contents has pools of its own.  A machine on which pages are shared can have
conditions, and one that has conditions can share pages.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool

from jaxmig.sources.assemble import Classes, Hardware
from jaxmig.state.buckets import coarse

# Beyond, laying out and checking frames that nobody uses would cost as much as compiling.
FEW_PAGES: Final = 1 << 13
# Each call copies the contents of all frames.
FEW_WITH_CONTENTS: Final = 1 << 8
NODES: Final = 4
CPUS: Final = 8
MMS: Final = 4
# Orders, and folios of each; those of 2 MiB, and the base pages that they are split into,
# make most of the frames.
COMMON: Final = ((0, 1 << 14), (2, 512), (4, 128), (6, 32), (9, 32))
SMALL: Final = Classes(4096, pmds=32, up=coarse, conditions=True, pools=COMMON)
# Each frame that nobody uses is 4 KiB more: no pools for larger folios.
WITH_CONTENTS: Final = Classes(1024, large=2, pmds=32, up=coarse, conditions=True)


def alike(hw: Hardware) -> Hardware:
    """The hardware with nodes, CPUs and address spaces that nobody uses."""
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
