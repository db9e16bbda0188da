"""The modelled time of a call on the migrating CPU: counters times a machine profile.

The time is linear in the counters and in the numbers that `derived()` computes from a
whole call's, so a table of counts is priced as one matrix product with `weights()`.  The
cost of each counter is in `machines/terms.py`.  Some weights are negative, but no phase
is: a lazy request is also a request, a deferred entry also an entry and so on, and
`price()` refuses counts that break such rules.

Phases whose limits are not obvious:
  flush  all TLB maintenance wherever Linux does it: shootdowns, local flushes, leaving
         an entry to the batch's flush, TLBI and DSB;
  other  an attempt's lock, isolation, LRU add and bookkeeping; mapping switch, flags
         and memcg of a folio moved; checks of references that failed; LRU drains.
Time that interrupted CPUs lose in their handlers is in `Cost.stolen` and in no phase.

Contention is modelled where it was measured: a shootdown's time grows with the CPUs that
answer, and virtual machines have their own profiles.  Not modelled: contention of the
memory bus and of locks, frequency scaling, folio sizes between 4 KiB and 2 MiB (such
folios are copied at the 4 KiB price).
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from jaxmig.time.machines import Arch, Profile
from jaxmig.time.machines.sampling import is_ranged, ranges
from jaxmig.time.machines.terms import (
    DERIVED,
    PHASES,
    PRICED,
    Policy,
    Term,
    derived,
    terms,
)

__all__ = ["PHASES", "PRICED", "Cost", "Policy", "Term", "derived", "price", "terms"]
__all__ += ["weights"]

ENGINE: Final = "dma:"  # the copy engine that kernel batch-copy uses
MAX_CHANNELS: Final = 16
# In counts of a call the first never exceeds the second.
_ORDER: Final = (
    ("flushes_immediate_lazy", "flushes_immediate"),
    ("flushes_batch_lazy", "flushes_batch"),
    ("ptes_deferred", "ptes_cleared"),
    ("folios_moved", "moves"),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Modelled time of a call, whole ns; the six phases sum to `total` exactly.

    `low` and `high` are the 80 % range of the total and `median` its middle, sampled from
    the ranges of the profile's numbers; `causes` are the numbers that contribute most to
    the range, with their shares.  `stolen` is the time that all interrupted CPUs together
    spent in handlers.  `places` has the total by place in the code; `report.tree` draws
    the call tree from it.
    """

    total: int
    alloc: int
    unmap: int
    flush: int
    copy: int
    remap: int
    other: int
    low: int
    high: int
    stolen: int
    places: Mapping[str, int]
    policy: Policy
    median: int = 0
    causes: tuple[tuple[str, float], ...] = ()
    ranged: bool = True  # whether any cost of the profile has a range

    @property
    def time_ns(self) -> dict[str, int]:
        """Total and phases, as result records hold them."""
        return {name: getattr(self, name) for name in ("total", *PHASES)}

    @property
    def time_ns_range(self) -> list[int] | None:
        """[low, high], the 80 % range; None where the profile has no ranges."""
        return [self.low, self.high] if self.ranged else None


def price(
    counts: Mapping[str, int],
    profile: Profile,
    *,
    copy: str = "cpu",
    policy: Policy = "batched",
    arch: Arch | None = None,
    seed: int = 0,
) -> Cost:
    """Price the counted events of a call on a machine.

    Args:
      counts: every counter of `PRICED`; others are ignored.
      copy: "cpu", "threads:N" or "dma:N".  An engine copies a batch after its flush; with
        the serial policy, which has no batches, the CPU always copies.
      policy: "batched" or "serial", for the batch's gain, its copy and the call tree.
      arch: instead of the profile's, as "x86" for a kernel without INVLPGB.
      seed: of the machines that are drawn for the range.
    Returns:
      Whole ns by phase and place, with the range.
    Raises:
      ValueError: a counter missing or negative, or counts that contradict each other.
      ProfileError: a copy engine that the machine does not have.
    """
    arch = arch or profile.arch
    _check(counts, arch)
    counts = derived(counts, profile)
    cells = _cells(counts, terms(profile, copy, policy, arch, "value"))
    phases = dict.fromkeys(PHASES, 0)
    for (phase, _), ns in cells.items():
        phases[phase] += ns
    total = sum(phases.values())
    span = ranges(profile, copy, policy, arch, seed).of(counts)
    return Cost(
        total=total,
        **phases,
        low=min(span.low, total),
        high=max(span.high, total),
        median=span.median,
        causes=span.causes,
        stolen=_stolen(counts, profile) if arch == "x86" else 0,
        places=_by_place(cells),
        policy=policy,
        ranged=is_ranged(profile),
    )


