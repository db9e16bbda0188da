"""/proc/kpageflags and /proc/kpagecount: one 64-bit word per page frame.

Source: bits from include/uapi/linux/kernel-page-flags.h and, from 32 on, the unstable
ones of include/linux/kernel-page-flags.h; stable_page_flags() in fs/proc/page.c.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs.columns import I8, I64, U32, U64, Bools, PageFlag
from jaxmig.sources.procfs.errors import SYS_ADMIN, reading
from jaxmig.sources.procfs.pagemap import bit, pread_words

LOCKED, UPTODATE, DIRTY, LRU, WRITEBACK, ANON = 0, 3, 4, 5, 8, 12
REFERENCED, SWAPCACHE, SWAPBACKED, HEAD, TAIL, HUGE = 2, 13, 14, 15, 16, 17
UNEVICTABLE, POISONED, KSM, ZERO_PAGE = 18, 19, 21, 24
MLOCKED, PRIVATE = 33, 35

BLOCK = 512  # frames: folios are aligned to their size, so none crosses a block
CHUNK_BLOCKS = 2048  # blocks held at once: 8 MiB of words

COPIED = (
    (LOCKED, PageFlag.LOCKED),
    (WRITEBACK, PageFlag.WRITEBACK),
    (SWAPCACHE, PageFlag.SWAPCACHE),
    (HUGE, PageFlag.HUGETLB),
    (UNEVICTABLE, PageFlag.UNEVICTABLE),
    (POISONED, PageFlag.POISONED),
    (KSM, PageFlag.KSM),
    (ZERO_PAGE, PageFlag.ZERO),
    (MLOCKED, PageFlag.MLOCKED),
    (PRIVATE, PageFlag.PRIVATE),
)


def read_counts(path: Path, pfns: I64) -> I64:
    """kpagecount of each frame, int64[n]: how many times it is mapped.

    Raises:
      PermissionDenied, ProcError: it cannot be read.
    """
    counts = np.zeros(len(pfns), np.int64)
    for rows, inside, words in _blocks(path, pfns):
        counts[rows] = words.ravel()[inside].astype(np.int64)
    return counts


def read_flags(path: Path, pfns: I64) -> tuple[U64, I8]:
    """kpageflags of each frame and the order of the folio it belongs to.

    A tail page has only a few bits on older kernels, so the bits of its head are added.

    Raises:
      PermissionDenied, ProcError: it cannot be read.
    """
    flags = np.zeros(len(pfns), np.uint64)
    orders = np.zeros(len(pfns), np.int8)
    for rows, inside, words in _blocks(path, pfns):
        head, order = _folios(words)
        flat = words.ravel()
        of_head = flat[head.ravel()[inside]]
        is_tail = bit(flat[inside], TAIL) == 1
        not_head = ~np.uint64(1 << HEAD)
        own = flat[inside]
        flags[rows] = np.where(is_tail, own | (of_head & not_head), own)
        orders[rows] = order.ravel()[inside]
    return flags, orders


def _folios(words: U64) -> tuple[I64, I8]:
    """Flat index of each frame's head, and its folio's order: both [blocks, BLOCK].

    A head is any frame that is no tail; its folio ends before the next head.
    """
    tail = bit(words, TAIL) == 1
    column = np.arange(BLOCK)
    head = np.maximum.accumulate(np.where(tail, 0, column), axis=1)
    head = head + BLOCK * np.arange(len(words))[:, None]
    size = np.bincount(head.ravel(), minlength=words.size)
    order = np.log2(np.maximum(size, 1)).astype(np.int8)
    return head, order[head]


def _blocks(path: Path, pfns: I64) -> Iterator[tuple[I64, I64, U64]]:
    """Yield (rows of pfns, their flat index in words, words[blocks, BLOCK])."""
    by_pfn = np.argsort(pfns, kind="stable")
    block = pfns[by_pfn] // BLOCK
    unique, row_block = np.unique(block, return_inverse=True)
    with reading(path, SYS_ADMIN):
        fd = os.open(path, os.O_RDONLY)
        try:
            for at in range(0, len(unique), CHUNK_BLOCKS):
                some = unique[at : at + CHUNK_BLOCKS]
                low, high = np.searchsorted(row_block, [at, at + len(some)])
                rows = by_pfn[low:high]
                inside = (row_block[low:high] - at) * BLOCK + pfns[rows] % BLOCK
                yield rows, inside, _read_blocks(fd, some)
        finally:
            os.close(fd)


def _read_blocks(fd: int, blocks: I64) -> U64:
    """Words of sorted blocks, [k, BLOCK]; neighbours in one read."""
    cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
    runs = np.split(blocks, cuts)
    parts = [pread_words(fd, int(r[0]) * BLOCK, len(r) * BLOCK) for r in runs]
    return np.concatenate(parts).reshape(len(blocks), BLOCK)


def page_flags(words: U64) -> U32:
    """The bits of PageFlag that follow from frames' kpageflags words.

    A new page is on a per-CPU list before it joins the LRU, and migration drains those
    lists first.  So a page that is up to date counts as on the LRU; a driver's page is
    neither up to date nor on the LRU.
    """
    flags = np.zeros(len(words), np.uint32)
    for position, flag in COPIED:
        flags |= bit(words, position).astype(np.uint32) * np.uint32(flag.value)
    off = bit(words, LRU) | bit(words, UPTODATE) | bit(words, HUGE)
    off |= bit(words, ZERO_PAGE)
    return flags | np.where(off == 0, np.uint32(PageFlag.OFF_LRU.value), np.uint32(0))


def is_shmem(words: U64) -> Bools:
    """Whether pages are swap-backed but not anonymous: shmem, whatever their path."""
    shmem: Bools = (bit(words, SWAPBACKED) == 1) & (bit(words, ANON) == 0)
    return shmem
