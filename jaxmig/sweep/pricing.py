"""Counts times machine profiles: one matrix product for all profiles of a sweep.

A column is a place in the code on one machine with one copy engine; rounding each
before adding up gives exactly what `cost.price` gives.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import numpy as np
from jaxtyping import Float64

from jaxmig.cost import PHASES, PRICED
from jaxmig.machines import Arch, Bound, Profile, ProfileError
from jaxmig.machines.terms import Policy, terms

Name = tuple[str, str]  # of a machine and of a copy engine
# Of one cell, so that sums of all of them stay within int64, as result files keep them.
MOST_NS: Final = 1 << 59
BOUNDS: Final[tuple[Bound, ...]] = ("value", "low", "high")


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
    """Columns of one machine at one end of its ranges."""

    cells: tuple[tuple[str, str], ...]  # (phase, place)
    first: int


class Prices:
    """The weights of several machines, by their name and copy engine."""

    def __init__(
        self, wanted: Mapping[tuple[str, str], Profile], policy: Policy, arch: Arch
    ) -> None:
        self.wanted, self.arch = dict(wanted), arch
        columns: list[np.ndarray] = []
        self._blocks: dict[tuple[Name, Bound], _Block] = {}
        for name, profile in self.wanted.items():
            for bound in BOUNDS:
                priced = terms(profile, name[1], policy, arch, bound)
                cells = tuple(dict.fromkeys((t.phase, t.place) for t in priced))
                block = np.zeros((len(PRICED), len(cells)))
                for t in priced:
                    at = PRICED.index(t.counter), cells.index((t.phase, t.place))
                    block[at] += t.ns
                first = sum(c.shape[1] for c in columns)
                self._blocks[name, bound] = _Block(cells, first)
                columns.append(block)
        self.weights: Float64[np.ndarray, "counters cells"] = np.hstack(columns)

    def of(self, counts: Mapping[str, int]) -> dict[Name, Price]:
        """What the counted events cost on each machine.

        Raises:
          ProfileError: more than int64 holds.
        """
        vector = np.asarray([counts[name] for name in PRICED], np.float64)
        exact = vector @ self.weights
        _within(float(exact[np.abs(exact).argmax()]))
        ns = np.rint(exact).astype(np.int64)
        return {name: self._price(name, ns, counts) for name in self.wanted}

    def _price(self, name: Name, ns: np.ndarray, counts: Mapping[str, int]) -> Price:
        phases, places = dict.fromkeys(PHASES, 0), dict[str, int]()
        block = self._blocks[name, "value"]
        for (phase, place), cell in zip(block.cells, ns[block.first :], strict=False):
            phases[phase] += int(cell)
            places[place] = places.get(place, 0) + int(cell)
        low, high = (self._total(name, bound, ns) for bound in BOUNDS[1:])
        return Price(
            total=sum(phases.values()),
            phases=phases,
            low=low,
            high=high,
            stolen=_stolen(counts, self.wanted[name]) if self.arch == "x86" else 0,
            places=places,
        )

    def _total(self, name: Name, bound: Bound, ns: np.ndarray) -> int:
        block = self._blocks[name, bound]
        return int(ns[block.first : block.first + len(block.cells)].sum())


def _stolen(counts: Mapping[str, int], profile: Profile) -> int:
    """Handler time on all interrupted CPUs together, ns."""
    page, full = profile["target.page"], profile["target.full"]
    return round(_within(page * counts["ipis_immediate"] + full * counts["ipis_batch"]))


def _within(ns: float) -> float:
    """A time, if result files can hold it.

    Raises:
      ProfileError: it is beyond some 18 years.
    """
    if not -MOST_NS < ns < MOST_NS:
        raise ProfileError(f"a modelled time of {ns:.3g} ns is more than the {MOST_NS:.3g} "
                           "that results hold; lower the profile's costs")  # fmt: skip
    return ns
