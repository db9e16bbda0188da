"""The uncertainty of a total: a profile's numbers are sampled from their ranges.

No machine has all numbers at their low or all at their high end.  So `SAMPLES` machines
are drawn.  A number's range has nine in ten of its draws, and numbers of one kind
(software, copies, flushes) share half of their variance, since a faster CPU, or one
measurement for several numbers, changes them together.  The range of a total has the
middle 80 % of the machines.

A cause is a number that changes the total by itself, from the tenth percentile of its own
range to the ninetieth; its share is that of its change's square in the sum of all squares.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from jaxtyping import Float64

from jaxmig.time.machines.profile import Arch, Number, Profile
from jaxmig.time.machines.terms import DERIVED, PRICED, Policy, build

SAMPLES: Final = 2048
TOGETHER: Final = 0.5  # of the variance, shared by numbers of one kind
NINE_IN_TEN: Final = 1.645  # standard deviations
EIGHT_IN_TEN: Final = 1.282
ROWS: Final = (*PRICED, *DERIVED)
_KINDS: Final = {"copy": "copy", "flush": "flush", "local": "flush", "defer": "flush"}


@dataclasses.dataclass(frozen=True)
class Range:
    """The middle 80 % of a total in ns, its median, and (number, share) of its causes."""

    low: int
    median: int
    high: int
    causes: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A profile whose numbers are arrays, with an element for each machine."""

    profile: Profile
    arrays: Mapping[str, Float64[np.ndarray, " machines"]]

    @property
    def name(self) -> str:
        """The profile's name."""
        return self.profile.name

    def __getitem__(self, key: str) -> Any:
        return self.arrays[key] if key in self.arrays else self.profile[key]

    def copy_speedups(self, copy: str) -> tuple[float, float]:
        """The profile's speed-ups, as published rates have no range."""
        return self.profile.copy_speedups(copy)


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The cost of each counter on the drawn machines, then on those for the causes."""

    weights: Float64[np.ndarray, "counters machines"]
    keys: tuple[str, ...]

    def of(self, counts: Mapping[str, int]) -> Range:
        """The range of the total of these counts, which include `DERIVED`."""
        vector = np.asarray([counts[name] for name in ROWS], np.float64)
        totals = vector @ self.weights
        low, median, high = np.quantile(totals[:SAMPLES], (0.1, 0.5, 0.9))
        cheap, dear = totals[SAMPLES:].reshape(2, -1)
        squares = (dear - cheap) ** 2
        shares = squares / (squares.sum() or 1.0)
        most = np.argsort(-shares, kind="stable")[:3]
        causes = [(self.keys[i], float(shares[i])) for i in most if shares[i] > 0]
        return Range(round(low), round(median), round(high), tuple(causes))


def is_ranged(profile: Profile) -> bool:
    """Whether any cost has a range."""
    return bool(_keys(profile))


@lru_cache(maxsize=64)
def ranges(
    profile: Profile, copy: str, policy: Policy, arch: Arch, seed: int = 0
) -> Ranges:
    """The weights of drawn machines.

    Args:
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      seed: equal seeds draw equal machines.
    Returns:
      ns of each counter on each machine.
    Raises:
      ProfileError: as `terms`.
    """
    keys = _keys(profile)
    drawn = Drawn(profile, _arrays(profile, keys, seed))
    weights = np.zeros((len(ROWS), SAMPLES + 2 * len(keys)))
    for term in build(drawn, copy, policy, arch):
        weights[ROWS.index(term.counter)] += term.ns
    return Ranges(weights, keys)


@lru_cache(maxsize=8)  # some 6 MB each
def places(
    profile: Profile, copy: str, policy: Policy, arch: Arch, seed: int = 0
) -> dict[str, Float64[np.ndarray, "counters machines"]]:
    """The cost of each counter on the drawn machines, by place in the code.

    Args:
      copy, policy, arch, seed: as for `ranges`, which draws the same machines.
    Returns:
      ns, a row for each of `ROWS`.
    Raises:
      ProfileError: as `terms`.
    """
    keys = _keys(profile)
    drawn, made = Drawn(profile, _arrays(profile, keys, seed)), SAMPLES + 2 * len(keys)
    found: dict[str, Float64[np.ndarray, "counters machines"]] = {}
    for term in build(drawn, copy, policy, arch):
        at = found.setdefault(term.place, np.zeros((len(ROWS), SAMPLES)))
        at[ROWS.index(term.counter)] += np.broadcast_to(term.ns, made)[:SAMPLES]
    return found


def _keys(profile: Profile) -> tuple[str, ...]:
    numbers = profile.numbers.items()
    return tuple(k for k, n in numbers if k.startswith("cost.") and n.low is not None)


def _arrays(
    profile: Profile, keys: tuple[str, ...], seed: int
) -> dict[str, Float64[np.ndarray, " machines"]]:
    def normal(name: str) -> Float64[np.ndarray, " machines"]:
        # Seeded by name, so that a number's draws do not depend on other numbers.
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        half = rng.standard_normal(SAMPLES // 2)
        return np.concatenate([half, -half])  # antithetic: the mean is exactly 0

    shared = {kind: normal(kind) for kind in ("software", "copy", "flush")}
    arrays = {}
    for i, key in enumerate(keys):
        z = np.zeros(SAMPLES + 2 * len(keys))
        kind = _KINDS.get(key.removeprefix("cost.").partition("_")[0], "software")
        own = normal(key)
        z[:SAMPLES] = TOGETHER**0.5 * shared[kind] + (1 - TOGETHER) ** 0.5 * own
        z[SAMPLES + i], z[SAMPLES + len(keys) + i] = -EIGHT_IN_TEN, EIGHT_IN_TEN
        arrays[key] = _at(profile.numbers[key], z / NINE_IN_TEN)
    # A part never exceeds its whole (`reader._check_together`).
    for part, whole in (("cost.move_check", "cost.switch"),):
        if part in arrays:
            limit = arrays[whole] if whole in arrays else profile[whole]
            arrays[part] = np.minimum(arrays[part], limit)
    return arrays


def _at(
    number: Number, times: Float64[np.ndarray, " machines"]
) -> Float64[np.ndarray, " machines"]:
    """The number at -1 (low) .. 0 (itself) .. 1 (high), geometrically if above 0."""
    low, value, high = (float(number.at(b)) for b in ("low", "value", "high"))
    times = np.clip(times, -1.0, 1.0)
    if low <= 0:
        return np.where(
            times < 0, value + times * (value - low), value + times * (high - value)
        )
    return value * np.where(times < 0, (low / value) ** -times, (high / value) ** times)
