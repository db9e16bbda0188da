"""Small machines made alike, so that many of them share the same compiled programs.

A program is compiled for the sizes of a machine, which takes a thousand times as long as
a call on a small one.  What is added here nobody uses: nodes without memory, CPUs on
which nothing runs, address spaces that map nothing, free frames, orders without folios.
Which form of the engine works a call does not depend on it, nor does any count.

Classes: nodes 4, 8, 16 ...; CPUs 8, 16 ...; address spaces 4, 8 ...; folios of base
pages, of these and 2 MiB, or of the orders in COMMON and whatever else there is; pages
and entries 4,096.  A machine on which pages are shared can have conditions, and
one that has conditions can share pages.
"""

import dataclasses
from typing import Final

import numpy as np
from jaxtyping import Bool

from jaxmig.assemble import Classes, Hardware
from jaxmig.buckets import coarse

FEW_PAGES: Final = 1 << 11  # beyond, programs would no longer be short (xla.SHORT)
COMMON: Final = (2, 4, 6, 9)  # orders
NODES: Final = 4
CPUS: Final = 8
MMS: Final = 4
SMALL: Final = Classes(base=4096, large=8, pmds=32, orders=COMMON, up=coarse)
# Each frame that nobody uses is 4 KiB more.
WITH_CONTENTS: Final = Classes(base=1024, large=2, pmds=32, orders=COMMON, up=coarse)


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
