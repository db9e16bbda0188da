"""pmbench's patterns: the order in which n pages are accessed.

Each is an object with `next(count)`; floats are doubles, as in the original.

Source: pattern.c of pmbench 0.9.
"""

import math
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from jaxmig.programs.workloads.lcg import RAND_MAX, Lcg

ORDER: Final = 12  # draws a number of normal_ih
SOME: Final = 1 << 16


class Pattern(Protocol):
    """Page numbers, one after the other."""

    warmup: int  # accesses that warm the memory up

    def next(self, count: int) -> np.ndarray:
        """int64[count], each from 0 to n - 1."""

    def skip(self, count: int) -> None:
        """Leave out the next `count` pages."""


class Linear:
    """0, s, 2s, ...; each pass starts one page later, until s passes are done."""

    def __init__(self, n: int, shape: float, seed: int) -> None:
        self.warmup = n
        stride = max(int(shape), 1)
        starts = range(min(stride, n))
        self._round = np.concatenate([np.arange(p, n, stride) for p in starts])
        self._at = 0

    def next(self, count: int) -> np.ndarray:
        """The next `count` pages."""
        at = (self._at + np.arange(count)) % len(self._round)
        self._at = (self._at + count) % len(self._round)
        return self._round[at]

    def skip(self, count: int) -> None:
        """Leave out the next `count` pages."""
        self._at = (self._at + count) % len(self._round)


class Uniform:
    """Every page equally likely."""

    def __init__(self, n: int, shape: float, seed: int) -> None:
        self.n, self.warmup = n, 4 * n
        self._random = Lcg(seed + 2)

    def next(self, count: int) -> np.ndarray:
        """The next `count` pages."""
        return self._random.next(count) % self.n

    def skip(self, count: int) -> None:
        """Leave out the next `count` pages."""
        self._random.skip(count)


class _Buffered:
    """A pattern that rejects draws: made in blocks, returned as many as are wanted."""

    def __init__(self) -> None:
        self._ready = np.zeros(0, np.int64)

    def next(self, count: int) -> np.ndarray:
        """The next `count` pages."""
        parts, have = [self._ready], len(self._ready)
        while have < count:
            parts.append(self._more(count - have))
            have += len(parts[-1])
        pages = np.concatenate(parts)
        self._ready = pages[count:]
        return pages[:count]

    def skip(self, count: int) -> None:
        """Skip the next `count` pages, which must be drawn: some draws are rejected."""
        for start in range(0, count, SOME):
            self.next(min(SOME, count - start))

    def _more(self, least: int) -> np.ndarray:
        raise NotImplementedError


class Normal(_Buffered):
    """Box-Muller in polar form around n/2; a value outside 0 ... n - 1 becomes n/2."""

    def __init__(self, n: int, shape: float, seed: int) -> None:
        super().__init__()
        self.n, self.warmup, self.stdev = n, n, int(shape)
        self._random = Lcg(seed + 5)

    def _more(self, least: int) -> np.ndarray:
        u = self._random.next(2 * (least + 16)).reshape(-1, 2) / RAND_MAX
        x = 2.0 * u - 1.0
        w = x[:, 0] * x[:, 0] + x[:, 1] * x[:, 1]
        keep = (w < 1.0) & (w > 0.0)
        x, w = x[keep], w[keep]
        scale = np.sqrt((-2.0 * np.log(w)) / w)
        y = x * scale[:, None] * self.stdev + self.n // 2
        inside = (y > -1.0) & (y < self.n)
        return np.where(inside, np.trunc(y), self.n // 2).astype(np.int64).reshape(-1)


class NormalIh(_Buffered):
    """The mean of 12 draws (Irwin-Hall), shifted to the middle."""

    def __init__(self, n: int, shape: float, seed: int) -> None:
        super().__init__()
        self.last = self.warmup = n - 1
        self.range = ORDER * ((self.last + ORDER // 2 - 1) // ORDER)
        # C divides towards zero, and as unsigned long: a negative half wraps.
        self.shift = int((self.last - self.range) / 2)
        self._random = Lcg(seed + 3)

    def _more(self, least: int) -> np.ndarray:
        draws = self._random.next(ORDER * (least + 1)).reshape(-1, ORDER)
        pages = (draws % max(self.range, 1)).sum(1) // ORDER + self.shift
        return pages[(pages >= 0) & (pages <= self.last)]


class Pareto:
    """Bounded Pareto on 1 ... n; low pages most often."""

    def __init__(self, n: int, shape: float, seed: int) -> None:
        self.warmup = 8 * n
        self.part = 1.0 - math.pow(1.0 / n, shape)
        self.power = -1.0 / shape
        self._random = Lcg(seed + 8)

    def next(self, count: int) -> np.ndarray:
        """The next `count` pages."""
        u = (self._random.next(count) % RAND_MAX) / RAND_MAX
        return np.power(1.0 - u * self.part, self.power).astype(np.int64) - 1

    def skip(self, count: int) -> None:
        """Leave out the next `count` pages."""
        self._random.skip(count)


PATTERNS: Final[dict[str, Callable[[int, float, int], Pattern]]] = {
    "linear": Linear,
    "uniform": Uniform,
    "normal": Normal,
    "normal_ih": NormalIh,
    "pareto": Pareto,
    "zipf": Pareto,
}
