"""Stretches of a bar, one behind the other, and bars that several kernels share."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from jaxmig.show.html.model import Part

MOST_NAMED: Final = 4
T = TypeVar("T")


def alike(
    kernels: Iterable[str], items: Iterable[T], key: Callable[[T], Any]
) -> list[tuple[str, T]]:
    """Kernels of which all is the same, by one name, with the first of their items."""
    found: dict[Any, tuple[list[str], T]] = {}
    for kernel, item in zip(kernels, items, strict=True):
        found.setdefault(key(item), ([], item))[0].append(kernel)
    return [(named(kernels), item) for kernels, item in found.values()]


def named(kernels: Sequence[str]) -> str:
    """All of a few kernels, of many the first and the last."""
    if len(kernels) > MOST_NAMED:
        return f"{kernels[0]} ... {kernels[-1]}"
    return ", ".join(kernels)


def row(
    values: Sequence[float], longest: float, said: Sequence[str], colors: int = 8
) -> tuple[Part, ...]:
    """A bar of parts, one for each value that is not 0.

    Args:
      values: lengths, in any unit.
      longest: the length that is as wide as the figure.
      said: text of each value.
      colors: colours that the parts take in turn.
    Returns:
      Parts with places and widths in per cent of the figure.
    """
    parts, x = [], 0.0
    for i, (value, text) in enumerate(zip(values, said, strict=True)):
        width = 100 * value / (longest or 1)
        if value:
            parts.append(Part(rounded(x), rounded(width), text, value, i % colors))
        x += width
    return tuple(parts)


def rounded(percent: float) -> float:
    """As exact as a screen can show."""
    return round(percent, 4)
