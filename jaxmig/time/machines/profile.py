"""A machine's numbers, each with its unit, range and source.

A `Profile` is data and arithmetic on data; it opens no file.  It can be read with the
numbers themselves, with all at their cheap end, and with all at their dear end.  A call's
modelled time grows with every number but `cost.batch_gain`, so these two ends bound it.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from jaxmig.host.refused import Refused
from jaxmig.time.machines.schema import LATER, required

Arch = Literal["x86", "x86-invlpgb", "arm64"]
Bound = Literal["value", "low", "high"]
ASSUMED = "assumed"
MEASURED = "measured"
Origin = Literal["measured", "published", "assumed"]


class ProfileError(Refused, ValueError):
    """A machine profile that cannot be used: file, key and what to do, in one line."""


@dataclasses.dataclass(frozen=True)
class Number:
    """One number of a profile.

    `unit` is fixed by the key (ns, CPUs, nodes, sets, ways); `low` and `high` bound the
    number in the same unit and are both None where the source gives a single figure.
    """

    value: int | float
    unit: str
    source: str
    low: int | float | None = None
    high: int | float | None = None

    @property
    def assumed(self) -> bool:
        """Whether the number has no published source."""
        return self.source.startswith(ASSUMED)

    @property
    def origin(self) -> Origin:
        """Whether it was measured for jaxmig, published by others, or assumed."""
        if self.assumed:
            return "assumed"
        return "measured" if self.source.startswith(MEASURED) else "published"

    def at(self, bound: Bound) -> int | float:
        """The number itself, or one end of its range (itself where it has none)."""
        if bound == "value" or self.low is None or self.high is None:
            return self.value
        return self.low if bound == "low" else self.high


@dataclasses.dataclass(frozen=True)
class RateTable:
    """Published end-to-end migration rates of a copy engine, GB/s by number of workers.

    The published rates are of whole move_pages() calls.  The speed-up of the copy alone
    follows from them and from the copy's share of the call without the engine.
    """

    baseline: float  # GB/s, the same call with the CPU copy
    copy_share: float  # of the baseline call's time
    rates: tuple[tuple[int, float], ...]  # (workers, GB/s), workers ascending
    unit: str
    source: str

    def copy_speedup(self, rate: float) -> float:
        """How many times faster the copy alone is at the end-to-end `rate`, GB/s."""
        rest = (1.0 - self.copy_share) / self.baseline
        return self.copy_share / self.baseline / (1.0 / rate - rest)

    def speedup(self, workers: int) -> float:
        """The copy's speed-up with `workers`, interpolated between the measured counts.

        Linear in log2(workers) between two neighbours, because doubling is what gains;
        the largest count's speed-up beyond it, because the curves flatten there.

        Raises:
          ProfileError: fewer workers than the smallest measured count.
        """
        counts = [n for n, _ in self.rates]
        gains = [self.copy_speedup(rate) for _, rate in self.rates]
        if workers < counts[0]:
            # Scaling down would invent a figure: a lone channel can lose to the CPU.
            raise ProfileError(
                f"copy: {workers} workers: measured only from {counts[0]} up; "
                f"use one of {', '.join(map(str, counts))}"
            )
        if workers >= counts[-1]:
            return gains[-1]
        i = bisect_right(counts, workers)
        span = math.log2(counts[i] / counts[i - 1])
        part = math.log2(workers / counts[i - 1]) / span
        return gains[i - 1] + part * (gains[i] - gains[i - 1])

    def whose(self, workers: int) -> str:
        """Which published rates the speed-up of so many workers is from."""
        counts = [n for n, _ in self.rates]
        if workers in counts:
            return f"at the rate published for {workers}"
        if workers > counts[-1]:
            return f"at the rate published for {counts[-1]}, the most"
        i = bisect_right(counts, workers)
        return f"between the rates published for {counts[i - 1]} and {counts[i]}"


@dataclasses.dataclass(frozen=True)
class Engine:
    """A copy engine; a table is None if that size of folio was not measured."""

    name: str  # "threads" or "dma"
    small: RateTable | None  # 4 KiB folios; used for every folio below PMD size
    huge: RateTable | None  # 2 MiB folios


@dataclasses.dataclass(frozen=True)
class Profile:
    """A machine: its shape, its TLBs and what each event costs it.

    `numbers` is keyed "section.name"; `profile["cost.alloc"]` is a value.  Frequency
    scaling is not modelled: `dvfs` is always False and stands for that statement.
    """

    name: str
    title: str
    arch: Arch
    numbers: Mapping[str, Number]
    engines: Mapping[str, Engine]
    dvfs: bool = False

    def __hash__(self) -> int:
        # Mappings do not hash; price() caches by profile.
        return hash((self.name, self.arch, tuple(sorted(self.values().items()))))

    def __getitem__(self, key: str) -> int | float:
        if key in self.numbers or key not in LATER:
            return self.numbers[key].value
        other = LATER[key]
        return self.numbers[other].value if other else 0

    @property
    def absent(self) -> tuple[str, ...]:
        """Keys that its file leaves out because it is older; they add no cost."""
        return tuple(k for k in LATER if k in required(self.arch) - self.numbers.keys())

    @property
    def cpus(self) -> int:
        """CPUs of the whole machine."""
        return int(self["machine.cpus"])

    @property
    def nodes(self) -> int:
        """Memory nodes."""
        return int(self["machine.nodes"])

    @property
    def running(self) -> int:
        """CPUs that run the target unless workload or user choose others."""
        return int(self["machine.running"])

    @property
    def tlb(self) -> tuple[int, int]:
        """(sets, ways) of the 4 KiB TLB of each CPU."""
        return int(self["tlb.sets"]), int(self["tlb.ways"])

    @property
    def tlb_huge(self) -> tuple[int, int]:
        """(sets, ways) of the 2 MiB TLB of each CPU."""
        return int(self["tlb.huge_sets"]), int(self["tlb.huge_ways"])

    def values(self, section: str = "") -> dict[str, int | float]:
        """Key to value, of one section or of all."""
        items = self.numbers.items()
        return {k: n.value for k, n in items if k.startswith(section)}

    def origins(self, section: str = "") -> dict[Origin, int]:
        """How many numbers of a section, or of all, have each origin."""
        found: dict[Origin, int] = {"measured": 0, "published": 0, "assumed": 0}
        for key, number in self.numbers.items():
            if key.startswith(section):
                found[number.origin] += 1
        return found

    def at(self, bound: Bound) -> "Profile":
        """The profile at the cheap ("low") or dear ("high") end of every range."""
        opposite: dict[Bound, Bound] = {"low": "high", "high": "low", "value": "value"}

        def end(key: str, number: Number) -> Number:
            # A gain saves time, so the cheap machine has the largest.
            side = opposite[bound] if key == "cost.batch_gain" else bound
            return dataclasses.replace(number, value=number.at(side))

        numbers = {key: end(key, number) for key, number in self.numbers.items()}
        return dataclasses.replace(self, numbers=MappingProxyType(numbers))

    def replace(
        self, values: Mapping[str, int | float], source: str = "given by the user"
    ) -> "Profile":
        """The profile with other values, each without a range and with this `source`.

        Raises:
          ProfileError: a key that the profile does not have, or a negative value.
        """
        numbers = dict(self.numbers)
        for key, value in values.items():
            if key not in numbers:
                raise ProfileError(
                    f"{self.name}: {key}: no such number; see `machines`"
                )
            if not value >= 0:
                raise ProfileError(f"{self.name}: {key}: {value}: give a number >= 0")
            numbers[key] = Number(value, numbers[key].unit, source)
        return dataclasses.replace(self, numbers=MappingProxyType(numbers))

    def copy_assumed(self, copy: str) -> str:
        """What is assumed about the speed of a copy engine, in words; "" for the CPU.

        Args:
          copy: as for `copy_speedups`, which it has passed.
        """
        if copy == "cpu":
            return ""
        name, _, workers = copy.partition(":")
        engine, parts = self.engines[name], []
        for what, table in (
            ("folios below 2 MiB as 4 KiB pages,", engine.small),
            ("2 MiB folios", engine.huge),
        ):
            none = "at the CPU's rate, as none is published"
            parts.append(f"{what} {table.whose(int(workers)) if table else none}")
        return f"{copy} copies {'; '.join(parts)} (jaxmig machines {self.name})"

    def copy_speedups(self, copy: str) -> tuple[float, float]:
        """How many times faster than the CPU `copy` copies (4 KiB, 2 MiB) folios.

        Args:
          copy: "cpu", "threads:N" or "dma:N".
        Raises:
          ProfileError: not one of these, or an engine or worker count never measured.
        """
        if copy == "cpu":
            return 1.0, 1.0
        name, _, workers = copy.partition(":")
        # isascii too: isdigit() alone lets superscripts through to int().
        if not (workers.isascii() and workers.isdigit() and int(workers)):
            raise ProfileError(f"copy: {copy!r}: use cpu, threads:N or dma:N, N >= 1")
        if name not in self.engines:
            known = ", ".join(f"{engine}:N" for engine in self.engines) or "cpu only"
            raise ProfileError(f"copy: {copy!r}: {self.name} has {known}; use that")
        engine, n = self.engines[name], int(workers)
        # A size that was not measured keeps the CPU's price.
        small = engine.small.speedup(n) if engine.small else 1.0
        huge = engine.huge.speedup(n) if engine.huge else 1.0
        return small, huge
