"""Sizes rounded up, so that a slightly different machine needs no new compilation."""

from typing import Final

STEPS: Final = 4  # buckets an octave: at most a quarter is padding
BASE_PAGES: Final = 1024  # the least room for base pages, entries and lists
LEAST_PAGES: Final = 16  # and on a node, however many nodes there are
FEW_NODES: Final = 16
LONG_LIST: Final = 1 << 17  # longer ones are padded less
LARGE: Final = 8  # the least room for folios of a larger order, and for their leaves


def bucket(n: int, least: int) -> int:
    """The smallest bucket that holds `n`, at least `least` (a power of two)."""
    if n <= least:
        return least
    step = max(1 << ((n - 1).bit_length() - 1), STEPS) // STEPS
    return -(-n // step) * step


def least_room(nodes: int, least: int = BASE_PAGES) -> int:
    """The least room for base pages on each of so many nodes.

    Of many nodes it is little each: a thousand with a thousand frames would hold 4 GiB
    of contents that nobody uses.
    """
    return max(least * FEW_NODES // max(nodes, FEW_NODES), LEAST_PAGES)


def coarse(n: int, least: int) -> int:
    """`least` times the smallest power of four for which that is not below `n`."""
    while least < n:
        least *= 4
    return least
