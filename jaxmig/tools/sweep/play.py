"""A sweep from its configurations to its rows, in windows of about a second.

A window is a number of consecutive configurations.  Calls in it that have not been made
yet run together if they share a compiled program; then the window's rows are priced and
returned.  The length of windows depends on this computer's speed, the rows do not.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final, cast

import numpy as np
from jaxtyping import Int64

from jaxmig import __version__
from jaxmig.linux.releases import release
from jaxmig.report import window
from jaxmig.time import machines
from jaxmig.time.cost import channels, folios_a_batch
from jaxmig.time.machines import Arch, Profile, sampling
from jaxmig.time.machines.terms import Policy, derived
from jaxmig.tools.sweep import rows
from jaxmig.tools.sweep.axes import Configuration, Grid
from jaxmig.tools.sweep.engine import CallRunner, CallTally, SweptCall, run_of
from jaxmig.tools.sweep.memory import Memory
from jaxmig.tools.sweep.pricing import MachineWeights, Price
from jaxmig.tools.sweep.program import SLOTS

WINDOW_S: Final = 1.0
KEPT: Final = 1_000  # calls whose counts are kept: points with the same call are near


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Everything that the rows depend on."""

    memory: Memory
    old: frozenset[int]
    new: frozenset[int]
    grid: Grid
    profiles: Mapping[str, Profile]  # by name, every machine of the grid
    samples: int | None = None
    seed: int = 0
    digest: str = ""  # of what the target was read from

    @functools.cached_property
    def indices(self) -> Sequence[int]:
        """Points of the grid, a row each, in order."""
        return self.grid.indices(self.samples, self.seed)

    @functools.cached_property
    def stamp(self) -> str:
        """The version of jaxmig, and a hash of everything that rows depend on."""
        said: dict[str, Any] = {
            "target": self.memory.target.name,
            "digest": self.digest,
            "pages": self.memory.target.pages,
            "assumed": self.memory.target.assumed,
            "nodes": [self.memory.nodes, sorted(self.old), sorted(self.new)],
            "running": [self.memory.everywhere, self.memory.given, self.memory.cpu],
            "axes": self.grid.axes,
            "samples": self.samples and [self.samples, self.seed],
            # A user's own profile may change while its name does not.
            "profiles": {n: machines.dumps(p) for n, p in self.profiles.items()},
        }
        text = json.dumps(said, sort_keys=True)
        return f"{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def play(
    sweep: Sweep, indices: Sequence[int], budget: int = 1
) -> Iterator[list[rows.Row]]:
    """Rows of these points in their order, in lists of about a second's work.

    Args:
      budget: calls of the first list; the last are as many as a second allows.
    Raises:
      SleepsForever: where Linux would wait for something that never ends.
    """
    player = Player(sweep)
    start = 0
    while start < len(indices):
        began = time.perf_counter()
        taken, made = player.window(indices, start, budget)
        yield made
        start += taken
        # Longer windows have less overhead, shorter ones show and save rows earlier.
        seconds = time.perf_counter() - began
        budget = max(1, min(SLOTS, round(budget * min(2.0, WINDOW_S / seconds))))


