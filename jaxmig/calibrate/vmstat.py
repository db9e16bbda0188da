"""One migration's cost, from /proc/vmstat before and after it and the time it took.

Two files cannot tell the phases apart: the costs a page keep their proportions and are
scaled together, after the flushes that were counted are paid for at the base's price.
A kernel without CONFIG_DEBUG_TLBFLUSH counts no flush in /proc/vmstat: then the TLB row
of /proc/interrupts, in the same files, serves, or the release's own arithmetic.
"""

import re
from collections.abc import Mapping
from typing import Final

from jaxmig.calibrate.fit import CalibrationError, Measured, Tell
from jaxmig.calibrate.perf import Run
from jaxmig.machine import PMD_PAGES
from jaxmig.machines import Bound, Profile
from jaxmig.releases import release
from jaxmig.report.units import duration

MOVED: Final = "pgmigrate_success"
SENT, RECEIVED = "nr_tlb_remote_flush", "nr_tlb_remote_flush_received"
ROW: Final = "TLB"  # of /proc/interrupts, all CPUs together
ENDS: Final[tuple[Bound, Bound]] = ("low", "high")
# What a base page costs, each scaled alike; a part of another or of a later mapping too.
SOFTWARE: Final = ("alloc", "bookkeeping", "walk", "remap", "switch", "copy_4k")
ALSO: Final = ("move_check", "walk_next", "remap_next")
_TLB: Final = re.compile(r"^\s*TLB:((?:\s+\d+)+)", re.MULTILINE)


def parse(text: str) -> dict[str, int]:
    """Counters of /proc/vmstat, and the TLB row of /proc/interrupts if it is there.

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
    row = _TLB.search(text)
    if row:
        found[ROW] = sum(map(int, row[1].split()))
    return found


def from_vmstat(
    before: str,
    after: str,
    source: str,
    base: Profile,
    run: Run,
    tell: Tell = lambda line: None,
) -> list[Measured]:
    """What two files and the time between them tell.

    Args:
      run: its pages are not used, the files count them.
    Raises:
      CalibrationError: nothing moved between them, the flushes are unknown, or they
        alone take longer.
    """
    a, b = parse(before), parse(after)
    change = {name: b[name] - a[name] for name in b if name in a}
    pages = change[MOVED]
    if pages <= 0:
        raise CalibrationError(f"{MOVED} did not grow; is the order right?")
    huge = change.get("thp_migration_success", 0)
    folios, small = pages - huge * (PMD_PAGES - 1), pages - huge * PMD_PAGES
    flushes = _flushes(change, base, (folios, pages), run, tell)
    elapsed = run.elapsed_ns * (run.share or 1.0)
    left = elapsed - flushes - huge * base["cost.copy_2m"]
    each = {g: base[f"cost.{g}"] for g in SOFTWARE}
    usual = sum(each.values()) * folios - each["copy_4k"] * (folios - small)
    if left <= 0:
        raise CalibrationError(
            f"flushes and huge copies of {base.name} alone would take longer "
            f"than {duration(elapsed)}; give another --base"
        )
    factor = left / usual
    words = f"{pages:,} pages in {duration(elapsed)}; {factor:.3f} of {base.name}'s"
    # One figure says nothing of the parts: they may be off by as much as the base's.
    made = []
    for key in (f"cost.{g}" for g in (*SOFTWARE, *ALSO)):
        n = base.numbers.get(key)
        if n is not None:
            low, high = (n.at(end) * factor for end in ENDS)
            made.append(
                Measured(key, n.value * factor, f"{source}: {words}", low, high)
            )
    return made


def _flushes(
    change: Mapping[str, int],
    base: Profile,
    moved: tuple[int, int],
    run: Run,
    tell: Tell,
) -> float:
    """ns of the shootdowns between the files, at the base's price."""
    folios, _ = moved
    if base.arch == "arm64":
        return (base["cost.tlbi"] + base["cost.dsb"]) * folios
    if base.arch == "x86-invlpgb":
        return float(base["cost.broadcast"] * folios)
    requests, received = _counted(change, moved, run, tell)
    first, more = base["cost.flush_first"], base["cost.flush_next"]
    return first * requests + more * max(received - requests, 0)


def _counted(
    change: Mapping[str, int], moved: tuple[int, int], run: Run, tell: Tell
) -> tuple[int, int]:
    """Flush requests and interrupts: counted, said, or by arithmetic."""
    targets = run.targets or 1
    if run.flushes is not None:
        return run.flushes, run.flushes * targets
    if SENT in change:
        sent = change[SENT]
        return sent, change.get(RECEIVED, sent * targets)
    lacks = f"no {SENT} in both files (a kernel without CONFIG_DEBUG_TLBFLUSH)"
    if ROW in change:
        received = change[ROW]
        tell(
            f"{lacks}: the TLB row of /proc/interrupts counts {received:,} interrupts, "
            f"taken as flushes of {targets} CPU{'s' * (targets > 1)} each"
        )
        return received // targets, received
    if run.kernel is None:
        raise CalibrationError(
            f"{lacks}: flushes are unknown; give --flushes N, the --kernel for its "
            "arithmetic, or /proc/interrupts behind /proc/vmstat in both files"
        )
    folios, pages = moved
    batched = release(run.kernel).batched
    sent = -(-pages // (run.limit or pages)) if batched else folios
    tell(
        f"{lacks}: {sent:,} flushes of {targets} CPU each by {run.kernel}'s arithmetic"
    )
    return sent, sent * targets
