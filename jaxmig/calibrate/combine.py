"""Reports and timings together: which of them says what of a copy.

A report gives the copies of its own call; timings give copies of the same kind without
a migration.  A call that no cache holds has dearer copies: with both, the timed copy is
that of a call that fits, and what the report has on top is the pages' beyond the cache.
"""

from collections.abc import Sequence
from typing import Final

from jaxmig.calibrate.fit import Measured, Tell
from jaxmig.machines import Profile

COPY: Final = "cost.copy_4k"
# What a complete set of timings tells.
TIMED: Final = (
    *("cost.copy_2m", "cost.copy_first", "cost.copy_hot"),
    *("access.fault", "access.walk", "access.wake"),
    *("cost.flush_first", "cost.flush_next", "cost.flush_lazy"),
    *("cost.local_page", "cost.local_full", "target.page", "target.full"),
)


def combined(
    base: Profile,
    reported: Sequence[Measured],
    timed: Sequence[Measured],
    pages: int | None,
    tell: Tell,
) -> list[Measured]:
    """Everything measured; the first of each number counts.

    What timings could have told and did not, nor any report, is said.
    """
    seen = {m.key: m for m in reported}
    # A shootdown's own time is what timings are made for; reports only share it out.
    alone = [m for m in timed if m.key.startswith(("cost.flush", "target"))]
    rest = [m for m in timed if m not in alone]
    found = [*alone, *(m for m in reported if m.key != COPY), *rest]
    silent = [k for k in TIMED if k in base.numbers and k not in {m.key for m in found}]
    if timed and silent:
        tell(f"not measured, so the base's: {', '.join(silent)}")
    here, there = seen.get(COPY), next((m for m in timed if m.key == COPY), None)
    if here is None:
        return found
    half = int(base["machine.cache"]) // 2
    beyond = max((pages or 0) - half, 0) if half else 0
    if not beyond:
        return [here, *found]
    if there is None:
        tell(
            f"{pages:,} pages and their copies fit into no cache of {2 * half:,}: "
            "cost.copy_4k is such a copy, and nothing is added beyond the cache"
        )
        nothing = Measured("cost.copy_beyond", 0.0, f"{here.source}: in cost.copy_4k")
        return [here, nothing, *found]
    each = max(here.ns - there.ns, 0.0) * (pages or 0) / beyond
    words = f"{here.source}, less {there.ns:.0f} ns of {there.source}, beyond the cache"
    ends = [
        max((a or 0.0) - (b or 0.0), 0.0) * (pages or 0) / beyond
        for a, b in ((here.low, there.high), (here.high, there.low))
    ]
    return [there, Measured("cost.copy_beyond", each, words, *ends), *found]
