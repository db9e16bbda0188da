"""What is varied: axes, the grid they span, and a sample of it.

8             one value
1,8,64        a list
0:100:25      0, 25, 50, 75, 100
2:128:2x      2, 4, 8, ... 128
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

MAX_VALUES: Final = 1_000_000  # of one axis
_RANGE: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})(x?)")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")


class AxisError(ValueError):
    """An axis that cannot be read; one line that says what to write instead."""


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One point of a grid.

    The last two change the price alone (but for batch-copy, which asks a copy engine), the
    three before them only the call; so points that share a machine and a compilation
    follow one another in a grid.
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


def values(text: str, what: str, least: int, most: int) -> tuple[int, ...]:
    """The numbers of a list of numbers and ranges, each once, as written.

    Raises:
      AxisError: not such a list, or a number outside `least` ... `most`.
    """
    found: dict[int, None] = {}
    for part in text.split(","):
        for value in _part(part, what):
            if not least <= value <= most:
                raise AxisError(f"{text!r}: give {what} from {least} to {most}")
            found[value] = None
            if len(found) > MAX_VALUES:
                raise AxisError(f"{text!r}: more than {MAX_VALUES:,} values")
    return tuple(found)


def _part(text: str, what: str) -> Iterator[int]:
    if _NUMBER.fullmatch(text):
        yield int(text)
        return
    found = _RANGE.fullmatch(text)
    if not found:
        raise AxisError(
            f"{text!r}: give {what} as numbers, A:B:STEP or A:B:2x, with commas"
        )
    value, end, step = (int(g) for g in found.groups()[:3])
    grows = found[4] == "x"
    # A factor of 1, a step of 0 and growth from 0 would never arrive.
    if step < 1 + grows or value > end or (grows and value == 0):
        raise AxisError(f"{text!r}: a range that never gets from {value} to {end}")
    while value <= end:
        yield value
        value = value * step if grows else value + step


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
        """Values by name of the axis."""
        return {name: getattr(self, name) for name in AXES}

    @property
    def prices(self) -> int:
        """Neighbours that are the same call on other machines."""
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

    def share(self, indices: Sequence[int], process: int, of: int) -> list[int]:
        """Which points a process takes: every so-many-th call with all of its prices.

        Neighbours cost about the same, so dealing them out one by one is fair.
        """
        return [i for i in indices if i // self.prices % of == process]
