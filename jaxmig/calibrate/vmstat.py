"""One migration's cost, from /proc/vmstat before and after it and the time it took.

Two files cannot tell the phases apart: the costs a page keep their proportions and are
scaled together, after the flushes that were counted are paid for at the base's price.
"""

from collections.abc import Mapping
from typing import Final

from jaxmig.calibrate.fit import GROUPS, SOFTWARE, CalibrationError, Measured, expected
from jaxmig.machine import PMD_PAGES
from jaxmig.machines import Bound, Profile
from jaxmig.report.units import duration

MOVED: Final = "pgmigrate_success"
ENDS: Final[tuple[Bound, Bound]] = ("low", "high")


def parse(text: str) -> dict[str, int]:
    """Counters of /proc/vmstat.

    Raises:
      CalibrationError: no such file.
    """
    found = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    if MOVED not in found:
        raise CalibrationError(f"no {MOVED} in it; give two copies of /proc/vmstat")
    return found


def from_vmstat(
    before: str, after: str, source: str, base: Profile, elapsed_ns: int, running: int
) -> list[Measured]:
    """What two files and `elapsed_ns` between them tell.

    Args:
      running: CPUs that a shootdown interrupts, where the files do not count them.
    Raises:
      CalibrationError: nothing moved between them, or the flushes alone take longer.
    """
    a, b = parse(before), parse(after)
    change = {name: b[name] - a.get(name, 0) for name in b}
    pages = change[MOVED]
    if pages <= 0:
        raise CalibrationError(f"{MOVED} did not grow; is the order right?")
    huge = change.get("thp_migration_success", 0)
    left = elapsed_ns - _flushes(change, base, pages, huge, running)
    left -= huge * base["cost.copy_2m"]
    folios, small = pages - huge * (PMD_PAGES - 1), pages - huge * PMD_PAGES
    each = {g: expected(base, g, running) for g in SOFTWARE}
    usual = sum(each.values()) * folios - each["copy"] * (folios - small)
    if left <= 0:
        raise CalibrationError(
            f"flushes and huge copies of {base.name} alone would take longer "
            f"than {duration(elapsed_ns)}; give another --base"
        )
    factor = left / usual
    words = f"{pages:,} pages in {duration(elapsed_ns)}; {factor:.3f} of {base.name}'s"
    # One figure says nothing of the parts: they may be off by as much as the base's.
    made = []
    for group in SOFTWARE:
        n = base.numbers[GROUPS[group][0]]
        low, high = (n.at(end) * factor for end in ENDS)
        source_line = f"{source}: {words}"
        made.append(Measured(group, n.value * factor, source_line, low, high))
    return made


def _flushes(
    change: Mapping[str, int], base: Profile, pages: int, huge: int, running: int
) -> float:
    """ns of the shootdowns between the files, at the base's price."""
    one = expected(base, "flush", running)
    if base.arch != "x86":
        return one * (pages - huge * (PMD_PAGES - 1))
    requests = change.get("nr_tlb_remote_flush", 0)
    received = change.get("nr_tlb_remote_flush_received", requests * running)
    first, more = base["cost.flush_first"], base["cost.flush_next"]
    return first * requests + more * max(received - requests, 0)
