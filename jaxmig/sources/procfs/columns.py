"""Columnar tables that compare by content, and the bits of a page's row."""

import dataclasses
import enum
from typing import Any

import numpy as np
import numpy.typing as npt

I8 = npt.NDArray[np.int8]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class PageFlag(enum.IntFlag):
    """Bits of `Snapshot.flags`, which has a word for each resident mapping."""

    WRITABLE = 1 << 0  # its area may be written
    SHARED_AREA = 1 << 1  # MAP_SHARED area
    EXEC = 1 << 2  # its area may be executed
    FILE = 1 << 3  # pagemap bit 61: page cache or shmem, not anonymous
    SOFT_DIRTY = 1 << 4  # pagemap bit 55
    EXCLUSIVE = 1 << 5  # pagemap bit 56: mapped by this process alone
    UFFD_WP = 1 << 6  # pagemap bit 57
    HUGE_PMD = 1 << 7  # mapped by a PMD (transparent huge page)
    HUGETLB = 1 << 8  # in a hugetlbfs area: not part of Rss
    ZERO = 1 << 9  # the shared page of zeros, small or huge: not part of Rss
    PFNMAP = 1 << 10  # VM_PFNMAP or VM_IO area
    VDSO = 1 << 11  # code page that the kernel maps into every process
    KSM = 1 << 12  # merged with equal pages
    MLOCKED = 1 << 13
    UNEVICTABLE = 1 << 14
    DIRTY = 1 << 15  # PTE or page, from the counts of smaps
    YOUNG = 1 << 16  # accessed, from the counts of smaps
    SWAPCACHE = 1 << 17
    LOCKED = 1 << 18
    WRITEBACK = 1 << 19
    PRIVATE = 1 << 20  # buffers or other private data of a file system
    POISONED = 1 << 21
    OFF_LRU = 1 << 22  # neither on the LRU nor on its way to it
    MADE_UP_PFN = 1 << 23  # the frame number was laid out here, not read
    MADE_UP_ADDRESS = 1 << 24  # pagemap was closed: known from numa_maps by count


class AreaKind(enum.IntEnum):
    """What backs an area of a process."""

    ANON = 0
    STACK = 1
    FILE = 2
    SHMEM = 3
    HUGETLB = 4
    SPECIAL = 5  # [vdso], [vvar], [vsyscall]
    SECRET = 6  # memfd_secret(2)
    DAX = 7  # /dev/dax: memory without the page cache


class Perm(enum.IntFlag):
    """Bits of `Areas.perms`."""

    READ = 1
    WRITE = 2
    EXEC = 4
    SHARED = 8


class ArrayTable:
    """Mixin for frozen dataclasses of arrays: equality by content and dtype."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        pairs = zip(_values(self), _values(other), strict=True)
        return all(_same(a, b) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]


def _values(table: Any) -> list[Any]:
    return [getattr(table, f.name) for f in dataclasses.fields(table)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return bool(first == second)


def bits(flag: enum.IntFlag) -> np.uint32:
    """A flag as the scalar that keeps uint32 arithmetic uint32."""
    return np.uint32(flag.value)


def pick(
    group: npt.NDArray[Any], want: npt.NDArray[Any], score: npt.NDArray[Any]
) -> Bools:
    """Mark the `want[group]` rows with the highest scores in each group.

    Rows of equal score are marked in row order.  Used where Linux only gives the number
    of pages of an area that have a property.

    Args:
      group: int[n], index into `want`.
      want: int[groups], how many rows to mark, all if the group has fewer.
      score: [n] number or bool.
    """
    by_group = np.lexsort((-score.astype(np.int64), group))
    sorted_group = group[by_group]
    first = np.searchsorted(sorted_group, sorted_group, side="left")
    chosen = np.zeros(len(group), np.bool_)
    chosen[by_group] = np.arange(len(group)) - first < want[sorted_group]
    return chosen
