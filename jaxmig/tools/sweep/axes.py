"""The axes of a sweep, the grid that they span, and samples of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One point of a grid.

    The last two fields change only the price (except for batch-copy, which uses a copy
    engine), the three before them only the call.  So points that share a machine and a
    compiled program are neighbours in a grid.
    """

    thp: int  # percent of the memory in 2 MiB pages
    kernel: str
    mode: str
    cpus: int
    batch: int  # base pages; 0: no limit
    machine: str
    copy: str


AXES: Final = tuple(f.name for f in dataclasses.fields(Configuration))
PRICED_ONLY: Final = ("machine", "copy")


@dataclasses.dataclass(frozen=True)
class Grid:
    """The product of the axes, in the order of the fields of `Configuration`."""

    thp: tuple[int, ...]
    kernel: tuple[str, ...]
    mode: tuple[str, ...]
    cpus: tuple[int, ...]
    batch: tuple[int, ...]
    machine: tuple[str, ...]
    copy: tuple[str, ...]

    def __len__(self) -> int:
        return math.prod(len(axis) for axis in self.axes.values())

    @property
    def axes(self) -> dict[str, tuple[Any, ...]]:
        """The values of each axis, by name."""
        return {name: getattr(self, name) for name in AXES}

    @property
    def prices(self) -> int:
        """How many neighbouring points are the same call at different prices."""
        return math.prod(len(getattr(self, name)) for name in PRICED_ONLY)

    def at(self, index: int) -> Configuration:
        """Point number `index`; the last axis changes fastest."""
        chosen: dict[str, Any] = {}
        for name in reversed(AXES):
            axis = getattr(self, name)
            index, digit = divmod(index, len(axis))
            chosen[name] = axis[digit]
        return Configuration(**chosen)

    def indices(self, samples: int | None, seed: int) -> Sequence[int]:
        """All points, or `samples` of them drawn without repetition, ascending."""
        if samples is None or samples >= len(self):
            return range(len(self))
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(self), samples, replace=False, shuffle=False)
        return [int(i) for i in np.sort(drawn)]

    def share(self, indices: Sequence[int], process: int, processes: int) -> list[int]:
        """The points of one of several processes: it takes every n-th call with its prices.

        Neighbours take about equally long, so that all processes get equal work.

        Args:
          indices: all points.
          process: its number, from 0 on.
          processes: how many there are.
        """
        return [i for i in indices if i // self.prices % processes == process]
