"""Streams of accesses for all threads, in blocks, each thread at its own pace."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from jaxmig.time.access import MM_SHIFT

LEAST: Final = 9  # binary logarithms: of a CPU's accesses,
TOGETHER: Final = 18  # and of all CPUs' together
# n -> (folios, words, stores) of a thread's next n accesses.
Draw = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


def block_for(cpus: int, each_ns: int = 1000) -> int:
    """Accesses of each CPU in a block: few bytes on any machine, many in all.

    Args:
      each_ns: what one of them may take at most; a block's times fit into 2^29 ns.
    """
    many = 1 << max(LEAST, TOGETHER - (cpus - 1).bit_length())
    return max(min(many, (1 << 29) // max(each_ns, 1)), 1)


class Streams:
    """Blocks of accesses; a thread keeps what it has not used yet.

    Args:
      draws: what each thread does next; CPUs beyond them do nothing.
    """

    def __init__(self, draws: Sequence[Draw], block: int, cpus: int) -> None:
        self.block, self._draws = block, draws
        self._ops = np.zeros((cpus, block, 2), np.int32)
        self._first = True
        self.stores: np.ndarray | None = None  # where counted: stores of each folio

    def count_stores(self, folios: int) -> None:
        """Count from now on the stores that each folio's contents must show."""
        self.stores = np.zeros(folios, np.int64)

    def next(self, used: np.ndarray) -> np.ndarray:
        """int32[cpus, block, 2] after `used[cpus]` accesses of the last block."""
        self._book(used)
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

    def _book(self, used: np.ndarray) -> None:
        if self.stores is None:
            return
        for i, n in enumerate(used.tolist()):
            ops = self._ops[i, :n]
            np.add.at(self.stores, ops[(ops[:, 1] & 1) == 1, 0], 1)

    def settle(self, used: np.ndarray) -> None:
        """Book the last block, of which no next one will be asked."""
        self._book(used)


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
