"""One migration's cost, from /proc/vmstat before and after it and the time it took.

Two files cannot tell the phases apart: the costs a page keep their proportions and are
scaled together, after what else is in the time (flushes, calls, THPs' copies) is paid for
at the base's price.
A kernel without CONFIG_DEBUG_TLBFLUSH counts no flush in /proc/vmstat: then the TLB row
of /proc/interrupts, in the same files, serves, or the release's own arithmetic.
"""

import dataclasses
import itertools
from collections.abc import Collection, Mapping
from typing import Final

from jaxmig.linux.releases import release
from jaxmig.report.units import duration
from jaxmig.state.machine import PMD_PAGES
from jaxmig.time.machines import Bound, Profile
from jaxmig.tools.calibrate.fit import CalibrationError, Measured, Tell
from jaxmig.tools.calibrate.names import CALLS
from jaxmig.tools.calibrate.profiled import ProfiledRun, batches, counts, price

MOVED: Final = "pgmigrate_success"
HUGE: Final = "thp_migration_success"
LOCAL: Final = "nr_tlb_local_flush_one"
SENT, RECEIVED = "nr_tlb_remote_flush", "nr_tlb_remote_flush_received"
ISOLATED: Final = "compact_isolated"
ROW: Final = "TLB"  # of /proc/interrupts, all CPUs together
LACKS: Final = f"no {SENT} in both files (a kernel without CONFIG_DEBUG_TLBFLUSH)"
MOST: Final = 2**64  # no counter's value
ENDS: Final[tuple[Bound, Bound]] = ("low", "high")
# Costs that add up to a base page's, and costs scaled by the same factor: a part of one
# of them, and those of further mappings.
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


def _changes(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    """The differences of two files' counters; those that are used must not be negative."""
    change = {name: second[name] - first[name] for name in second if name in first}
    for name in (MOVED, HUGE, SENT, RECEIVED, ROW):
        if change.get(name, 0) < 0:
            raise CalibrationError(
                f"{name} falls from {first[name]:,} to {second[name]:,}; "
                "is the order right?"
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
    run: ProfiledRun,
    tell: Tell = lambda line: None,
    timed: Collection[str] = (),
) -> list[Measured]:
    """The numbers that two files and the time between them determine.

    Args:
      run: its pages are not used, the files count them.
      timed: costs of the base that were measured by themselves: they are not scaled.
    Raises:
      CalibrationError: nothing moved between them, the flushes are unknown, or they
        alone take longer.
    """
    change = _changes(parse(before), parse(after))
    run = dataclasses.replace(run, pages=change[MOVED], huge=change.get(HUGE, 0))
    _check(change, base, run)
    calls = _calls(change, run, tell)
    requests = _requests(change, base, run, calls, tell)
    batched = release(run.kernel).batched if run.kernel else requests[0] < run.folios
    local = min(change.get(LOCAL, 0), run.folios)
    counted = counts(run, calls, requests, batched, local)
    scaled = [k for k in map("cost.{}".format, (*SOFTWARE, *ALSO)) if k not in timed]
    scaled = [k for k in scaled if k in base.numbers]
    kept = price(counted, base.replace(dict.fromkeys(scaled, 0)), batched)
    usual = price(counted, base, batched) - kept
    left = run.elapsed_ns * (run.share or 1.0) - kept
    if left <= 0 or usual <= 0:
        raise CalibrationError(
            f"flushes, calls and copies that have their own price in {base.name} alone "
            f"would take longer than {duration(run.elapsed_ns)}; give another --base"
        )
    factor = left / usual
    words = f"{run.pages:,} pages in {duration(run.elapsed_ns)}"
    words += f"; {factor:.3f} of {base.name}'s"
    # One figure says nothing of the parts: they may be off by as much as the base's.
    made = []
    for key in scaled:
        n = base.numbers[key]
        low, high = (n.at(end) * factor for end in ENDS)
        made.append(Measured(key, n.value * factor, f"{source}: {words}", low, high))
    return made


def _check(change: Mapping[str, int], base: Profile, run: ProfiledRun) -> None:
    """Raises CalibrationError where nothing tells the flushes of IPIs."""
    told = change.keys() & {SENT, ROW} or run.kernel or run.flushes is not None
    if base.arch == "x86" and not told:
        raise CalibrationError(
            f"{LACKS}: flushes are unknown; give --flushes N, the --kernel for its "
            "arithmetic, or /proc/interrupts behind /proc/vmstat in both files"
        )


def _calls(change: Mapping[str, int], run: ProfiledRun, tell: Tell) -> int:
    """Calls of migrate_pages(): said, or what the counters show of a caller."""
    if run.calls is not None:
        return run.calls
    if not change.get(ISOLATED):
        tell("one call of migrate_pages() is taken; give --calls if there were more")
        return 1
    calls = -(-run.pages // CALLS["compaction_alloc"])
    tell(
        f"{ISOLATED} grew: compaction, of which {calls:,} calls are taken; count them "
        "(perf stat -e migrate:mm_migrate_pages) for --calls"
    )
    return calls


def _requests(
    change: Mapping[str, int], base: Profile, run: ProfiledRun, calls: int, tell: Tell
) -> tuple[int, int]:
    """Flush requests, and interrupts, as the base's architecture makes them."""
    if base.arch == "x86":
        return _counted(change, run, calls, tell)
    if base.arch == "x86-invlpgb":
        return run.folios, 0
    if run.kernel is None:
        tell("each page is taken to wait for its TLBI, as up to 6.5; give --kernel")
    defers = run.kernel is not None and release(run.kernel).arm64_defers
    return (batches(run, calls) if defers else 0), 0


def _counted(
    change: Mapping[str, int], run: ProfiledRun, calls: int, tell: Tell
) -> tuple[int, int]:
    """Flush requests and interrupts: as given, as counted, or as the release implies."""
    targets = run.targets or 1
    if run.flushes is not None:
        return run.flushes, run.flushes * targets
    if SENT in change:
        sent = change[SENT]
        return sent, change.get(RECEIVED, sent * targets)
    if ROW in change:
        received = change[ROW]
        tell(
            f"{LACKS}: the TLB row of /proc/interrupts counts {received:,} interrupts, "
            f"taken as flushes of {targets} CPU{'s' * (targets > 1)} each"
        )
        return received // targets, received
    batched = run.kernel is not None and release(run.kernel).batched
    sent = batches(run, calls) if batched else run.folios
    tell(
        f"{LACKS}: {sent:,} flushes of {targets} CPU each by {run.kernel}'s arithmetic"
    )
    return sent, sent * targets
