"""From measured ns to a profile."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Final

from jaxmig.time.machines import SCHEMA, Number, Profile, required

Tell = Callable[[str], None]
# Parts and wholes: the first must not be larger than the second.
PARTS: Final = (("cost.move_check", "cost.switch"),)


class CalibrationError(ValueError):
    """A measurement that cannot be used; one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One number of a profile as it was measured, ns.

    `low` and `high` bound it; both are None where the measurement does not say.
    """

    key: str
    ns: float
    source: str
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """The profile, and the keys of the numbers that were fitted, in order."""

    profile: Profile
    keys: tuple[str, ...]


def together(several: Sequence[Sequence[Measured]]) -> list[Measured]:
    """Several measurements of the same numbers: medians, with the range of them all.

    A single measurement keeps its own range.
    """
    by_key: dict[str, list[Measured]] = {}
    for m in (m for measured in several for m in measured):
        by_key.setdefault(m.key, []).append(m)
    return [_one(found) for found in by_key.values()]


def _one(found: list[Measured]) -> Measured:
    if len(found) == 1:
        return found[0]
    ends = [end for m in found for end in (m.low, m.ns, m.high) if end is not None]
    words = f"{found[0].source}; median of {len(found)}"
    middle = statistics.median(m.ns for m in found)
    return Measured(found[0].key, middle, words, min(ends), max(ends))


def fit(base: Profile, measured: Iterable[Measured], title: str) -> Fit:
    """The base profile with the measured numbers; nothing else is changed.

    The first measurement of a number counts.  A part is reduced if its whole was measured
    smaller (see PARTS).

    Raises:
      CalibrationError: nothing that could be used was measured.
    """
    numbers, fitted = dict(base.numbers), dict[str, None]()
    known = required(base.arch)
    for m in measured:
        if m.key not in fitted and m.key in known:
            numbers[m.key] = number(m.ns, m, SCHEMA[m.key].unit)
            fitted[m.key] = None
    if not fitted:
        raise CalibrationError("nothing was measured that a profile has a number for")
    for part, whole in PARTS:
        numbers[part] = _within(numbers[part], numbers[whole])
    made = dataclasses.replace(
        base, title=title, numbers=MappingProxyType(numbers), name="calibrated"
    )
    return Fit(made, tuple(fitted))


def _within(part: Number, whole: Number) -> Number:
    ends = [
        min(part.at(b), whole.at("low" if whole.low is not None else "value"))
        for b in ("low", "value", "high")
    ]
    if part.low is None:
        return dataclasses.replace(part, value=ends[1])
    return dataclasses.replace(part, low=ends[0], value=ends[1], high=ends[2])


def number(ns: float, m: Measured, unit: str) -> Number:
    """A fitted number with its range, in significant digits."""
    value, source = _digits(ns), f"measured, {m.source}"
    if m.low is None or m.high is None or not m.ns:
        return Number(value, unit, source)
    low, high = (_digits(ns * end / m.ns) for end in (m.low, m.high))
    # Rounding must not push the value out of its range.
    return Number(value, unit, source, min(low, value), max(high, value))


def _digits(ns: float) -> int | float:
    """Four digits; whole ns from 1,000 on."""
    if ns <= 0:
        return 0
    places = 3 - math.floor(math.log10(ns))
    short = round(ns, places)
    return int(short) if short == int(short) else short
