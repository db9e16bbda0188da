"""Frame numbers for pages whose real ones are hidden.

A page of a file has one frame wherever the file is mapped at that offset, so that sharing
of the page cache and of shmem is kept.  Each anonymous page gets its own frame: pages
shared after fork(2) cannot be recognised without PFNs.
"""

import numpy as np

from jaxmig.sources.procfs.columns import I32, I64, U32, PageFlag
from jaxmig.sources.procfs.infer import has
from jaxmig.sources.procfs.maps import Areas


def lay_out(vpn: I64, area: I32, flags: U32, areas: Areas, base_page: int) -> I64:
    """Frame numbers, int64[n], aligned and contiguous within huge pages.

    Args:
      vpn, area, flags: page number, row of `areas` and PageFlag bits of each row, sorted
        by area, then vpn.
      base_page: bytes.
    Returns:
      A frame number for each row, from 1 on.
    """
    unit = _unit_pages(area, flags, areas, base_page)
    index: I64 = np.where(
        has(flags, PageFlag.FILE), _file_page(vpn, area, areas, base_page), vpn
    )
    unit_id, sizes = _number_units(index // unit, area, flags, areas, unit)
    # Sizes are powers of two: placed from the largest down, each is aligned.
    order = np.argsort(-sizes, kind="stable")
    base: I64 = np.empty(len(sizes), np.int64)
    ends = np.cumsum(sizes[order])
    first = int(sizes.max(initial=1))  # frame 0 stays free, it reads as "hidden"
    base[order] = first + ends - sizes[order]
    return base[unit_id] + index % unit


def _unit_pages(area: I32, flags: U32, areas: Areas, base_page: int) -> I64:
    """Base pages of the block that must stay contiguous around each page."""
    huge = has(flags, PageFlag.HUGE_PMD)
    of_area: I64 = np.maximum(areas.page_size // base_page, 1)
    pmd = np.int64(base_page // 8)  # entries of one page table: 512 for 4 KiB
    unit: I64 = np.where(huge, pmd, of_area[area])
    unit[has(flags, PageFlag.ZERO)] = 1
    return unit


def _file_page(vpn: I64, area: I32, areas: Areas, base_page: int) -> I64:
    size = np.uint64(base_page)
    start, offset = (areas.start // size), (areas.offset // size)
    return vpn - start.astype(np.int64)[area] + offset.astype(np.int64)[area]


def _number_units(
    unit_index: I64, area: I32, flags: U32, areas: Areas, unit: I64
) -> tuple[I64, I64]:
    """Id of each row's unit, and the size of each unit in pages.

    Equal keys share an id. A key is (owner, index, size) where the owner is the file,
    the process for private pages, or the one page of zeros.
    """
    files: dict[tuple[int, int, str], int] = {}
    file_of_area = np.zeros(len(areas), np.int64)
    names = zip(areas.device.tolist(), areas.inode.tolist(), areas.path, strict=True)
    for row, (device, inode, path) in enumerate(names):
        # Only areas without an inode ([vdso]) are distinguished by name.
        key = (device, inode, "" if inode else path)
        file_of_area[row] = files.setdefault(key, len(files) + 1)
    owner = np.where(
        has(flags, PageFlag.FILE),
        file_of_area[area],
        -1 - areas.process[area].astype(np.int64),
    )
    zero = has(flags, PageFlag.ZERO)
    owner = np.where(zero, 0, owner)
    unit_index = np.where(zero, 0, unit_index)
    # Each key fits one row of the sort; sorted input makes lexsort fast.
    order = np.lexsort((unit_index, unit, owner))
    new = np.ones(len(order), np.bool_)
    for column in (owner, unit, unit_index):
        if len(order):
            new[1:] &= column[order][1:] == column[order][:-1]
    new[1:] = ~new[1:]
    ids = np.empty(len(order), np.int64)
    ids[order] = np.cumsum(new) - 1
    return ids, unit[order][new]
