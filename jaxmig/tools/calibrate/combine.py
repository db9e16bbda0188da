"""Reports and timings together: which of them says what of a copy and of a shootdown.

A report gives the copies of its own calls; timings give copies of the same kind without
a migration.  A call that no cache holds has dearer copies: with both, the timed copy is
that of a call that fits, and what the report has on top is the pages' beyond the cache.

A shootdown of a report is that of its calls; what timings say of it shows in its range.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

from jaxmig.time.machines import Profile
from jaxmig.tools.calibrate.fit import Measured, Tell

COPY: Final = "cost.copy_4k"
BEYOND: Final = "cost.copy_beyond"
FIRST: Final = "cost.flush_first"
# What a complete set of timings tells.
TIMED: Final = (
    *("cost.copy_2m", "cost.copy_first", "cost.copy_hot"),
    *("access.fault", "access.walk", "access.wake"),
    *("cost.flush_first", "cost.flush_next", "cost.flush_lazy"),
    *("cost.local_page", "cost.local_full", "target.page", "target.full"),
)
APART: Final = 1.3  # times, of two figures of the same that is said


def combined(
    base: Profile,
    reported: Sequence[Measured],
    timed: Sequence[Measured],
    pages: int | None,
    tell: Tell,
    calls: int = 1,
) -> list[Measured]:
    """All measurements, the ones to use first.

    What timings could have told and did not, nor any report, is said.

    Args:
      pages: that the reports' calls moved.
      calls: that many of migrate_pages().
    """
    seen, alone = ({m.key: m for m in some} for some in (reported, timed))
    here, there = seen.get(COPY), alone.get(COPY)
    found = _copies(base, here, there, (pages or 0, calls), tell) if here else []
    if FIRST in seen and FIRST in alone:
        found.append(_shootdown(seen[FIRST], alone[FIRST], tell))
    found += [*(m for m in reported if m.key != COPY), *timed]
    silent = [k for k in TIMED if k in base.numbers and k not in {m.key for m in found}]
    if timed and silent:
        tell(f"not measured, so the base's: {', '.join(silent)}")
    return found


def _shootdown(here: Measured, there: Measured, tell: Tell) -> Measured:
    """The report's, with a range that holds the timed one."""
    more, less = max(here.ns, there.ns), min(here.ns, there.ns)
    if more > APART * less:
        tell(
            f"{FIRST} is {here.ns:,.0f} ns in the report, {there.ns:,.0f} ns by itself: "
            "are --flushes those of this run alone?"
        )
    ends = [end for m in (here, there) for end in (m.low, m.ns, m.high) if end]
    words = f"{here.source}; {there.ns:.0f} ns by {there.source}"
    return dataclasses.replace(here, source=words, low=min(ends), high=max(ends))


def _copies(
    base: Profile,
    here: Measured,
    there: Measured | None,
    run: tuple[int, int],
    tell: Tell,
) -> list[Measured]:
    """A page's copy, and what is more beyond the cache, from the report and timings."""
    pages, calls = run
    half = int(base["machine.cache"]) // 2
    beyond = max(pages - calls * half, 0) if half else 0
    if not beyond:
        return [here]
    if there is None or there.ns >= here.ns:
        why = "are no dearer than timed ones" if there else "fit into no cache"
        tell(
            f"copies of {pages:,} pages {why}: cost.copy_4k is the report's, and nothing "
            "is added beyond the cache"
        )
        return [here, Measured(BEYOND, 0.0, f"{here.source}: in cost.copy_4k")]
    each = (here.ns - there.ns) * pages / beyond
    words = f"{here.source}, less {there.ns:.0f} ns of {there.source}, beyond the cache"
    ends = [
        max((a or 0.0) - (b or 0.0), 0.0) * pages / beyond
        for a, b in ((here.low, there.high), (here.high, there.low))
    ]
    return [there, Measured(BEYOND, each, words, *ends)]
