"""/proc/PID/pagemap: one little-endian 64-bit word per virtual page.

  63      62       61                  57       56         55          54 .. 0
  present swapped  file or shared anon uffd-wp  exclusive  soft-dirty  PFN

The PFN reads 0 without CAP_SYS_ADMIN. Since 6.7 the ioctl PAGEMAP_SCAN lists the populated
ranges, so that the holes of a huge area cost nothing. Without any privilege it also shows
pages that are mapped by a PMD and zero pages.

Source: Documentation/admin-guide/mm/pagemap.rst; pagemap_read() in fs/proc/task_mmu.c.
"""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs.columns import I64, U8, U64
from jaxmig.sources.procfs.errors import reading

PFN_MASK = np.uint64((1 << 55) - 1)
SOFT_DIRTY, EXCLUSIVE, UFFD_WP, FILE, SWAPPED, PRESENT = 55, 56, 57, 61, 62, 63

PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg), 12 words of 8 bytes
IS_PRESENT, IS_ZERO, IS_HUGE = 1 << 3, 1 << 5, 1 << 6
REGIONS = 4096  # ranges asked for in one call
CHUNK = 1 << 20  # words in one read: 8 MiB, 4 GiB of addresses
MERGE_GAP = 512  # words: to read so small a hole is cheaper than another call


@dataclasses.dataclass(frozen=True)
class Populated:
    """The resident pages of an area, in address order."""

    vpn: I64  # [n] virtual page numbers
    word: U64  # [n] pagemap words
    category: U8  # [n] IS_ZERO | IS_HUGE as scanned, 0 without the ioctl
    scanned: bool  # whether the ioctl answered


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file descriptor of pagemap; OSErrors inside become ProcErrors."""
    with reading(path):
        fd = os.open(path, os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)


def bit(words: U64, position: int) -> U64:
    """That bit of every word, as 0 or 1."""
    return (words >> np.uint64(position)) & np.uint64(1)


def pread_words(fd: int, first: int, count: int) -> U64:
    """`count` words from word `first` on; words beyond the file's end are 0."""
    return _read(fd, first, count)[0]


def _read(fd: int, first: int, count: int) -> tuple[U64, bool]:
    """As `pread_words`, and whether the file ended."""
    words = np.zeros(count, "<u8")
    view = words.data.cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], first * 8 + done)
        if got == 0:
            break
        done += got
    return words.astype(np.uint64, copy=False), done < len(view)


def scan(fd: int, start: int, end: int, page: int) -> tuple[I64, U8] | None:
    """Populated ranges of some addresses, by the ioctl PAGEMAP_SCAN.

    Args:
      fd: open pagemap file.
      start, end: bytes, the end exclusive.
      page: bytes of a base page.
    Returns:
      Ranges of page numbers, int64[k, 2], and their categories, uint8[k]; None if the
      kernel has no PAGEMAP_SCAN, or `fd` is a saved file.
    """
    try:
        import fcntl  # not on every system, and snapshots are read on all of them
    except ImportError:
        return None
    ranges: list[U64] = []
    vector = np.zeros((REGIONS, 3), np.uint64)
    out = vector.ctypes.data
    wanted = IS_PRESENT | IS_ZERO | IS_HUGE
    while start < end:
        # size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted,
        # mask (all of), anyof, returned
        argument = np.array(
            [96, 0, start, end, 0, out, REGIONS, 0, 0, IS_PRESENT, 0, wanted],
            np.uint64,
        )
        try:
            found = fcntl.ioctl(fd, PAGEMAP_SCAN, argument.data.cast("B"), True)
        except (OSError, ValueError):
            return None
        ranges.append(vector[:found].copy())
        if int(argument[4]) <= start:
            break
        start = int(argument[4])
    table = np.concatenate([*ranges, np.zeros((0, 3), np.uint64)])
    pages = (table[:, :2] // np.uint64(page)).astype(np.int64)
    return pages, table[:, 2].astype(np.uint8)


def merged(spans: I64) -> I64:
    """Sorted page ranges [k, 2] with the small gaps between them closed."""
    if len(spans) == 0:
        return spans
    new = np.flatnonzero(spans[1:, 0] - spans[:-1, 1] > MERGE_GAP) + 1
    first = np.concatenate([[0], new])
    last = np.concatenate([new - 1, [len(spans) - 1]])
    return np.stack([spans[first, 0], spans[last, 1]], axis=1)


def read_area(fd: int, start: int, end: int, page: int) -> Populated:
    """Resident pages of an area.

    Reads pagemap in chunks of 8 MiB and keeps only populated words, so that memory grows
    with the resident pages and not with the mapped ones.

    Args:
      fd: open pagemap file.
      start, end: bytes, the end exclusive.
      page: bytes of a base page.
    Returns:
      A row for each resident page.
    """
    found = scan(fd, start, end, page)
    if found is None:
        spans = np.array([[start // page, end // page]], np.int64)
    else:
        spans = merged(found[0])
    vpns, words = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for first, stop in spans.tolist():
        for at in range(first, stop, CHUNK):
            chunk, ended = _read(fd, at, min(CHUNK, stop - at))
            here = np.flatnonzero(chunk >> np.uint64(PRESENT))
            vpns.append(here + at)
            words.append(chunk[here])
            if ended:  # nothing is mapped beyond
                break
    vpn = np.concatenate(vpns)
    category = _categories(vpn, found)
    return Populated(vpn, np.concatenate(words), category, found is not None)


def _categories(vpn: I64, found: tuple[I64, U8] | None) -> U8:
    """Category of each page: that of the scanned range that holds it, else 0.

    A page that became resident between the scan and the read is in no range.
    """
    if found is None or len(found[0]) == 0:
        return np.zeros(len(vpn), np.uint8)
    spans, category = found
    at = np.searchsorted(spans[:, 0], vpn, side="right") - 1
    inside = (at >= 0) & (vpn < spans[at, 1])
    return np.where(inside, category[at], 0).astype(np.uint8)
