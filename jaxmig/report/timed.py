"""A call in modelled time: the rows of its log, each with the time that it took.

The log has the counters that the cost model prices, so every row has a price in each
phase.  Prices are rounded so that a call's rows sum exactly to its record's `time_ns`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Int64

from jaxmig.report.records import Record
from jaxmig.state import log
from jaxmig.state.events import LOGGED
from jaxmig.time import cost as cost_model
from jaxmig.time.cost import PHASES, Cost
from jaxmig.time.machines import Arch, Profile

PAGE_SHIFT: Final = 12
PMD_PAGES: Final = 512
CALLER_PID: Final = 1000  # made up: the model has no PIDs
FIRST_PID: Final = 1001
Task = tuple[str, int]  # comm, pid


class PageRange(Protocol):
    """Consecutive pages with consecutive entries."""

    @property
    def start(self) -> int: ...
    @property
    def pages(self) -> int: ...
    @property
    def first_pte(self) -> int: ...
    @property
    def first_pmd(self) -> int: ...


class Addresses:
    """From the number of an entry to the address that it maps."""

    def __init__(self, areas: Iterable[PageRange]) -> None:
        spans = []
        for a in areas:
            spans.append((a.first_pte, a.pages, a.start, 1))
            if a.first_pmd >= 0:
                leaves = -(-a.pages // PMD_PAGES)
                spans.append((a.first_pmd, leaves, a.start, PMD_PAGES))
        table = np.asarray(sorted(spans), np.int64).reshape(-1, 4)
        self.first, self.size, self.vpn, self.step = table.T

    def address(self, entry: Any) -> Int64[np.ndarray, " entries"]:
        """Addresses of entries, bytes; 0 for entries of other processes."""
        entry = np.asarray(entry, np.int64)
        if not len(self.first):
            return np.zeros_like(entry)
        i = np.maximum(np.searchsorted(self.first, entry, side="right") - 1, 0)
        offset = entry - self.first[i]
        known = (offset >= 0) & (offset < self.size[i])
        vpn = self.vpn[i] + offset * self.step[i]
        return np.where(known, vpn << PAGE_SHIFT, 0)


@dataclasses.dataclass(frozen=True)
class Traced:
    """One record with everything that traces of it need.

    Attributes:
      weights: of `cost.weights()`: counter to phase to ns.
      handler_ns: ns that an interrupted CPU loses: for one page, for a batch.
      tasks: the task that each CPU runs; on `cpu` the one that migrates.
      counts_splits: whether the release prints nr_split.
      full: nodes without a free page after the call.
    """

    title: str
    record: Record
    cost: Cost
    calls: Sequence[log.Written]
    cpu: int
    weights: Mapping[str, Mapping[str, float]]
    handler_ns: tuple[float, float]
    places: Addresses
    tasks: Sequence[Task]
    counts_splits: bool
    full: Sequence[int] = ()

    @staticmethod
    def of(
        profile: Profile,
        cost: Cost,
        record: Record,
        *,
        copy: str,
        arch: Arch,
        **fields: Any,
    ) -> "Traced":
        """A traced record with the weights that `cost` was made with.

        Args:
          profile: of the machine.
          copy: the copy engine that was priced.
          arch: that was priced, which may differ from the profile's.
          fields: the other attributes.
        Returns:
          The record with everything that traces need.
        """
        weights = cost_model.weights(profile, copy=copy, policy=cost.policy, arch=arch)
        # arm64 broadcasts flushes without interrupts: its profiles have no such cost.
        handler = (0.0, 0.0)
        if arch != "arm64":
            handler = (float(profile["target.page"]), float(profile["target.full"]))
        return Traced(
            record=record, cost=cost, weights=weights, handler_ns=handler, **fields
        )

    @property
    def rows(self) -> np.ndarray:
        """The rows of all lists of the call."""
        none = np.zeros((0, log.COLUMNS), np.int32)
        return np.concatenate([none, *(c.rows for c in self.calls)])

    def spent(self) -> Int64[np.ndarray, "rows phases"]:
        """ns of each row in each phase; columns sum to the record's `time_ns`."""
        rows = self.rows
        spent = np.zeros((len(rows), len(PHASES)), np.int64)
        counted = np.flatnonzero(rows[:, 0] == log.COUNT)
        if not len(counted):
            return spent
        sums = _prices(rows[counted], self.weights).cumsum(axis=0)
        # Some rows have negative prices; time must still never go backwards.
        sums = np.minimum.accumulate(sums[::-1])[::-1].clip(0)
        for i, phase in enumerate(PHASES):
            total, last = getattr(self.cost, phase), sums[-1, i]
            column = np.rint(sums[:, i] * (total / last if last else 0))
            column[-1] = total
            spent[counted, i] = np.diff(column, prepend=0)
        return spent


def tasks(
    cpus: int, loaded: Sequence[int], names: Mapping[int, Task], cpu: int, caller: str
) -> list[Task]:
    """The task that each CPU runs: the process that it has loaded, or its idle task.

    Args:
      cpus: how many.
      loaded: the address space that each CPU has loaded; a number not in `names` is none.
      names: name and PID of each address space's process.
      cpu: the CPU that migrates, which runs `caller` if it has no process loaded.
      caller: name of the task that migrates.
    Returns:
      Name and PID for each CPU, names cut as in the kernel.
    """
    found: list[Task] = [("swapper/" + str(c), 0) for c in range(cpus)]
    for c, mm in enumerate(loaded):
        if mm in names:
            found[c] = names[mm]
    if found[cpu][1] == 0:
        found[cpu] = (caller, CALLER_PID)
    return [(comm[:15], pid) for comm, pid in found]


def flush_of(rows: np.ndarray) -> Int64[np.ndarray, " rows"]:
    """Index of the flush request that each row follows."""
    index = np.where(rows[:, 0] == log.FLUSH, np.arange(len(rows)), 0)
    return np.maximum.accumulate(index)


def _prices(rows: np.ndarray, weights: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    """The price of each COUNT row in each phase, ns."""
    exact = np.zeros((len(rows), len(PHASES)))
    _, ones, many, amount = rows.T[:4]
    for i, name in enumerate(LOGGED):
        price = [weights.get(name, {}).get(phase, 0.0) for phase in PHASES]
        if any(price):
            count = (ones >> i & 1) + (many >> i & 1) * amount.astype(np.int64)
            exact += count[:, None] * np.asarray(price)
    return exact
