"""Numbers of an axis, as written on a command line.

8             one value
1,8,64        a list
0:100:25      0, 25, 50, 75, 100
2:128:2x      2, 4, 8, ... 128
"""

import re
from collections.abc import Iterator
from typing import Final

MAX_VALUES: Final = 1_000_000  # of one axis
_RANGE: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})(x?)")
_NUMBER: Final = re.compile(r"[0-9]{1,10}")


class AxisError(ValueError):
    """An axis that cannot be read; one line that says what to write instead."""


def values(text: str, what: str, least: int, most: int) -> tuple[int, ...]:
    """The numbers of a list of numbers and ranges, each once, in the order written.

    Args:
      what: what the numbers are, for the error.
      least, most: limits of each number, both allowed.
    Returns:
      The numbers.
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
    # A factor of 1, a step of 0 and growth from 0 would never reach the end.
    if step < 1 + grows or value > end or (grows and value == 0):
        raise AxisError(f"{text!r}: a range that never gets from {value} to {end}")
    while value <= end:
        yield value
        value = value * step if grows else value + step
