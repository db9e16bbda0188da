"""The one form that every trace is read into: rows of accesses, in blocks.

A block is a structured array; columns that a format does not have are UNKNOWN.  An access
that reaches into the next page is a row for each page, since each is translated.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from jaxmig.host.refused import Refused

UNKNOWN: Final = -1
PAGE_SHIFT: Final = 12
# With five levels of page tables; what lies between is not canonical.
USER_END: Final = np.uint64(1 << 56)
KERNEL_START: Final = np.uint64((1 << 64) - (1 << 56))
KERNEL: Final = "accesses to the kernel's own memory"
LARGEST_ORDER: Final = 18  # 1 GiB
ACCESS: Final = np.dtype(
    [
        ("time_ns", "<i8"),  # since a moment that the trace chooses; or UNKNOWN
        ("address", "<u8"),
        ("pid", "<i4"),
        ("tid", "<i4"),
        ("cpu", "<i4"),
        ("order", "i1"),  # log2 of the base pages of the mapping: 9 for 2 MiB
        ("store", "?"),
    ]
)
Rows = npt.NDArray[np.void]  # of ACCESS
GAP_NS: Final = 5  # between accesses that have no times: a few instructions (assumed)
MAX_GAP_NS: Final = 1_000_000  # clocks of a block are 30 bits
LEAST: Final = 1 << 15  # rows of a block that is not the last


class TraceError(Refused, ValueError):
    """A trace that cannot be read: file, line and what to do, in one line."""


def rows(address: Any, **columns: Any) -> Rows:
    """A block from an array of addresses; columns not given are UNKNOWN, loads, 4 KiB.

    Raises:
      OverflowError, ValueError: a number that its column cannot hold.
    """
    made = np.zeros(len(address), ACCESS)
    made["address"] = np.asarray(address, np.uint64)
    for name in ("time_ns", "pid", "tid", "cpu"):
        made[name] = UNKNOWN
    for name, values in columns.items():
        made[name] = np.asarray(values, ACCESS[name])
    return made


def across(block: Rows, size: Any) -> Rows:
    """`block` with a row for each page that an access of `size` bytes reaches into."""
    last = block["address"] + np.maximum(np.asarray(size, np.uint64), 1) - 1
    # An access at the end of the address space does not wrap around to page 0.
    last = np.maximum(last, block["address"])
    more = (last >> PAGE_SHIFT) - (block["address"] >> PAGE_SHIFT)
    if not more.any():
        return block
    times = more.astype(np.int64) + 1
    made = np.repeat(block, times)
    nth = np.arange(len(made)) - np.repeat(np.cumsum(times) - times, times)
    later = nth > 0
    page = (made["address"][later] >> PAGE_SHIFT) + nth[later].astype(np.uint64)
    made["address"][later] = page << PAGE_SHIFT
    return made


def of_users(block: Rows, notes: Counter[str]) -> Rows:
    """`block` without accesses to kernel memory, which are counted in `notes`."""
    kernel = block["address"] >= KERNEL_START
    if not kernel.any():
        return block
    notes[KERNEL] += int(kernel.sum())
    return block[~kernel]


def both(block: Rows) -> Rows:
    """Each row twice: as a load and then as a store."""
    made = np.repeat(block, 2)
    made["store"] = np.tile([False, True], len(block))
    return made


def gathered(blocks: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows in blocks that are neither empty nor, but for the last, small."""
    waiting: list[Rows] = []
    have = 0
    for block in blocks:
        waiting.append(block)
        have += len(block)
        if have >= LEAST:
            yield np.concatenate(waiting) if len(waiting) > 1 else block
            waiting, have = [], 0
    if have:
        yield np.concatenate(waiting)
