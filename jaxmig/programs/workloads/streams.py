"""Streams of accesses for all threads in blocks, of which each uses what it can."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from jaxmig.time.access import MM_SHIFT

LEAST: Final = 9  # binary logarithms: of a CPU's accesses,
TOGETHER: Final = 18  # and of all CPUs' together
# n -> (folios, words, stores) of a thread's next n accesses.
Draw = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def block_for(cpus: int, each_ns: int = 1000) -> int:
    """Accesses of each CPU in a block: as many as keep all CPUs' streams small.

    Args:
      each_ns: the longest that one access may take; a block must end within 2^29 ns.
    """
    many = 1 << max(LEAST, TOGETHER - (cpus - 1).bit_length())
    return max(min(many, (1 << 29) // max(each_ns, 1)), 1)


class Streams:
    """Blocks of accesses; a thread keeps those that it has not used yet.

    Args:
      draws: for each thread, a function that gives its next accesses; further CPUs
        have none.
      block: accesses of each CPU in a block.
    """

    def __init__(self, draws: Sequence[Draw], block: int, cpus: int) -> None:
        self.block, self._draws = block, draws
        self._ops = np.zeros((cpus, block, 2), np.int32)
        self._first = True

    def next(self, used: np.ndarray) -> np.ndarray:
        """int32[cpus, block, 2] after `used[cpus]` accesses of the last block."""
        for i, draw in enumerate(self._draws):
            n = self.block if self._first else int(used[i])
            if n == 0:
                continue
            if n < self.block:
                self._ops[i, : self.block - n] = self._ops[i, n:].copy()
            folio, word, store = draw(n)
            self._ops[i, self.block - n :, 0] = folio
            self._ops[i, self.block - n :, 1] = (word << 1) | store
        self._first = False
        return self._ops


def fixed(ops: np.ndarray) -> Draw:
    """A thread that repeats a list of (folio, word, store) for ever."""
    at = 0

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal at
        rows = ops[(at + np.arange(n)) % len(ops)]
        at += n
        return rows[:, 0], rows[:, 1], rows[:, 2]

    return draw


__all__ = ["MM_SHIFT", "Draw", "Streams", "block_for", "fixed"]
