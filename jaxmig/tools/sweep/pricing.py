"""Counts times machine profiles: a matrix product for each profile of a sweep.

A column is a place in the code, on a machine with a copy engine.  Each is rounded before
they are added, so that the prices equal those of `cost.price`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float64

from jaxmig.time.cost import PHASES
from jaxmig.time.machines import Arch, Profile, ProfileError
from jaxmig.time.machines.sampling import ROWS, Ranges, ranges
from jaxmig.time.machines.terms import Policy, derived, terms

Name = tuple[str, str]  # of a machine and of a copy engine
# Of one cell, so that the sum of all stays within int64, as in result files.
MOST_NS: Final = 1 << 59


@dataclasses.dataclass(frozen=True)
class Price:
    """Modelled time of a call, whole ns; the phases sum to `total`."""

    total: int
    phases: dict[str, int]
    low: int
    high: int
    stolen: int
    places: dict[str, int]


@dataclasses.dataclass(frozen=True)
class _Block:
    """One machine: the cost of each counter at each place, and on sampled machines."""

    cells: tuple[tuple[str, str], ...]  # (phase, place)
    weights: Float64[np.ndarray, "counters cells"]
    ranges: Ranges


class MachineWeights:
    """The weights of several machines, by their name and copy engine."""

    def __init__(
        self, wanted: Mapping[tuple[str, str], Profile], policy: Policy, arch: Arch
    ) -> None:
        self.wanted, self.arch = dict(wanted), arch
        self._blocks: dict[Name, _Block] = {}
        for name, profile in self.wanted.items():
            priced = terms(profile, name[1], policy, arch, "value")
            cells = tuple(dict.fromkeys((t.phase, t.place) for t in priced))
            weights = np.zeros((len(ROWS), len(cells)))
            for t in priced:
                weights[ROWS.index(t.counter), cells.index((t.phase, t.place))] += t.ns
            drawn = ranges(profile, name[1], policy, arch)
            self._blocks[name] = _Block(cells, weights, drawn)

    def of(self, counts: Mapping[str, int]) -> dict[Name, Price]:
        """Price the counted events on each machine.

        Raises:
          ProfileError: a time that exceeds int64.
        """
        return {name: self._price(name, counts) for name in self.wanted}

    def _price(self, name: Name, counts: Mapping[str, int]) -> Price:
        counts = derived(counts, self.wanted[name])
        phases, places = dict.fromkeys(PHASES, 0), dict[str, int]()
        block = self._blocks[name]
        vector = np.asarray([counts[row] for row in ROWS], np.float64)
        exact = vector @ block.weights
        _within(float(np.abs(exact).max(initial=0.0)))
        ns = np.rint(exact).astype(np.int64)
        for (phase, place), cell in zip(block.cells, ns, strict=True):
            phases[phase] += int(cell)
            places[place] = places.get(place, 0) + int(cell)
        total, span = sum(phases.values()), block.ranges.of(counts)
        _within(span.high)
        return Price(
            total=total,
            phases=phases,
            low=min(span.low, total),
            high=max(span.high, total),
            stolen=_stolen(counts, self.wanted[name]) if self.arch == "x86" else 0,
            places=places,
        )


def _stolen(counts: Mapping[str, int], profile: Profile) -> int:
    """Handler time on all interrupted CPUs together, ns."""
    page, full = profile["target.page"], profile["target.full"]
    return round(_within(page * counts["ipis_immediate"] + full * counts["ipis_batch"]))


def _within(ns: float) -> float:
    """A time, checked to be short enough for result files.

    Raises:
      ProfileError: it is longer than about 18 years.
    """
    if not -MOST_NS < ns < MOST_NS:
        most = f"more than the {MOST_NS:.3g} that results hold"
        raise ProfileError(f"a modelled time of {ns:.3g} ns: {most}; lower the costs")
    return ns