class Player:
    """Engine, prices, and the counts so far."""

    def __init__(self, sweep: Sweep) -> None:
        self.s = sweep
        self.engine = CallRunner(sweep.memory, sweep.old, sweep.new)
        self.tallies: dict[SweptCall, CallTally] = {}
        self._prices: dict[tuple[str, ...], MachineWeights] = {}
        self._last: tuple[SweptCall | None, dict[tuple[str, str], Price]] = (None, {})

    def window(
        self, indices: Sequence[int], start: int, budget: int
    ) -> tuple[int, list[rows.Row]]:
        """Rows of the points from `start` on, with at most `budget` new calls."""
        if len(self.tallies) > KEPT:
            self.tallies.clear()
        taken: list[Configuration] = []
        missing: dict[SweptCall, None] = {}
        end = start + budget * max(SLOTS, self.s.grid.prices)
        for index in indices[start:end]:
            c = self.s.grid.at(index)
            run = self._run(c)
            if run not in self.tallies and run not in missing:
                if len(missing) == budget:
                    break
                missing[run] = None
            taken.append(c)
        self._play(list(missing))
        return len(taken), [self._row(c) for c in taken]

    def play(
        self, wanted: Sequence[Configuration], tick: Callable[[int], None]
    ) -> list[rows.Row]:
        """Rows of any points; calls that share a program run together, SLOTS at a time.

        `tick` is told how many points more are there after each of these steps.
        """
        missing = dict.fromkeys(
            r for r in map(self._run, wanted) if r not in self.tallies
        )
        alike: dict[SweptCall, list[SweptCall]] = {}
        for run in missing:
            alike.setdefault(_shape(run), []).append(run)
        steps = [runs[i : i + SLOTS] for runs in alike.values()
                 for i in range(0, len(runs), SLOTS)]  # fmt: skip
        for i, step in enumerate(steps):
            self._play(step)
            tick((i + 1) * len(wanted) // len(steps) - i * len(wanted) // len(steps))
        # Points of one call follow one another: all their prices come out of one product.
        order = sorted(range(len(wanted)), key=lambda i: astuple(self._run(wanted[i])))
        made = {i: self._row(wanted[i]) for i in order}
        return [made[i] for i in range(len(wanted))]

    def stalls(self, config: Configuration, point: str) -> Int64[np.ndarray, " drawn"]:
        """The stall of a point that was played, on each machine drawn for the ranges.

        Args:
          config: the point.
          point: p50, p99 or most.
        Returns:
          ns, as `report.window.away` has them.
        """
        counts, row = self.tallies[self._run(config)].counts, release(config.kernel)
        profile = self.s.profiles[config.machine]
        copy = channels(config.copy, folios_a_batch(counts), row.offloads)
        policy: Policy = "batched" if row.batched else "serial"
        arch = cast(Arch, self._run(config).arch)
        every = derived(counts, profile)
        vector = np.asarray([every[name] for name in sampling.ROWS], np.float64)
        weights = sampling.places(profile, copy, policy, arch)
        folios, moved = counts["folios_moved"], counts["pgmigrate_success"]
        return window.on_each(
            {place: vector @ w for place, w in weights.items()},
            point,
            folios,
            counts["batches"],
            window.folios_a_batch(config.batch, folios, moved),
        )

    def _run(self, config: Configuration) -> SweptCall:
        return run_of(config, self.s.profiles[config.machine].arch)

    def _play(self, runs: list[SweptCall]) -> None:
        alike: dict[SweptCall, list[SweptCall]] = {}
        for run in runs:
            alike.setdefault(_shape(run), []).append(run)
        for group in alike.values():
            found = self.engine.tallies(group)
            self.tallies.update(zip(group, found, strict=True))

    def _row(self, config: Configuration) -> rows.Row:
        run = self._run(config)
        tally, memory = self.tallies[run], self.s.memory
        price = self._price(config, run)
        running = len(memory.running(config.cpus))
        return rows.row(
            config, tally, price, memory.target.pages, running, self.s.stamp
        )

    def _price(self, config: Configuration, run: SweptCall) -> Price:
        """The price of a call; one matrix product has those of all machines."""
        counts, row = self.tallies[run].counts, release(config.kernel)
        policy: Policy = "batched" if row.batched else "serial"
        folios = folios_a_batch(counts)
        if self._last[0] != run:
            copies = [channels(x, folios, row.offloads) for x in self.s.grid.copy]
            prices = self._weights(run.arch, policy, *dict.fromkeys(copies))
            self._last = run, prices.of(counts)
        return self._last[1][
            config.machine, channels(config.copy, folios, row.offloads)
        ]

    def _weights(self, arch: str, policy: Policy, *copies: str) -> MachineWeights:
        key = (arch, policy, *copies)
        if key not in self._prices:
            known = self.s.profiles
            # For kernels without INVLPGB such a machine is priced as one with IPIs.
            fitting = {
                (name, copy): known[name]
                for name in self.s.grid.machine
                for copy in copies
                if known[name].arch.removesuffix("-invlpgb" * (arch == "x86")) == arch
            }
            self._prices[key] = MachineWeights(fitting, policy, cast(Arch, arch))
        return self._prices[key]


def _shape(run: SweptCall) -> SweptCall:
    """What a run shares with those that its program can play with it."""
    return dataclasses.replace(run, cpus=0, batch=0)
