"""pmbench's random numbers: a 64-bit linear congruential generator, many at a time.

After k steps the state is a power of the multiplier times the first state plus a sum of
powers; both are tabulated, so that a block of numbers is one product and one sum.

Source: dk_random_next() in pattern.c of pmbench 0.9; the constants are Knuth's.
"""

from functools import lru_cache
from typing import Final

import numpy as np

MULTIPLIER: Final = 6364136223846793005
INCREMENT: Final = 1442695040888963407
BITS: Final = 64
RAND_MAX: Final = 2**31 - 1


@lru_cache(maxsize=8)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Multiplier and increment of 1 ... n steps at once."""
    a = np.empty(n, np.uint64)
    c = np.empty(n, np.uint64)
    a[0], c[0] = MULTIPLIER, INCREMENT
    done = 1
    while done < n:
        more = min(done, n - done)
        # k more steps after the first `done`: x -> a_k (a_done x + c_done) + c_k.
        a[done : done + more] = a[:more] * a[done - 1]
        c[done : done + more] = a[:more] * c[done - 1] + c[:more]
        done += more
    return a, c


def _after(second: tuple[int, int], first: tuple[int, int]) -> tuple[int, int]:
    """Multiplier and increment of two jumps made one after the other."""
    (a, c), (b, d) = second, first
    return a * b % 2**BITS, (a * d + c) % 2**BITS


class Lcg:
    """One generator of values of 31 bits."""

    def __init__(self, seed: int) -> None:
        self.state = np.uint64(seed)

    def skip(self, n: int) -> None:
        """Skip the next n values."""
        step, jump = (MULTIPLIER, INCREMENT), (1, 0)
        while n:
            if n & 1:
                jump = _after(step, jump)
            step = _after(step, step)
            n >>= 1
        self.state = np.uint64((jump[0] * int(self.state) + jump[1]) % 2**BITS)

    def next(self, n: int) -> np.ndarray:
        """int64[n], each from 0 to 2^31 - 1."""
        if n == 0:
            return np.zeros(0, np.int64)
        size = 1 << max(n - 1, 1).bit_length()
        a, c = (table[:n] for table in _powers(size))
        with np.errstate(over="ignore"):
            states = a * self.state + c
        self.state = states[-1]
        return (states >> np.uint64(33)).astype(np.int64)
