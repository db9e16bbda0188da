"""One migration's cost, from /proc/vmstat before and after it and the time it took.

Two files cannot tell the phases apart: the costs a page keep their proportions and are
scaled together, after the flushes that were counted are paid for at the base's price.
A kernel without CONFIG_DEBUG_TLBFLUSH counts no flush in /proc/vmstat: then the TLB row
of /proc/interrupts, in the same files, serves, or the release's own arithmetic.
"""

import itertools
from collections.abc import Mapping
from typing import Final

from jaxmig.calibrate.fit import CalibrationError, Measured, Tell
from jaxmig.calibrate.perf import Run
from jaxmig.machine import PMD_PAGES
from jaxmig.machines import Bound, Profile
from jaxmig.releases import release
from jaxmig.report.units import duration

MOVED: Final = "pgmigrate_success"
HUGE: Final = "thp_migration_success"
SENT, RECEIVED = "nr_tlb_remote_flush", "nr_tlb_remote_flush_received"
ROW: Final = "TLB"  # of /proc/interrupts, all CPUs together
MOST: Final = 2**64  # no counter's value
ENDS: Final[tuple[Bound, Bound]] = ("low", "high")
# What a base page costs, each scaled alike; a part of another or of a later mapping too.
SOFTWARE: Final = ("alloc", "bookkeeping", "walk", "remap", "switch", "copy_4k")
ALSO: Final = ("move_check", "walk_next", "remap_next")


def parse(text: str) -> dict[str, int]:
    """Counters of /proc/vmstat, and the TLB row of /proc/interrupts if it is there.

    Raises:
      CalibrationError: no such file, one that was cut, or a line that is none of them.
    """
    found: dict[str, int] = {}
    for i, line in enumerate(text.split("\n"), 1):
        name, *cells = line.split() or [""]
        if name == f"{ROW}:":
            name, cells = ROW, list(itertools.takewhile(_is_count, cells))
        elif not name or name.endswith(":") or name.startswith("CPU"):
            continue  # another row of /proc/interrupts
        elif len(cells) > 1:
            cells = []
        if not cells or not all(map(_is_count, cells)):
            shown = line.strip()[:40]
            raise CalibrationError(
                f"line {i}: {shown!r} is no counter of /proc/vmstat; give two copies of it"
            )
        if name in found:
            raise CalibrationError(f"line {i}: {name} a second time; give one copy")
        found[name] = sum(map(int, cells))
    if MOVED not in found:
        raise CalibrationError(f"no {MOVED} in it; give two copies of /proc/vmstat")
    if not text.endswith("\n"):
        raise CalibrationError("its last line is cut; take it again")
    return found


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 20 and int(word) < MOST


def _changes(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """What two files' counters grew by; those that are used may not fall."""
    change = {name: b[name] - a[name] for name in b if name in a}
    for name in (MOVED, HUGE, SENT, RECEIVED, ROW):
        if change.get(name, 0) < 0:
            raise CalibrationError(
                f"{name} falls from {a[name]:,} to {b[name]:,}; is the order right?"
            )
    if not change[MOVED]:
        raise CalibrationError(f"{MOVED} did not grow; is the order right?")
    if change.get(HUGE, 0) * PMD_PAGES > change[MOVED]:
        raise CalibrationError(
            f"{HUGE} grew by {change[HUGE]:,} of {PMD_PAGES} pages each, {MOVED} by "
            f"{change[MOVED]:,}: one of them is wrong; take both files again"
        )
    return change


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
    change = _changes(parse(before), parse(after))
    pages, huge = change[MOVED], change.get(HUGE, 0)
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
