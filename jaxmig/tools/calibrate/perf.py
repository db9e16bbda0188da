"""Costs from `perf report --stdio` of a migration, flat or with children.

    perf record -g -- migratepages PID 0 1
    perf report --stdio --no-children -g none \\
        --parent '^migrate_pages$' -x --percentage relative > FILE   (or --children)

Functions are sorted into groups by name (`names.py`).  With children the two walks of
the reverse map have their own totals; in a flat report the time of their common functions
is divided.  Numbers that a report does not determine stay the base's, and are listed.
"""

import math
from collections.abc import Mapping
from typing import Final

from jaxmig.linux.releases import release
from jaxmig.report.units import duration
from jaxmig.time.machines import Profile
from jaxmig.tools.calibrate import report as reports
from jaxmig.tools.calibrate.fit import CalibrationError, Measured, Tell
from jaxmig.tools.calibrate.names import calls_of, group_of, grouped, kinds_of
from jaxmig.tools.calibrate.profiled import ProfiledRun, apart, batches
from jaxmig.tools.calibrate.report import Report

# Percentages that sum to at least this are of migrate_pages(), but for lines cut off.
RELATIVE: Final = 90.0
# Shootdowns below this part of the flushing are taken for another process's.
STRAY: Final = 0.05
DIRECT: Final = ("alloc", "bookkeeping", "walk", "walk_next", "remap", "remap_next")
COSTS: Final = {g: f"cost.{g}" for g in (*DIRECT, "switch")} | {"copy": "cost.copy_4k"}
WHOLE: Final = ("alloc", "walk", "remap", "switch", "copy")  # and bookkeeping
TLB: Final = ("shootdown", "local", "defer")


def from_perf(
    text: str,
    source: str,
    base: Profile,
    run: ProfiledRun,
    tell: Tell = lambda line: None,
) -> list[Measured]:
    """The numbers that the report of one migration determines.

    Args:
      text: of the report.
      source: of the numbers, as text.
      base: the profile that keeps the other numbers.
      run: the migration that was profiled.
      tell: called with a line about each number that stays the base's.
    Returns:
      Measurements in ns, with ranges.
    Raises:
      CalibrationError: no report, none of a migration, or one that contradicts `run`.
    """
    r = reports.parse(text, tell)
    percent, whole = shares(r)
    if not percent.keys() & {"copy", "walk", *TLB} or not whole:
        raise CalibrationError("no function of migrate_pages() in it; profile the call")
    scale = _scale(r, whole, run, tell) / 100
    ns = {group: p * scale * run.elapsed_ns for group, p in percent.items()}
    if kinds := kinds_of(r.own):
        tell(
            f"{' and '.join(kinds)} are among the pages: what they cost more or less is "
            "in the costs of all of them"
        )
    lists = calls(text, run, tell)
    if (batched := _batched(r, run)) and "bookkeeping" in ns:
        # What batching gains is in the time, and the profile takes it off again.
        ns["bookkeeping"] += base["cost.batch_gain"] * run.pages
    inside = _inside(base, r, percent, (run, lists, batched))
    made = {
        k: (percent[group], each)
        for group, key in COSTS.items()
        if ns.get(group)
        for k, each in apart(
            base, key, ns[group], run.pages, inside.get(group, {})
        ).items()
    }
    made |= _flushing(base, r, ns, percent, (run, lists, batched), tell)
    words = f"of {duration(run.elapsed_ns)} for {run.pages:,} pages"
    words += f" in {lists:,} calls" if lists > 1 else ""
    return [
        _measured(key, f"{source}: {part:.2f} % {words}", each, part * scale, r)
        for key, (part, each) in made.items()
        if each > 0
    ]


def _measured(
    key: str, words: str, ns: float, share: float, report: Report
) -> Measured:
    error = _error(share, report.samples)
    return Measured(key, ns, words, ns * (1 - error), ns * (1 + error))


