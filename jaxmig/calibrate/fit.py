"""From measured ns to a profile."""

import dataclasses
import math
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from jaxmig.machines import Number, Profile

# Shares of a call's time that a measurement can tell, and the numbers behind each.
GROUPS: Final = {
    "alloc": ("cost.alloc",),
    "bookkeeping": ("cost.bookkeeping",),
    "walk": ("cost.walk",),
    "remap": ("cost.remap",),
    # The reference check is part of the switch and keeps its share of it.
    "switch": ("cost.switch", "cost.move_check"),
    "copy": ("cost.copy_4k",),
}
SOFTWARE: Final = ("alloc", "bookkeeping", "walk", "remap", "switch", "copy")


class CalibrationError(ValueError):
    """A measurement that cannot be used; one line that says what to do."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """One figure: ns of a group, or of one number of a profile.

    `low` and `high` bound it; both are None where the measurement does not say.
    """

    group: str
    ns: float
    source: str
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """The profile, and which of its numbers were fitted, in order."""

    profile: Profile
    keys: tuple[str, ...]


def flush_keys(profile: Profile) -> tuple[str, ...]:
    """The numbers of one shootdown that is waited for."""
    return {
        "x86": ("cost.flush_first", "cost.flush_next"),
        "x86-invlpgb": ("cost.broadcast", "cost.broadcast_all"),
        "arm64": ("cost.tlbi", "cost.dsb"),
    }[profile.arch]


def expected(profile: Profile, group: str, running: int) -> float:
    """ns of a group in the base, a page or a shootdown of `running` other CPUs."""
    if group != "flush":
        return float(profile[GROUPS[group][0]])
    first, second = flush_keys(profile)
    if profile.arch == "x86":
        return profile[first] + profile[second] * (running - 1)
    broadcast = profile.arch == "x86-invlpgb"
    return float(profile[first] if broadcast else profile[first] + profile[second])


def fit(
    base: Profile, measured: Iterable[Measured], title: str, running: int = 1
) -> Fit:
    """The base with the measured numbers in their place.

    Args:
      running: CPUs that a measured shootdown interrupted.
    Raises:
      CalibrationError: nothing that could be used was measured.
    """
    numbers, fitted = dict(base.numbers), dict[str, None]()
    for m in measured:
        keys = flush_keys(base) if m.group == "flush" else GROUPS.get(m.group)
        if keys is None:
            numbers[m.group] = number(m.ns, m, base.numbers[m.group].unit)
            fitted[m.group] = None
            continue
        before = expected(base, m.group, running)
        for key in keys:
            old = base.numbers[key]
            # A base of nothing has no proportions to keep.
            ns = old.value * m.ns / before if before else m.ns / len(keys)
            numbers[key] = number(ns, m, old.unit)
            fitted[key] = None
    if not fitted:
        raise CalibrationError("nothing was measured that a profile has a number for")
    made = dataclasses.replace(
        base, title=title, numbers=MappingProxyType(numbers), name="calibrated"
    )
    return Fit(made, tuple(fitted))


def number(ns: float, m: Measured, unit: str) -> Number:
    """A fitted number with its range, in as many digits as mean anything."""
    value = _digits(ns)
    if m.low is None or m.high is None or not m.ns:
        return Number(value, unit, m.source)
    low, high = (_digits(ns * end / m.ns) for end in (m.low, m.high))
    # Rounding must not push the value out of its range.
    return Number(value, unit, m.source, min(low, value), max(high, value))


def _digits(ns: float) -> int | float:
    """Four digits; whole ns from 1,000 on."""
    if ns <= 0:
        return 0
    places = 3 - math.floor(math.log10(ns))
    short = round(ns, places)
    return int(short) if short == int(short) else short
