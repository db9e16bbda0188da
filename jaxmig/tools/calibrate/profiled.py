"""The migration that was measured: its counts, what they cost, and what is inside what.

A measured time holds everything that the call did.  What has a price of its own there
(the calls themselves, a call's first copy, flushes) is taken off before the rest is
shared out by page, so that the profile gives the measured time back, and no more.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION
from jaxmig.state.machine import PMD_PAGES
from jaxmig.time.machines import Profile
from jaxmig.time.machines.terms import DERIVED, PRICED, derived, terms

EACH: Final = ("allocs", "tries", "moves", "folios_moved")  # a folio


@dataclasses.dataclass(frozen=True)
class ProfiledRun:
    """The migration that was measured.

    Attributes:
      pages: base pages that moved.
      elapsed_ns: of all that the percentages are of.
      flushes: that interrupted another CPU; None: as the release's arithmetic has it.
      targets: CPUs that one of them interrupted; None: not said.
      share: of `elapsed_ns` that migrate_pages() took; None: as the report tells.
      limit: base pages of a batch, 0: all.
      calls: of migrate_pages(); None: as the report's functions tell, or one.
      huge: THPs among the pages.
    """

    pages: int
    elapsed_ns: int
    kernel: str | None = None
    flushes: int | None = None
    targets: int | None = None
    share: float | None = None
    limit: int = NR_MAX_BATCHED_MIGRATION
    calls: int | None = None
    huge: int = 0

    @property
    def folios(self) -> int:
        """Base pages and THPs."""
        return self.pages - self.huge * (PMD_PAGES - 1)


def batches(run: ProfiledRun, calls: int) -> int:
    """Batches of so many calls of equal length."""
    limit = run.limit or run.pages
    return max(calls, -(-run.pages // limit))


def counts(
    run: ProfiledRun,
    calls: int,
    requests: tuple[int, int],
    batched: bool,
    local: int = 0,
) -> dict[str, int]:
    """What Linux counts in a run of which every folio moves at the first try.

    Args:
      requests: flush requests to other CPUs, and the interrupts they sent.
      batched: whether they are batches'; then every entry is left to them.
      local: flushes of one page on the migrating CPU; another process's need none.
    """
    sent, received = requests
    small = run.pages - run.huge * PMD_PAGES
    kind = "batch" if batched else "immediate"
    return dict.fromkeys((*PRICED, *DERIVED), 0) | {
        **dict.fromkeys(EACH, run.folios),
        "alloc_pages": run.pages,
        "pages_copied": small,
        "pages_copied_huge": run.pages - small,
        "ptes_cleared": small,
        "ptes_set": small,
        "pmds_cleared": run.huge,
        "pmds_set": run.huge,
        "ptes_deferred": small if batched and sent else 0,
        f"flushes_{kind}": sent,
        f"ipis_{kind}": received,
        "nr_tlb_local_flush_one": local,
        "calls": calls,
    }


def price(counted: dict[str, int], profile: Profile, batched: bool) -> float:
    """ns of what was counted."""
    policy = "batched" if batched else "serial"
    every = derived(counted, profile)
    priced = terms(profile, "cpu", policy, profile.arch, "value")
    return float(sum(every[term.counter] * term.ns for term in priced))


def apart(
    base: Profile, key: str, ns: float, pages: int, inside: Mapping[str, int]
) -> dict[str, float]:
    """A measured time of all pages as ns of one, less what else is inside it.

    That keeps the base's prices, unless they would be most of the time: then the time
    says more of them than of the pages, and all keep their proportions.

    Args:
      inside: costs that were measured with it, and how often.
    """
    more = sum(base[other] * often for other, often in inside.items())
    if 2 * more <= ns:
        return {key: (ns - more) / pages}
    factor = ns / (base[key] * pages + more)
    return {k: base[k] * factor for k in (key, *inside)}
