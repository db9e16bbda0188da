"""Events times a machine profile is time: what a call costs the migrating CPU.

Everything is linear in the counters and in what `derived()` makes of those of a whole
call, so a table of counts is priced as one matrix product with `weights()`;
`machines/terms.py` says what each counter costs.  Some
weights are negative; no phase is, since lazy requests are requests, deferred entries
are entries and so on, and `price()` refuses counts that break such rules.

Where a phase's border is a matter of taste:
  flush  all TLB maintenance wherever Linux does it: shootdowns, local flushes, leaving
         an entry to the batch's flush, TLBI and DSB;
  other  an attempt's lock, isolation, LRU add and bookkeeping; mapping switch, flags
         and memcg of a folio moved; checks of references that failed; LRU drains.
Time that interrupted CPUs lose in their handlers is not the migrating CPU's: it is
`Cost.stolen` and in no phase.

Contention is in it where it was measured: a shootdown's time grows with the CPUs that
answer, and is a virtual machine's own.  Not modelled: contention of the memory bus and
of locks, frequency scaling, folio sizes between 4 KiB and 2 MiB (such folios are copied
at the 4 KiB price).
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

ENGINE: Final = "dma:"  # a copy engine as kernel batch-copy asks one
MAX_CHANNELS: Final = 16
# The first never exceeds the second, or the counts are not those of a call.
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
    the ranges of the profile's numbers; `causes` names the numbers that make most of it,
    with their shares.
    `stolen` is what all interrupted CPUs together spent in their handlers.  `places`
    has the total again by place in the code; `report.tree` draws the call tree from it.
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
    """What the counted events cost on the machine.

    Args:
      counts: every counter of `PRICED`; others are ignored.
      copy: "cpu", "threads:N" or "dma:N"; an engine copies a batch after its flush, so
        with the serial policy, which has no batch, the CPU copies whatever is asked.
      policy: whether there is a batch, for its gain, its copy and the call tree.
      arch: instead of the profile's, say "x86" for a kernel without INVLPGB.
      seed: of the machines that are drawn for the range.
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
    """The copy engine as the posted driver (dcbm) uses it: batch-copy's price.

    No more channels than a batch has folios, and 16 at most.  So 2 MiB folios, of which
    512 base pages make a batch, have one channel each.

    Args:
      offloads: whether the release asks the engine at all.
    """
    if not (offloads and copy.startswith(ENGINE)):
        return copy
    asked = int(copy.removeprefix(ENGINE))
    return f"{ENGINE}{max(min(asked, folios, MAX_CHANNELS), 1)}"


def folios_a_batch(counts: Mapping[str, int]) -> int:
    """Folios of a call's batch, on the average."""
    return counts["allocs"] // max(counts["batches"], 1)


def weights(
    profile: Profile,
    *,
    copy: str = "cpu",
    policy: Policy = "batched",
    arch: Arch | None = None,
) -> dict[str, dict[str, float]]:
    """Counter to phase to ns: `price()` as a matrix, every counter and phase present.

    Raises:
      ProfileError: a copy engine that the machine does not have.
    """
    table = {counter: dict.fromkeys(PHASES, 0.0) for counter in (*PRICED, *DERIVED)}
    for term in terms(profile, copy, policy, arch or profile.arch, "value"):
        table[term.counter][term.phase] += term.ns
    return table


def _stolen(counts: Mapping[str, int], profile: Profile) -> int:
    """Handler time on all interrupted CPUs together, ns."""
    # A PMD's immediate flush is a full one too; the counters do not tell it apart.
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