def channels(copy: str, folios: int, offloads: bool) -> str:
    """The copy engine with the channels that the posted driver (dcbm) uses.

    It uses no more channels than a batch has folios, and 16 at most.  So a 2 MiB folio,
    which is a whole batch, has one channel.

    Args:
      folios: of a batch.
      offloads: whether the release uses the engine at all.
    """
    if not (offloads and copy.startswith(ENGINE)):
        return copy
    asked = int(copy.removeprefix(ENGINE))
    return f"{ENGINE}{max(min(asked, folios, MAX_CHANNELS), 1)}"


def folios_a_batch(counts: Mapping[str, int]) -> int:
    """Mean folios of a batch of the call."""
    return counts["allocs"] // max(counts["batches"], 1)


def weights(
    profile: Profile,
    *,
    copy: str = "cpu",
    policy: Policy = "batched",
    arch: Arch | None = None,
) -> dict[str, dict[str, float]]:
    """`price()` as a matrix, in which every counter and phase is present.

    Args:
      copy, policy, arch: as for `price`.
    Returns:
      From counter to phase to ns for each event.
    Raises:
      ProfileError: a copy engine that the machine does not have.
    """
    table = {counter: dict.fromkeys(PHASES, 0.0) for counter in (*PRICED, *DERIVED)}
    for term in terms(profile, copy, policy, arch or profile.arch, "value"):
        table[term.counter][term.phase] += term.ns
    return table


def _stolen(counts: Mapping[str, int], profile: Profile) -> int:
    """Handler time on all interrupted CPUs together, ns."""
    # A PMD's immediate flush is a full one too, which the counters do not distinguish.
    page, full = profile["target.page"], profile["target.full"]
    return round(page * counts["ipis_immediate"] + full * counts["ipis_batch"])


def _check(counts: Mapping[str, int], arch: Arch) -> None:
    for name in PRICED:
        if name not in counts:
            raise ValueError(
                f"counts lack {name!r}: start with dict.fromkeys(PRICED, 0)"
            )
        if counts[name] < 0:
            raise ValueError(f"{name} is {counts[name]}: counts are never negative")
    for part, whole in _ORDER:
        if counts[part] > counts[whole]:
            raise ValueError(f"{part} {counts[part]} exceeds {whole} {counts[whole]}")
    if arch == "x86":
        for kind in ("immediate", "batch"):
            lazy, ipis = counts[f"flushes_{kind}_lazy"], counts[f"ipis_{kind}"]
            if ipis < counts[f"flushes_{kind}"] - lazy:
                raise ValueError(f"ipis_{kind} {ipis}: fewer than requests sending any")


def _cells(
    counts: Mapping[str, int], priced: tuple[Term, ...]
) -> dict[tuple[str, str], int]:
    """Whole ns by phase and place; phases and tree are sums of these, so they agree."""
    exact: dict[tuple[str, str], float] = {}
    for term in priced:
        cell = (term.phase, term.place)
        exact[cell] = exact.get(cell, 0) + counts[term.counter] * term.ns
    return {cell: round(ns) for cell, ns in exact.items()}


def _by_place(cells: Mapping[tuple[str, str], int]) -> dict[str, int]:
    places: dict[str, int] = {}
    for (_, place), ns in cells.items():
        places[place] = places.get(place, 0) + ns
    return places
