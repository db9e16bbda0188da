"""Shares of time by function, from `perf report --stdio` of a migration.

    perf record -g -- migratepages PID 0 1
    perf report --stdio --no-children -g none \\
        --parent '^migrate_pages$' -x --percentage relative > FILE   (or --children)

A flat report gives each function's own time: functions are sorted into groups by name.
A report with children gives the time below each function: the groups are differences,
as ptep_clear_flush() is part of try_to_migrate().
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Final

from jaxmig.calibrate.fit import CalibrationError, Measured
from jaxmig.machines import Profile
from jaxmig.migrate import NR_MAX_BATCHED_MIGRATION
from jaxmig.report.units import duration

_LINE: Final = re.compile(
    r"^\s*(\d{1,3}\.\d+)%(?:\s+(\d{1,3}\.\d+)%)?\s+\S.*?\[[k.]\]\s+(\S+)"
)
_SAMPLES: Final = re.compile(r"^# Samples: ([0-9.]+)([KM]?)", re.MULTILINE)
_CHILDREN: Final = re.compile(r"^#\s+Children\s+Self", re.MULTILINE)
_UNITS: Final = {"": 1, "K": 1e3, "M": 1e6}
# Beginnings of names, the first group that fits.
OWN: Final = {
    "flush": (
        *("ptep_clear_flush", "flush_tlb", "native_flush_tlb", "__flush_tlb"),
        *("smp_call_function", "on_each_cpu", "arch_tlbbatch", "try_to_unmap_flush"),
        *("llist_add_batch", "native_send_call_func", "x2apic_send_IPI"),
        "native_write_msr",  # how an x2APIC sends
    ),
    "copy": (
        *("copy_page", "copy_highpage", "folio_copy", "copy_mc", "__pi_copy_page"),
        "folio_mc_copy",
    ),
    "remap": ("remove_migration_pte",),
    "walk": ("try_to_migrate", "page_vma_mapped_walk", "rmap_walk", "folio_lock_anon"),
    "switch": (
        *("folio_migrate", "__folio_migrate_mapping", "migrate_folio_extra"),
        *("__buffer_migrate_folio", "mem_cgroup_migrate"),
    ),
    "alloc": (
        *("alloc_migration_target", "__alloc_pages", "__folio_alloc", "rmqueue"),
        *("get_page_from_freelist", "free_unref", "free_pcppages"),
        *("__free_frozen_pages", "free_frozen_page", "compaction_alloc"),
        "isolate_freepages",
    ),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """Percent by function: of its own, and with what it calls if `children`."""

    percent: Mapping[str, float]
    children: bool
    samples: int | None


def parse(text: str) -> Report:
    """What a report says.

    Raises:
      CalibrationError: it holds no line of one.
    """
    percent: dict[str, float] = {}
    children = bool(_CHILDREN.search(text))
    for line in text.splitlines():
        found = _LINE.match(line)
        if found:
            name = found[3]
            percent[name] = percent.get(name, 0.0) + float(found[1])
    if not percent:
        raise CalibrationError(
            "no line of `perf report --stdio`; give such a report, or two /proc/vmstat"
        )
    count = _SAMPLES.search(text)
    samples = round(float(count[1]) * _UNITS[count[2]]) if count else None
    return Report(percent, children, samples)


def from_perf(
    text: str, source: str, base: Profile, pages: int, elapsed_ns: int
) -> list[Measured]:
    """What the report of a migration of `pages` in `elapsed_ns` tells.

    Raises:
      CalibrationError: no report, or none of a migration.
    """
    report = parse(text)
    shares = below(report.percent) if report.children else own(report.percent)
    if not {"copy", "flush", "walk"} & shares.keys():
        raise CalibrationError("no function of migrate_pages() in it; profile the call")
    rest = 100.0 - sum(shares.values())
    lock, alloc = base["cost.bookkeeping"], base["cost.alloc"]
    if "alloc" not in shares and lock + alloc:
        # Nobody named the allocation: it keeps its part of what is left.
        shares["alloc"] = rest * alloc / (lock + alloc)
        rest -= shares["alloc"]
    shares["bookkeeping"] = max(rest, 0.0)
    batched = any(n.startswith("migrate_pages_batch") for n in report.percent)
    made = []
    for group, percent in shares.items():
        if percent <= 0:
            continue
        per = pages
        if group == "flush" and batched:
            per = -(-pages // NR_MAX_BATCHED_MIGRATION)
        words = f"{percent:.2f} % of {duration(elapsed_ns)} for {pages:,} pages"
        ns = percent / 100 * elapsed_ns / per
        error = _error(percent / 100, report.samples)
        low, high = ns * (1 - error), ns * (1 + error)
        made.append(Measured(group, ns, f"{source}: {words}", low, high))
    return made


def own(percent: Mapping[str, float]) -> dict[str, float]:
    """Groups of a flat report."""
    shares: dict[str, float] = {}
    for name, share in percent.items():
        for group, beginnings in OWN.items():
            if name.startswith(beginnings):
                shares[group] = shares.get(group, 0.0) + share
                break
    return shares


def below(percent: Mapping[str, float]) -> dict[str, float]:
    """Groups of a report with children, as far as its functions tell them apart."""

    def first(*names: str) -> float:
        return next((percent[n] for n in names if n in percent), 0.0)

    clear, batch = first("ptep_clear_flush"), first("try_to_unmap_flush")
    unmap = first("try_to_migrate", "try_to_migrate_one")
    back = first("remove_migration_ptes", "remove_migration_pte")
    if not back:
        # Both directions walk the reverse map; what is not the one is the other.
        back = max(first("rmap_walk_anon", "rmap_walk") - unmap, 0.0)
    shares = {
        "flush": clear + batch,
        "walk": max(unmap - clear, 0.0),
        "copy": first("folio_copy", "folio_mc_copy", "copy_highpage", "copy_page"),
        "switch": first("folio_migrate_flags")
        + first("folio_migrate_mapping", "__folio_migrate_mapping"),
        "remap": back,
        "alloc": first(
            *("alloc_migration_target", "compaction_alloc"),
            *("__alloc_pages", "__folio_alloc"),
        ),
    }
    return {group: share for group, share in shares.items() if share}


def _error(share: float, samples: int | None) -> float:
    """Relative uncertainty: two standard deviations of sampling, and of rounding."""
    rounding = 0.00005 / share
    if not samples:
        return rounding
    return min(1.0, 2 * math.sqrt((1 - share) / (share * samples)) + rounding)