def calls(text: str, run: ProfiledRun, tell: Tell = lambda line: None) -> int:
    """Calls of migrate_pages(): said, or those of the caller that the functions show."""
    if run.calls is not None:
        return run.calls
    caller, longest = calls_of(reports.parse(text).own)
    if longest is None:
        tell("one call of migrate_pages() is taken; give --calls if there were more")
        return 1
    made = -(-run.pages // longest)
    tell(
        f"{caller}() in it: {made:,} calls are taken, of at most {longest:,} pages on "
        "the average; count them (perf stat -e migrate:mm_migrate_pages) for --calls"
    )
    return made


def _inside(
    base: Profile,
    report: Report,
    percent: Mapping[str, float],
    how: tuple[ProfiledRun, int, bool],
) -> dict[str, dict[str, int]]:
    """By group: costs that its time holds, too, and how often."""
    run, lists, batched = how
    pages, defer = run.pages, "cost.defer"
    inside = {
        "alloc": {"cost.alloc_page": pages},
        "bookkeeping": {"cost.call": lists},
        "copy": {"cost.copy_first": lists},
    }
    if report.filtered or report.below is not None:
        # Bookkeeping is what is left of the call: with what no function was named of.
        missing = [COSTS[g] for g in WHOLE if g not in percent]
        inside["bookkeeping"] |= dict.fromkeys(missing, pages)
    deferred = batched and "shootdown" in percent and defer in base.numbers
    if deferred and "defer" not in percent:
        inside |= {g: {defer: pages} for g in ("walk", "walk_next")}
    return inside


def shares(report: Report) -> tuple[dict[str, float], float]:
    """Percent by group, and percent of the whole migrate_pages().

    `walk` and `remap` are for a folio's first mapping, `walk_next` and `remap_next` for
    each further mapping.
    """
    found = grouped(report.own)
    unknown = found.pop("unknown", 0.0)
    both = [found.pop(f"walk_{what}", 0.0) for what in ("mapping", "folio")]
    first, back = found.get("walk", 0.0), found.get("remap", 0.0)
    part = first / (first + back) if first + back else 0.5
    for name, mine, own in (("walk", part, first), ("remap", 1 - part, back)):
        each = own + mine * both[0]
        found |= {name: each + mine * both[1], f"{name}_next": each}
    if report.filtered:
        whole = sum(report.own.values())
        if report.below is not None:
            whole = max(whole, report.below.get("migrate_pages", 0.0))
        found["bookkeeping"] = found.get("bookkeeping", 0.0) + unknown
    else:
        whole = sum(found[g] for g in found if not g.endswith("_next"))
    if report.below is not None:
        whole = _directions(report, found, whole)
    return {group: share for group, share in found.items() if share > 0}, whole


def _directions(report: Report, found: dict[str, float], whole: float) -> float:
    """Set both walks to their totals with children, and bookkeeping to the rest."""
    below = report.below or {}

    def first(*names: str) -> float:
        return next((below[n] for n in names if n in below), 0.0)

    clear = first("ptep_clear_flush")
    unmap = first("try_to_migrate", "try_to_migrate_one")
    walks = first("rmap_walk_anon") + first("rmap_walk_file", "__rmap_walk_file")
    back = first("remove_migration_ptes") or max(
        (walks or first("rmap_walk")) - unmap, 0
    )
    if not unmap:
        return whole
    found["walk"] = max(unmap - clear, 0.0)
    one = max(first("try_to_migrate_one") - clear, 0.0)
    found["walk_next"] = one or found["walk"]
    if back:
        found["remap"] = back
        found["remap_next"] = min(first("remove_migration_pte") or back, back)
    else:
        found["remap"] = found["remap_next"] = first("remove_migration_pte")
    top = below.get("migrate_pages", 0.0)
    if not report.filtered:
        # The rest is isolation in a report of `migratepages`, but not of a whole system.
        whole = 100.0 if not top or top >= RELATIVE else top
    known = {g for g in found if not g.endswith("_next")} - {"bookkeeping"}
    found["bookkeeping"] = max(whole - sum(found[g] for g in known), 0.0)
    return whole


def _scale(report: Report, whole: float, run: ProfiledRun, tell: Tell) -> float:
    """The factor from the report's percentages to percent of the elapsed time."""
    if run.share is not None:
        return 100 * run.share / whole
    if report.filtered and whole >= RELATIVE:
        tell(
            "percentages are of migrate_pages(): so must --elapsed be, taken without "
            "perf; if it is not, give --share"
        )
        return 100 / whole
    if report.filtered:
        tell(
            f"percentages are of all samples: migrate_pages() took {whole:.2f} % of it"
        )
    elif whole < RELATIVE:
        tell(
            f"{100 - whole:.2f} % of the time are no functions of a migration: left out"
        )
    return 1.0


def _flushing(
    base: Profile,
    report: Report,
    ns: Mapping[str, float],
    percent: Mapping[str, float],
    how: tuple[ProfiledRun, int, bool],
    tell: Tell,
) -> dict[str, tuple[float, float]]:
    """TLB work as (percent, ns each) by number: shootdowns apart from local flushes."""
    run, lists, batched = how
    total = sum(ns.get(g, 0.0) for g in TLB)
    part = sum(percent.get(g, 0.0) for g in TLB)
    if not total:
        return {}
    flushes = run.flushes
    if flushes is None:
        flushes = batches(run, lists) if batched else run.pages
    if base.arch == "arm64":
        kernel = run.kernel or ("6.18" if batched else "6.2")
        deferred = batched and release(kernel).arm64_defers
        waits = flushes if deferred else run.pages
        usual = base["cost.tlbi"] * run.pages + base["cost.dsb"] * waits
        keys = ("cost.tlbi", "cost.dsb")
        # The report has one figure for both, which keep the base's proportion.
        return {k: (part, base[k] * total / usual) for k in keys} if usual else {}
    if base.arch == "x86-invlpgb":
        key = "cost.broadcast_all" if batched else "cost.broadcast"
        return {key: (part, total / max(flushes, 1))}
    return _by_interrupts(base, report, ns, percent, (run, flushes, batched), tell)


def _by_interrupts(
    base: Profile,
    report: Report,
    ns: Mapping[str, float],
    percent: Mapping[str, float],
    how: tuple[ProfiledRun, int, bool],
    tell: Tell,
) -> dict[str, tuple[float, float]]:
    run, flushes, batched = how
    sent, alone = ns.get("shootdown", 0.0), ns.get("local", 0.0)
    stray = sent < STRAY * (sent + alone)
    if run.flushes == 0 and not stray:
        names = [n for n in report.own if group_of(n) == "shootdown"]
        share = percent["shootdown"]
        raise CalibrationError(
            f"--flushes 0, but {share:.2f} % of it wait for other CPUs "
            f"({', '.join(names[:3])}); count the flushes that interrupted one"
        )
    found = {}
    if stray:
        if run.flushes:
            tell("no function of a shootdown in it: cost.flush_first stays the base's")
        alone, sent = alone + sent, 0.0
    if sent and flushes:
        found |= _first_and_next(base, percent["shootdown"], sent / flushes, run, tell)
    if alone and sent and batched:
        # A full flush of each batch, and those of pages that were not left to it.
        tell(
            f"{percent['local']:.2f} % are flushes of this CPU alone, how many is not "
            "known: cost.local_page and cost.local_full are not taken from it"
        )
    elif alone:
        found["cost.local_page"] = (percent.get("local", 0.0), alone / run.pages)
    if ns.get("defer"):
        found["cost.defer"] = (percent["defer"], ns["defer"] / run.pages)
    return found


def _first_and_next(
    base: Profile, part: float, each: float, run: ProfiledRun, tell: Tell
) -> dict[str, tuple[float, float]]:
    """The numbers of a shootdown; that of further CPUs only if there were some."""
    first, more = base["cost.flush_first"], base["cost.flush_next"]
    if run.targets is None:
        tell(
            "a flush is taken to interrupt one CPU; if it were more, give --targets. "
            "cost.flush_next is the base's"
        )
    if run.targets is None or run.targets == 1:
        return {"cost.flush_first": (part, each)}
    usual = first + more * (run.targets - 1)
    keys = {"cost.flush_first": first, "cost.flush_next": more}
    return {key: (part, ns * each / usual) for key, ns in keys.items()}


def _batched(report: Report, run: ProfiledRun) -> bool:
    """Whether the kernel batches, by its functions and by the release given."""
    seen = None
    if "migrate_pages_batch" in report.own:
        seen = True
    elif "unmap_and_move" in report.own or "__unmap_and_move" in report.own:
        seen = False
    said = None if run.kernel is None else release(run.kernel).batched
    if seen is not None and said is not None and seen != said:
        name = "migrate_pages_batch" if seen else "unmap_and_move"
        raise CalibrationError(f"{name}() is no function of Linux {run.kernel}")
    return bool(seen if said is None else said)


def _error(share: float, samples: int | None) -> float:
    """Relative uncertainty: two standard deviations of sampling, and of rounding."""
    rounding = 0.00005 / share
    if not samples or share >= 1:
        return min(rounding, 1.0)
    return min(1.0, 2 * math.sqrt((1 - share) / (share * samples)) + rounding)
