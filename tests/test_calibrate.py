"""Profiles from measurements: shares of perf, scaled vmstat, times of this machine."""

import dataclasses
import itertools
import json
import os
import platform
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from jaxmig import cli
from jaxmig.time import cost, machines
from jaxmig.time.machines import Number, reader
from jaxmig.tools.calibrate import (
    CalibrationError,
    Measured,
    ProfiledRun,
    combined,
    fit,
    from_micro,
    from_perf,
    from_vmstat,
    names,
    perf,
    profiled as calibrate_run,
    read,
    report,
    timings,
    together,
)

RECORDED = Path(__file__).with_name("data") / "perf"
GUEST = RECORDED / "guest"  # a migration of 16,384 pages on Linux 6.18, and its timings
XEON = machines.load("xeon-2s")
# The published profile of migratepages on arm64, as perf prints it.
CHILDREN = """
# Samples: 8K of event 'cycles'
# Children      Self  Command       Shared Object      Symbol
    96.10%     0.00%  migratepages  [kernel.kallsyms]  [k] migrate_pages
            |
            ---migrate_pages
               |--51.07%--migrate_folio_extra
    42.43%    42.43%  migratepages  [kernel.kallsyms]  [k] folio_copy
    33.99%     0.80%  migratepages  [kernel.kallsyms]  [k] rmap_walk_anon
    32.35%     4.57%  migratepages  [kernel.kallsyms]  [k] try_to_migrate
    27.78%    27.78%  migratepages  [kernel.kallsyms]  [k] ptep_clear_flush
     8.19%     8.19%  migratepages  [kernel.kallsyms]  [k] folio_migrate_flags
"""
FLAT = """
# Overhead  Command       Shared Object      Symbol
    40.00%  migratepages  [kernel.kallsyms]  [k] copy_page
    10.00%  migratepages  [kernel.kallsyms]  [k] smp_call_function_many_cond
     5.00%  migratepages  [kernel.kallsyms]  [k] native_flush_tlb_one_user
     5.00%  migratepages  [kernel.kallsyms]  [k] try_to_migrate_one
     4.00%  migratepages  [kernel.kallsyms]  [k] get_page_from_freelist
     3.00%  migratepages  [kernel.kallsyms]  [k] remove_migration_pte
     2.00%  migratepages  [kernel.kallsyms]  [k] folio_migrate_flags
     1.00%  migratepages  libc.so.6          [.] main
"""
PAGES, ELAPSED = 1 << 18, 2_068_000_000
BATCH = "  1.00%  migratepages  [kernel.kallsyms]  [k] migrate_pages_batch\n"


def of(text: str, base: machines.Profile = XEON, **how: object) -> dict[str, float]:
    """ns by number, of a report."""
    run = ProfiledRun(**({"pages": PAGES, "elapsed_ns": ELAPSED} | how))
    return {m.key: m.ns for m in from_perf(text, "x", base, run)}


def vmstat(moved: int, flushes: int, ipis: int) -> str:
    return (
        f"nr_free_pages 5\npgmigrate_success {moved}\nnr_tlb_remote_flush {flushes}\n"
        f"nr_tlb_remote_flush_received {ipis}\n"
    )


# --- reports -------------------------------------------------------------------------


def test_a_profile_with_children_gives_the_published_costs() -> None:
    base = machines.load("arm64-2n128c")
    run = ProfiledRun(PAGES, ELAPSED)
    found = fit(base, from_perf(CHILDREN, "x", base, run), "mine")
    for key in ("walk", "copy_4k", "switch", "tlbi", "dsb", "remap"):
        name = f"cost.{key}"
        assert found.profile[name] == pytest.approx(base[name], rel=0.04)
        n = found.profile.numbers[name]
        assert n.low is not None
        assert n.high is not None
        assert n.low < n.value < n.high
        assert n.source.startswith("measured, x: ")
        assert n.origin == "measured"
    # Nobody named the allocation: it is in the rest, and stays the base's.
    key = "cost.bookkeeping"
    assert found.profile[key] == pytest.approx(base[key], rel=0.04)
    assert "cost.alloc" not in found.keys
    assert "cost.copy_2m" not in found.keys


def test_functions_are_sorted_into_groups() -> None:
    shares, whole = perf.shares(report.parse(FLAT))
    assert shares == {
        "copy": 40.0,
        "shootdown": 10.0,
        "local": 5.0,
        "walk": 5.0,
        "walk_next": 5.0,
        "alloc": 4.0,
        "remap": 3.0,
        "remap_next": 3.0,
        "switch": 2.0,
    }
    # A program's main() is no part of the call, nor is what is in no line.
    assert whole == 69.0


# Who calls whom in migrate_pages() of Linux 6.18; every function has time of its own.
CALLS = {
    "migrate_pages": ("migrate_pages_batch",),
    "migrate_pages_batch": (
        *("try_to_migrate", "alloc_migration_target", "try_to_unmap_flush"),
        *("move_to_new_folio", "remove_migration_ptes", "__folio_put", "new_function"),
    ),
    "try_to_migrate": ("rmap_walk_anon",),
    "rmap_walk_anon": ("try_to_migrate_one", "folio_lock_anon_vma_read"),
    "try_to_migrate_one": ("page_vma_mapped_walk", "ptep_clear_flush"),
    "ptep_clear_flush": ("flush_tlb_mm_range", "smp_call_function_many_cond"),
    "alloc_migration_target": ("get_page_from_freelist",),
    "try_to_unmap_flush": ("arch_tlbbatch_flush",),
    "move_to_new_folio": ("folio_mc_copy", "folio_migrate_flags"),
    "folio_mc_copy": ("copy_mc_enhanced_fast_string",),
    "remove_migration_ptes": ("rmap_walk", "remove_migration_pte"),
    "remove_migration_pte": ("check_pte", "folio_add_anon_rmap_ptes"),
}
FUNCTIONS = sorted({*CALLS, *(name for called in CALLS.values() for name in called)})


def as_report(own: dict[str, float], children: bool) -> str:
    """What perf prints below migrate_pages() of functions with so much of their own."""

    def below(name: str) -> float:
        return own[name] + sum(map(below, CALLS.get(name, ())))

    heads = "Children      Self" if children else "Overhead"
    lines = [f"# {heads}  Command  Shared Object  Symbol  Parent symbol"]
    for f in FUNCTIONS:
        two = f"{below(f):.2f}%  {own[f]:.2f}%" if children else f"{own[f]:.2f}%"
        lines.append(f"  {two}  app  [kernel.kallsyms]  [k] {f}  migrate_pages")
    return "\n".join(lines)


@given(
    st.lists(st.integers(1, 400), min_size=len(FUNCTIONS), max_size=len(FUNCTIONS)),
    st.booleans(),
)
def test_a_report_s_costs_never_sum_to_more_than_the_call(
    drawn: list[int], children: bool
) -> None:
    """Shares of any report, of a call that is all of it or a part, stay within 100 %."""
    # perf prints two decimals: these are hundredths, so that none is rounded away.
    own = {f: n / 100 for f, n in zip(FUNCTIONS, drawn, strict=True)}
    text = as_report(own, children)
    shares, whole = perf.shares(report.parse(text))
    assert whole == pytest.approx(sum(drawn) / 100)
    parts = {g: s for g, s in shares.items() if not g.endswith("_next")}
    assert all(0 < share <= whole for share in shares.values())
    assert sum(parts.values()) == pytest.approx(whole)
    made = of(text, share=1.0)
    assert min(made.values()) >= 0
    # Each is a page's but the shootdown, of which a batch has one.
    made["cost.flush_first"] = made.get("cost.flush_first", 0.0) / 512
    each = sum(ns for key, ns in made.items() if not key.endswith("_next"))
    assert each * PAGES <= ELAPSED * 1.0001


@given(
    st.lists(st.integers(1, 1000), min_size=len(FUNCTIONS), max_size=len(FUNCTIONS)),
    st.booleans(),
    st.sampled_from([1, 300, PAGES]),
    st.sampled_from(["", "compaction_alloc", "set_tlb_ubc_flush_pending"]),
)
def test_a_report_s_profile_gives_the_reported_time_back(
    drawn: list[int], children: bool, calls: int, more: str
) -> None:
    """Calls, first copies and flushes are in a report's time, and not added again."""
    own = {f: 99.5 * n / sum(drawn) for f, n in zip(FUNCTIONS, drawn, strict=True)}
    text = as_report(own, children)
    if more:
        two = "0.50%  0.50%" if children else "0.50%"
        text += f"\n  {two}  app  [kernel.kallsyms]  [k] {more}  migrate_pages"
    how = ProfiledRun(PAGES, ELAPSED, "6.18", flushes=700, share=1.0, calls=calls)
    base = XEON.replace({"cost.batch_gain": 90, "cost.alloc_page": 1})
    made = fit(base, from_perf(text, "x", base, how), "mine").profile
    counted = calibrate_run.counts(how, calls, (700, 700), batched=True)
    shares, whole = perf.shares(report.parse(text))
    # Flushes of this CPU alone are of nobody knows how many pages.
    wanted = ELAPSED * (1 - shares["local"] / whole)
    assert cost.price(counted, made).total == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("kind", ["", ".abs"])
def test_flat_and_children_reports_of_one_migration_agree(kind: str) -> None:
    found, scales = [], []
    for form in ("flat", "children"):
        r = report.parse((GUEST / f"perf0{kind}.{form}.txt").read_text())
        shares, whole = perf.shares(r)
        assert r.filtered
        assert (r.below is not None) == (form == "children")
        found.append({g: 100 * s / whole for g, s in shares.items()})
        scales.append(whole)
    assert scales == pytest.approx([26.35 if kind else 100] * 2, abs=0.1)
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 9
    for group, share in found[0].items():
        assert share == pytest.approx(found[1][group], rel=0.15), group
    for shares in found:
        parts = [s for g, s in shares.items() if not g.endswith("_next")]
        assert sum(parts) == pytest.approx(100, abs=0.5)
        assert shares["walk_next"] < shares["walk"]
        assert shares["remap_next"] < shares["remap"]


def test_reports_of_compaction_agree_too() -> None:
    """Linux 6.18 compacts memory: file pages, shootdowns, another mix of callers."""
    texts = {n: (RECORDED / f"{n}.txt").read_text() for n in ("flat", "children")}
    reports = {name: report.parse(text) for name, text in texts.items()}
    assert {r.samples for r in reports.values()} == {2000}
    flat, below = (perf.shares(reports[n])[0] for n in ("flat", "children"))
    for group in ("copy", "shootdown", "local", "alloc", "switch"):
        assert flat[group] == pytest.approx(below[group], rel=0.02)
    for group in ("walk", "remap"):
        assert flat[group] == pytest.approx(below[group], rel=0.35)
    made = of(texts["flat"], pages=174_315, elapsed_ns=310_750_000)
    assert 400 < made["cost.copy_4k"] < 800
    # Two lists a pageblock, a shootdown each, not one a page.
    assert 10_000 < made["cost.flush_first"] < 40_000
    # Some pages were flushed at once, here alone; nobody counted them.
    assert "cost.local_page" not in made


def test_every_function_of_a_real_migration_has_a_group() -> None:
    for form in ("flat", "children"):
        r = report.parse((GUEST / f"perf0.{form}.txt").read_text())
        left = {n: s for n, s in r.own.items() if s and not names.group_of(n)}
        assert sum(left.values()) < 0.5, left
        assert len(r.own) > 60
    # Compaction, and offlining: files, buffers, splits.
    page = Path(__file__).parent.parent / "docs/howto/calibrate/perf.txt"
    for path in (RECORDED / "flat.txt", RECORDED / "children.txt", page):
        r = report.parse(path.read_text())
        left = {n: s for n, s in r.own.items() if s and not names.group_of(n)}
        assert sum(left.values()) < 0.5, left
        assert len(r.own) > 80


def test_compilers_suffixes_do_not_count() -> None:
    plain = "__migrate_folio remove_migration_pte io_sqe_buffers_register"
    for name, suffix in zip(
        plain.split(), (".isra.0", ".part.1", ".cold"), strict=True
    ):
        assert names.plain(name + suffix) == name
    assert names.group_of("remove_migration_pte.isra.0") == "remap"
    assert names.group_of("start_kernel") is None


def test_a_walk_that_serves_both_directions_is_shared_out() -> None:
    text = FLAT + "  8.00%  x  [kernel.kallsyms]  [k] page_vma_mapped_walk\n"
    text += "  4.00%  x  [kernel.kallsyms]  [k] rmap_walk_anon\n"
    shares, _ = perf.shares(report.parse(text))
    assert shares["walk"] == pytest.approx(5 + 12 * 5 / 8)
    assert shares["remap"] == pytest.approx(3 + 12 * 3 / 8)
    assert shares["walk_next"] == pytest.approx(5 + 8 * 5 / 8)


def test_relative_and_absolute_percentages_are_told_apart() -> None:
    """The same samples: of the call alone, or of all that was recorded."""
    whole = 0.2633
    how = {"pages": 16384, "kernel": "6.18", "flushes": 0}
    for form in ("flat", "children"):
        relative = (GUEST / f"perf0.{form}.txt").read_text()
        absolute = (GUEST / f"perf0.abs.{form}.txt").read_text()
        a = of(relative, elapsed_ns=37_000_000, **how)
        b = of(absolute, elapsed_ns=round(37_000_000 / whole), **how)
        c = of(relative, elapsed_ns=round(37_000_000 / 0.77), share=0.77, **how)
        d = of(absolute, elapsed_ns=round(37_000_000 / 0.77), share=0.77, **how)
        assert a.keys() == b.keys() == c.keys() == d.keys()
        for key, ns in a.items():
            assert ns == pytest.approx(b[key], rel=0.03), key
            assert ns == pytest.approx(c[key], rel=0.01), key
            assert ns == pytest.approx(d[key], rel=0.03), key


def test_which_time_the_percentages_are_of_is_said() -> None:
    told: list[str] = []
    text = (GUEST / "perf0.flat.txt").read_text()
    from_perf(text, "x", XEON, ProfiledRun(16384, 10**7), told.append)
    assert any("must --elapsed be" in line for line in told)
    told.clear()
    text = (GUEST / "perf0.abs.flat.txt").read_text()
    from_perf(text, "x", XEON, ProfiledRun(16384, 10**7), told.append)
    assert any("migrate_pages() took 26.3" in line for line in told)
    told.clear()
    from_perf(FLAT, "x", XEON, ProfiledRun(16384, 10**7), told.append)
    assert any("31.00 % of the time are no functions" in line for line in told)


HYBRID = """
# Samples: 4K of event 'cpu_atom/cycles/P'
# Event count (approx.): 1000
# Overhead  Command       Shared Object      Symbol
    50.00%  migratepages  [kernel.kallsyms]  [k] copy_page
    10.00%  migratepages  [kernel.kallsyms]  [k] try_to_migrate_one

# Samples: 8K of event 'cpu_core/cycles/P'
# Event count (approx.): 3000
# Overhead  Command       Shared Object      Symbol
    40.00%  migratepages  [kernel.kallsyms]  [k] copy_page
     5.00%  migratepages  [kernel.kallsyms]  [k] try_to_migrate_one
"""


def test_cycles_of_two_kinds_of_cores_are_weighed() -> None:
    told: list[str] = []
    r = report.parse(HYBRID, told.append)
    assert r.own == {"copy_page": 42.5, "try_to_migrate_one": 6.25}
    assert r.samples == 12_000
    assert "cpu_atom/cycles/P, cpu_core/cycles/P are added" in told[0]


@pytest.mark.parametrize("first", [True, False])
def test_an_event_that_measures_no_time_is_left_out(first: bool) -> None:
    told: list[str] = []
    misses = "\n# Samples: 2K of event 'dTLB-load-misses'\n"
    misses += "    90.00%  x  [kernel.kallsyms]  [k] copy_page\n"
    cycles = "\n# Samples: 8K of event 'cycles'\n" + FLAT
    r = report.parse(misses + cycles if first else cycles + misses, told.append)
    assert r.own["copy_page"] == 40.0
    assert "not dTLB-load-misses" in told[0]
    with pytest.raises(CalibrationError, match="measure no time"):
        report.parse(misses)


LINE = "    {:.2f}%  sh  [kernel]  [k] {}\n"
HEAD = "# Samples: 112  of event '{}'\n# Event count (approx.): 5\n"
BAD_REPORTS = {
    "one share": (LINE.format(100.01, "copy_page"), "line 1: more than 100 %"),
    "later on": ("\n" * 4 + HEAD + LINE.format(999, "x"), "line 7: more than 100 %"),
    "of children": (
        f"#  Children      Self\n{LINE.format(101, 'x').replace('%', '%  1.00%', 1)}",
        "line 2: more than 100 %",
    ),
    "half of children": (
        f"#  Children      Self\n{LINE.format(5, 'x')}",
        "line 2: one share where others have two",
    ),
    "nothing of its own": (
        "# Parent symbol\n#  Children      Self\n"
        + LINE.format(5, "try_to_migrate").replace("%", "%  0.00%", 1),
        "no function of migrate_pages",
    ),
    "together": (
        LINE.format(60, "copy_page") * 2,
        r"shares behind line 1 add up to 120.00 %; give one report a file",
    ),
    "samples": ("# Samples: 1.2.3\n" + LINE.format(5, "x"), "line 1: no number of"),
    "samples' digits": ("# Samples: " + "9" * 400 + "\n", "line 1: no number of"),
    "no time": (HEAD.format("page-faults") + LINE.format(5, "x"), "measure no time"),
}


@pytest.mark.parametrize("name", BAD_REPORTS)
def test_a_report_that_cannot_be_is_refused(name: str) -> None:
    text, words = BAD_REPORTS[name]
    with pytest.raises(CalibrationError, match=words) as caught:
        of(text)
    assert "\n" not in str(caught.value)


def test_a_small_number_of_samples_has_a_blank_for_its_unit() -> None:
    """perf writes `112  of event`; which event it is must not be lost."""
    found = report.parse(HEAD.format("cpu-clock") + LINE.format(5, "copy_page"))
    assert found.samples == 112
    assert found.own == {"copy_page": 5.0}


def test_columns_may_be_missing_and_guests_do_not_count() -> None:
    symbols = "\n".join(
        re.sub(r"%.*(\[[k.]\])", r"%  \1", line) for line in FLAT.splitlines()
    )
    assert report.parse(symbols).own == report.parse(FLAT).own
    odd = """
    40.00%  CPU 0/KVM        [kernel.kallsyms]  [k] copy_page
     5.00%  kworker/u64:3+f  [kernel.kallsyms]  [k] try_to_migrate_one
     4.00%  CPU 0/KVM        [guest.kernel.kallsyms]  [g] copy_page
     2.00%  CPU 0/KVM        qemu-system-x86_64  [.] copy_page
     1.00%   12  CPU 0/KVM   [kernel.kallsyms]  [k] copy_page
"""
    assert report.parse(odd).own == {"copy_page": 41.0, "try_to_migrate_one": 5.0}


# --- flushes -------------------------------------------------------------------------


def test_one_cpu_says_nothing_of_a_second() -> None:
    each = 0.10 * ELAPSED / PAGES
    for targets in (None, 1):
        made = of(FLAT, targets=targets)
        assert made["cost.flush_first"] == pytest.approx(each)
        assert made["cost.local_page"] == pytest.approx(0.05 * ELAPSED / PAGES)
        assert "cost.flush_next" not in made
    many = of(FLAT, targets=16)
    first, more = (many[f"cost.flush_{n}"] for n in ("first", "next"))
    assert first + 15 * more == pytest.approx(each)
    assert first / more == pytest.approx(1800 / 280)


def test_flushes_are_counted_as_the_release_makes_them() -> None:
    whole = 0.10 * ELAPSED
    assert of(FLAT)["cost.flush_first"] == pytest.approx(whole / PAGES)
    batched = FLAT + BATCH
    assert of(batched)["cost.flush_first"] == pytest.approx(whole / (PAGES / 512))
    some = of(batched, limit=64)["cost.flush_first"]
    assert some == pytest.approx(whole / (PAGES / 64))
    assert of(batched, limit=0)["cost.flush_first"] == pytest.approx(whole)
    # Calls of one page: a flush each, whatever the release would make of a long list.
    ones = of(batched, flushes=PAGES)["cost.flush_first"]
    assert ones == pytest.approx(whole / PAGES)
    assert of(FLAT, kernel="6.3")["cost.flush_first"] == pytest.approx(whole / 512)


def test_a_report_that_contradicts_what_was_said_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"10.00 % of it wait for other CPUs"):
        of(FLAT, flushes=0)
    with pytest.raises(
        CalibrationError, match=r"migrate_pages_batch\(\) is no function"
    ):
        of(FLAT + BATCH, kernel="6.2")
    serial = FLAT + BATCH.replace("migrate_pages_batch", "unmap_and_move")
    with pytest.raises(CalibrationError, match=r"unmap_and_move\(\) is no function"):
        of(serial, kernel="6.18")


@pytest.mark.parametrize("flushes", [0, None])
def test_an_idle_owner_s_flushes_are_local(flushes: int | None) -> None:
    text = (GUEST / "perf0.flat.txt").read_text()
    made = of(text, pages=16384, elapsed_ns=37_000_000, flushes=flushes)
    assert 110 < made["cost.local_page"] < 150
    assert not [key for key in made if key.startswith("cost.flush")]


def test_arm64_waits_once_a_batch_where_it_defers() -> None:
    base = machines.load("arm64-2n128c")
    whole = 0.15 * ELAPSED

    def spent(waits: int, **how: object) -> float:
        made = of(FLAT + BATCH, base, **how)
        return made["cost.tlbi"] * PAGES + made["cost.dsb"] * waits

    assert spent(PAGES // 512, kernel="6.6") == pytest.approx(whole)
    assert spent(PAGES // 512) == pytest.approx(whole)
    assert spent(PAGES, kernel="6.3") == pytest.approx(whole)
    made = of(FLAT, machines.load("zen3-2s-invlpgb"))
    assert made["cost.broadcast"] == pytest.approx(whole / PAGES)


# --- vmstat --------------------------------------------------------------------------


ONCE = 2140 + 360  # a call, and its first copy


def test_vmstat_of_the_base_itself_changes_nothing() -> None:
    ns = 1000 * (2250 + 1800 + 15 * 280) + ONCE
    files = vmstat(7, 7, 7), vmstat(1007, 1007, 16007)
    found = fit(XEON, from_vmstat(*files, "x", XEON, ProfiledRun(0, ns)), "mine")
    for key in found.keys:
        assert found.profile[key] == pytest.approx(XEON[key], rel=1e-3)
    slow = from_vmstat(*files, "x", XEON, ProfiledRun(0, ns + 2_250_000))
    assert fit(XEON, slow, "mine").profile["cost.copy_4k"] == pytest.approx(1800)
    high = fit(XEON, slow, "mine").profile.numbers["cost.copy_4k"].high
    assert high == pytest.approx(2 * 2070, rel=1e-3)


@given(
    st.sampled_from(machines.names()),
    st.integers(1, 40_000),
    st.integers(0, 20),
    st.sampled_from(["6.2", "6.5", "6.18"]),
    st.sampled_from([(), ("cost.copy_4k",), ("cost.alloc", "cost.walk")]),
    st.floats(1.0, 3.0),
)
def test_a_profile_gives_back_the_time_it_was_made_of(
    name: str, small: int, huge: int, kernel: str, timed: tuple[str, ...], slow: float
) -> None:
    """Whatever else is in the time, it is in it once: flushes, calls, THPs' copies."""
    base, pages = machines.load(name), small + 512 * huge
    files = [
        vmstat(a, b, b) + f"thp_migration_success {c}\ncompact_isolated {a}\n"
        for a, b, c in ((5, 5, 5), (5 + pages, 5 + small // 9, 5 + huge))
    ]
    calls, folios = max(pages // 200, 1), small + huge
    batched = kernel != "6.2"
    how = ProfiledRun(pages, 1, kernel, calls=calls, huge=huge)
    sent = small // 9 if base.arch == "x86" else folios
    if base.arch == "arm64":
        sent = calibrate_run.batches(how, calls) if kernel == "6.18" else 0
    ipis = sent if base.arch == "x86" else 0
    counted = calibrate_run.counts(how, calls, (sent, ipis), batched)
    policy = "batched" if batched else "serial"
    elapsed = slow * cost.price(counted, base, policy=policy).total
    how = dataclasses.replace(how, elapsed_ns=round(elapsed))
    made = fit(base, from_vmstat(*files, "x", base, how, timed=timed), "mine")
    assert not set(timed) & set(made.keys)
    again = cost.price(counted, made.profile, policy=policy).total
    # Four digits a number; the check inside the switch is never more than the switch.
    assert again == pytest.approx(elapsed, rel=1e-3)


def test_without_counters_flushes_are_unknown_until_somebody_says() -> None:
    """No CONFIG_DEBUG_TLBFLUSH: silence is not zero."""
    ns, told = 1000 * (2250 + 1800) + ONCE, list[str]()
    files = [f"pgmigrate_success {n}\n" for n in (7, 1007)]

    def copy(texts: list[str], **how: object) -> float:
        run = ProfiledRun(0, ns, calls=1, **how)
        made = from_vmstat(*texts, "x", XEON, run, told.append)
        return {m.key: m.ns for m in made}["cost.copy_4k"]

    with pytest.raises(CalibrationError, match="flushes are unknown; give --flushes"):
        copy(files)
    assert copy(files, flushes=1000) == pytest.approx(900)
    assert not told
    assert copy(files, kernel="6.2") == pytest.approx(900)
    assert "1,000 flushes" in told.pop()
    # Two flushes; each page leaves its own to them.
    assert copy(files, kernel="6.3") == pytest.approx(900 * (4050 - 3.6 - 30) / 2250)
    assert "2 flushes" in told.pop()
    rows = [
        f"{text} RES:  5  5  Rescheduling\n TLB:  {a}  {b}   TLB shootdowns\n"
        for text, a, b in zip(files, (3, 400), (4, 607), strict=True)
    ]
    assert copy(rows) == pytest.approx(900)
    assert "1,000 interrupts" in told.pop()
    # Counters in one file only are none either.
    with pytest.raises(CalibrationError, match="in both files"):
        copy([files[0], vmstat(1007, 5, 5)])


GOOD = vmstat(0, 0, 0)
BAD_VMSTAT = {
    "empty": ("", "no pgmigrate_success in it"),
    "the same": (GOOD, "pgmigrate_success did not grow"),
    "superscript": (
        "pgmigrate_success 100\nnr_x ²\n",
        "line 2: 'nr_x ²' is no counter",
    ),
    "negative": (
        "pgmigrate_success -5\n",
        "line 1: 'pgmigrate_success -5' is no counter",
    ),
    "2^64": (f"pgmigrate_success {2**64}\n", "line 1: .* is no counter"),
    "digits": (
        f"pgmigrate_success {'9' * 5000}\n",
        "line 1: 'pgmigrate_success 9.* is",
    ),
    "hexadecimal": ("pgmigrate_success 0x10\n", "line 1: .* is no counter"),
    "another file": ("cpu  1 2 3\npgmigrate_success 5\n", "line 1: 'cpu  1 2 3' is no"),
    "twice": (GOOD + vmstat(9, 9, 9), "line 5: nr_free_pages a second time"),
    "rows twice": (GOOD + " TLB: 1 2\n" * 2, "line 6: TLB a second time"),
    "no count": (
        GOOD + " TLB: shootdowns\n",
        "line 5: 'TLB: shootdowns' is no counter",
    ),
    "cut": (vmstat(100, 50, 50)[:-2], "its last line is cut; take it again"),
    "huge": (vmstat(100, 1, 1) + "thp_migration_success 1\n", "of 512 pages each"),
}


@pytest.mark.parametrize("name", BAD_VMSTAT)
def test_bad_vmstat_is_refused(name: str) -> None:
    after, words = BAD_VMSTAT[name]
    before = GOOD + "thp_migration_success 0\n"
    with pytest.raises(CalibrationError, match=words) as caught:
        from_vmstat(before, after, "x", XEON, ProfiledRun(0, 10**9))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fallen", [(1, 9, 9), (9, 1, 9), (9, 9, 1)])
def test_a_counter_that_falls_is_refused(fallen: tuple[int, int, int]) -> None:
    with pytest.raises(CalibrationError, match="falls from 8 to 1; is the order right"):
        from_vmstat(vmstat(8, 8, 8), vmstat(*fallen), "x", XEON, ProfiledRun(0, 10**9))


def test_flushes_longer_than_the_call_are_refused() -> None:
    with pytest.raises(CalibrationError, match="alone would take longer"):
        from_vmstat(vmstat(0, 0, 0), vmstat(9, 9, 99), "x", XEON, ProfiledRun(0, 100))


# --- profiles ------------------------------------------------------------------------


@pytest.mark.parametrize("name", machines.names())
def test_what_is_written_can_be_read(name: str) -> None:
    base = machines.load(name)
    for text in (CHILDREN, FLAT):
        measured = from_perf(text, "x", base, ProfiledRun(PAGES, ELAPSED))
        made = fit(base, measured, "mine").profile
        again = reader.parse(machines.dumps(made), "calibrated", "x", machines.load)
        assert dataclasses.replace(again, dvfs=made.dvfs) == made


@given(
    # Twice that is the most that a profile holds, range included.
    st.dictionaries(st.sampled_from(sorted(XEON.values("cost."))), st.floats(0, 5e8))
)
def test_any_measured_costs_make_a_profile(values: dict[str, float]) -> None:
    """Read back equal, none negative, and nothing else is touched."""
    values.pop("cost.batch_gain", None)
    measured = [Measured(k, ns, "x", 0.9 * ns, 1.2 * ns) for k, ns in values.items()]
    if not measured:
        return
    made = fit(XEON, measured, "mine")
    assert made.keys == tuple(values)
    again = reader.parse(machines.dumps(made.profile), "calibrated", "x", machines.load)
    assert again == made.profile
    assert min(made.profile.values().values()) >= 0
    left = XEON.numbers.keys() - values.keys() - {"cost.move_check"}
    assert all(made.profile.numbers[k] == XEON.numbers[k] for k in left)


def test_a_base_from_before_gains_what_was_measured() -> None:
    old = {k: n for k, n in XEON.numbers.items() if k != "cost.walk_next"}
    base = dataclasses.replace(XEON, numbers=old)
    made = fit(base, [Measured("cost.walk_next", 99.0, "x")], "mine").profile
    assert made["cost.walk_next"] == 99
    assert not made.absent
    with pytest.raises(CalibrationError, match="nothing was measured"):
        fit(base, [Measured("cost.tlbi", 99.0, "x")], "mine")


@pytest.mark.parametrize("form", ["flat", "children"])
def test_compaction_s_profile_gives_its_time_back(form: str) -> None:
    """A real report of many calls: 174,315 pages in 310.75 ms, all of it the call."""
    text, told = (RECORDED / f"{form}.txt").read_text(), list[str]()
    how = ProfiledRun(174_315, 310_750_000, "6.18", flushes=900)
    measured = from_perf(text, "x", XEON, how, told.append)
    assert "compaction_alloc() in it: 681 calls are taken" in "\n".join(told)
    assert "folios of files or shmem are among the pages" in "\n".join(told)
    counted = calibrate_run.counts(how, 681, (900, 900), batched=True)
    again = cost.price(counted, fit(XEON, measured, "mine").profile).total
    local = perf.shares(report.parse(text))[0]["local"] / 100
    assert again == pytest.approx((1 - local) * how.elapsed_ns, rel=0.01)


def test_the_page_s_profile_gives_its_run_back(tmp_path: Path) -> None:
    """What docs/howto/calibrate.md says of it, from the files beside the page."""
    page = Path(__file__).parent.parent / "docs/howto/calibrate"
    made = tmp_path / "mine.toml"
    how = "--pages 269625 --elapsed 580ms --calls 36 --flushes 530 --kernel 6.18"
    files = page / "perf.txt", "--micro", page / "rows.json", "--base", "zen4-vm"
    assert run(*files, *how.split(), "-o", made) == 0
    counted = calibrate_run.counts(
        ProfiledRun(269_625, 1), 36, (530, 530), batched=True
    )
    each = cost.price(counted, machines.load(made)).total / 269_625
    assert each == pytest.approx(1885, abs=1)
    assert each == pytest.approx(0.8775 * 580e6 / 269_625, rel=0.002)


def test_a_caller_s_calls_are_known_by_its_functions() -> None:
    for name, caller in (
        ("compaction_alloc", ("compaction_alloc", 256)),
        ("alloc_demote_folio.isra.0", ("alloc_demote", 32)),
        ("alloc_misplaced_dst_folio", ("alloc_misplaced_dst", 1)),
        ("alloc_migration_target", ("", None)),
    ):
        assert names.calls_of({name: 1.0, "copy_page": 5.0}) == caller
    assert names.kinds_of({"remove_migration_pmd": 1.0}) == ["THPs"]
    assert names.kinds_of({"rmap_walk_file": 0.0, "rmap_walk_anon": 1.0}) == []


def test_single_pages_say_more_of_the_call_than_of_the_page() -> None:
    text = f"{FLAT}   30.00%  migratepages  [kernel.kallsyms]  [k] migrate_pages\n"
    many = of(text, calls=1)
    assert many["cost.bookkeeping"] == pytest.approx(0.3 * ELAPSED / PAGES, abs=0.01)
    assert "cost.call" not in many
    ones = of(text, calls=PAGES)
    parts = ones["cost.call"], ones["cost.bookkeeping"]
    assert parts[0] / parts[1] == pytest.approx(2140 / 500)


def test_a_report_s_shootdown_has_the_timed_one_in_its_range() -> None:
    def both(here: float) -> tuple[Measured, list[str]]:
        told: list[str] = []
        reported = [Measured("cost.flush_first", here, "perf", 0.9 * here, 1.1 * here)]
        timed = [Measured("cost.flush_first", 12e3, "micro", 10e3, 14e3)]
        made = fit(XEON, combined(XEON, reported, timed, 1, told.append), "t")
        return made.profile.numbers["cost.flush_first"], told

    n, told = both(11e3)
    assert (n.value, n.low, n.high) == (11e3, 9900, 14e3)
    assert not any("by itself" in line for line in told)
    n, told = both(6e3)
    assert (n.value, n.low, n.high) == (6e3, 5400, 14e3)
    assert "6,000 ns in the report, 12,000 ns by itself" in told[0]


def test_vmstat_of_compaction_says_so() -> None:
    files = [f"{vmstat(n, n, n)}compact_isolated {2 * n}\n" for n in (7, 1031)]
    told: list[str] = []
    run_ = ProfiledRun(0, 10**7, "6.18", flushes=4)
    made = [from_vmstat(*files, "x", XEON, run_, told.append)]
    assert "compact_isolated grew: compaction, of which 4 calls are taken" in told[0]
    made.append(from_vmstat(*files, "x", XEON, dataclasses.replace(run_, calls=400)))
    ns = [next(m.ns for m in some if m.key == "cost.walk") for some in made]
    usual = 1024 * (2250 + 30)
    assert (ns[0] - ns[1]) / 250 == pytest.approx(396 * ONCE / (usual - 1024 * 30))


def test_several_reports_are_taken_together() -> None:
    rounds = [[Measured("cost.walk", ns, "x", ns - 1, ns + 1)] for ns in (100, 130, 90)]
    (m,) = together(rounds)
    assert (m.ns, m.low, m.high) == (100, 89, 131)
    assert together(rounds[:1]) == rounds[0]


@pytest.mark.parametrize("text", ["", "hello", "  5.00%  sh  [kernel]  [k] idle\n"])
def test_what_is_no_report_of_a_migration_is_refused(text: str) -> None:
    with pytest.raises(CalibrationError):
        of(text)


def test_ranges_hold_their_value_after_rounding() -> None:
    m = Measured("cost.copy_4k", 1234.5678, "x", 1234.5, 1234.6)
    n: Number = fit(XEON, [m], "t").profile.numbers["cost.copy_4k"]
    assert n.low is not None
    assert n.high is not None
    assert n.low <= n.value <= n.high


# --- timings -------------------------------------------------------------------------


def guest() -> dict[str, Any]:
    return read((GUEST / "idle.json").read_text())


def test_timings_of_a_guest_give_its_costs() -> None:
    made = {m.key: m for m in from_micro(guest(), "idle.json", XEON)}
    for key, low, high in (
        ("cost.flush_first", 10_000, 16_000),
        ("cost.local_full", 220, 245),
        ("target.page", 7000, 7300),
        ("access.wake", 13_000, 15_500),
        ("cost.copy_4k", 480, 530),
        ("cost.copy_first", 340, 450),
        ("cost.copy_hot", 80, 100),
    ):
        assert low <= made[key].ns <= high, key
        assert made[key].low <= made[key].ns <= made[key].high
    # The guest has no third CPU, and a lazy one takes no interrupt.
    assert not made.keys() & {"cost.flush_next", "cost.flush_lazy", "cost.call"}
    assert made["cost.copy_2m"].ns == pytest.approx(512 * made["cost.copy_4k"].ns)
    arm = from_micro(guest(), "x", machines.load("arm64-2n128c"))
    assert {m.key for m in arm} <= {
        *("cost.copy_4k", "cost.copy_2m", "cost.copy_first", "cost.copy_hot"),
        *("access.fault", "access.wake"),
    }


def test_three_measurements_of_a_machine_agree() -> None:
    """A guest of two Zen 5 CPUs under other people's load, three times `--measure`."""
    docs = json.loads((RECORDED / "measured.json").read_text())
    base = machines.load("zen4-vm")
    runs = [
        {m.key: m for m in from_micro(read(json.dumps(doc)), "x", base)} for doc in docs
    ]
    assert [len(doc) for doc in docs] == [9, 9, 9]
    assert runs[0].keys() == runs[1].keys() == runs[2].keys()
    assert len(runs[0]) == 11
    for one, other in itertools.product(runs, runs):
        for key, m in one.items():
            assert m.low <= other[key].ns <= m.high, key
            assert 0.7 * m.ns <= m.low
            assert m.high <= 1.3 * m.ns
    # And the arithmetic says what it said when they were recorded.
    firsts = [run["cost.flush_first"].ns for run in runs]
    assert firsts == pytest.approx([9068, 9117, 9039], abs=2)


def test_hot_copies_are_those_that_migrate() -> None:
    """2 MiB from the cache to memory; rows from before know the innermost cache only."""
    rows_ = {"copy4k_warm": 40, "copy4k_from_cache": 215, "copy4k_sequential_cold": 240}
    found = []
    for names_ in (rows_, [n for n in rows_ if n != "copy4k_from_cache"]):
        made = [{"what": n, "median_ns": rows_[n]} for n in names_]
        doc = {"micro_0": {"remote=0": made}, "target_and_futex": []}
        found.append({m.key: m for m in from_micro(doc, "x", XEON)}["cost.copy_hot"])
    assert [m.ns for m in found] == [215, 40]
    assert "2 MiB from the cache" in found[0].source


def test_a_wild_round_does_not_count() -> None:
    def copies(*medians: float) -> list[Measured]:
        doc: dict[str, object] = {"target_and_futex": []}
        for i, ns in enumerate(medians):
            row = {"what": "copy4k_sequential_cold", "median_ns": ns}
            doc[f"micro_{i}"] = {"remote=0": [row]}
        return from_micro(doc, "x", XEON)

    calm, wild = copies(500, 510, 505), copies(500, 510, 5000, 505, 490)
    assert [m.key for m in calm] == [m.key for m in wild]
    assert calm[0].ns == wild[0].ns == 505
    assert (wild[0].low, wild[0].high) == (calm[0].low, calm[0].high)
    assert not copies(500, 510, 5000, 50)


def rows(first: float, own: float = 2000, full: float = 250) -> list[dict[str, object]]:
    """mprotect on a machine of known costs: 60 ns an entry, 40 an INVLPG."""
    made = []
    for n in (1, 33, 34, 128):
        flush = 40 * n if n <= 33 else full
        ns = own + 60 * n + flush + first
        fields = dict.fromkeys(("min_ns", "median_ns", "p90_ns"), ns)
        ipis = {"tlb_ipis_per_call": 1.0 if first else 0.0}
        made.append({"what": "mprotect_rw_to_r", "n": n} | fields | ipis)
    return made


def test_the_arithmetic_of_timings() -> None:
    """A machine of known costs gives them back: 5 us for one CPU, 0.7 for the next."""
    round_ = {f"remote={k}": rows(5000 + 700 * (k - 1) if k else 0) for k in range(4)}
    doc = {"micro": round_, "target_and_futex": []}
    made = {m.key: m.ns for m in from_micro(doc, "x", XEON)}
    assert made == pytest.approx(
        {"cost.flush_first": 5000, "cost.flush_next": 700, "cost.local_full": 250}
    )
    # Where nobody was interrupted nothing is known of an interrupt.
    for r in round_["remote=1"]:
        r["tlb_ipis_per_call"] = 0.1
    del round_["remote=2"], round_["remote=3"]
    assert {m.key for m in from_micro(doc, "x", XEON)} == {"cost.local_full"}


def one(fields: str, more: str = "") -> str:
    """A file of one row."""
    row = ", ".join(['"what": "x"', *([fields] if fields else [])])
    return f'{{"micro": {{"remote=0": [{{{row}}}]}}{", " if more else ""}{more}}}'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[]", "no `micro` rows"),
        ('{"micro": {"remote=0": []}}', "no `micro` rows"),
        ('{"micro": {"remote=0": [5]}}', "is no row"),
        ('{"micro": {"remote=x": [{"what": "x"}]}}', "no `micro` rows"),
        ("[" * 100_000, "numbers or nesting beyond reason"),
        ("9" * 5000, "numbers or nesting beyond reason"),
        (one('"min_ns": -1'), "x, min_ns: -1 is no number, 0 to"),
        (one('"p90_ns": Infinity'), "p90_ns: inf is no number"),
        (one('"median_ns": NaN'), "median_ns: nan is no number"),
        (one('"median_ns": 1e300'), "median_ns: 1e[+]300 is no number"),
        (one('"median_ns": true'), "median_ns: True is no number"),
        (one('"n": 1.5'), "n: 1.5 is no whole number"),
        (one('"tlb_ipis_per_call": "1"'), "tlb_ipis_per_call: '1' is no number"),
        (one('"what": 5'), "is no row"),
        (one('"what": "page_walk"'), "a row of page_walk is without median_ns"),
        (one('"what": "mprotect_rw_to_r", "n": 1'), "is without min_ns"),
        (one("", '"target_and_futex": 5'), "target_and_futex is no list"),
        (one("", '"target_and_futex": ["x"]'), "'x' is no row"),
        (one("", '"target_and_futex": [{"what": "target_loss"}]'), "without pages"),
    ],
)
def test_what_is_no_timing_is_refused(text: str, told: str) -> None:
    with pytest.raises(CalibrationError, match=told) as caught:
        read(text)
    assert "\n" not in str(caught.value)


def small(patch: pytest.MonkeyPatch, cpus: list[int]) -> None:
    """A measurement that takes no time, and is worth nothing but its form."""
    few = {"BATCHES": 4, "CALLS": 2, "AREA": 1 << 7, "COPIED": 8, "CHASED": 4}
    few |= {"WAKES": 9, "FEWEST": 1, "PATIENCE_S": 0.02, "TRIPS": 2}
    few |= {"ROUNDS": 2, "PAUSE_S": 0}
    for name, value in few.items():
        patch.setattr(timings, name, value)
    patch.setattr(timings, "places", lambda: (cpus, None))


NATIVE = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="machine code"
)


@NATIVE
def test_what_measure_writes_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = os.sched_getaffinity(0)
    cpus = sorted(allowed)[:2]
    small(monkeypatch, cpus)
    file = tmp_path / "rows.json"
    assert run("--measure", "-o", file) == 0
    assert os.sched_getaffinity(0) == allowed
    doc = read(file.read_text())
    assert {"micro_0", "micro_1", "target_and_futex", "guest"} == doc.keys()
    hypervisor = "hypervisor" in Path("/proc/cpuinfo").read_text()
    assert json.loads(file.read_text())["guest"] == hypervisor
    found = {row["what"] for row in doc["micro_1"]["remote=0"]}
    assert {"copy4k_sequential_cold", "fault_anon_zero_page_read"} <= found
    # So short a run may contradict itself, and then it says nothing.
    for m in from_micro(doc, "x", XEON):
        assert 0 <= m.low <= m.ns <= m.high


@NATIVE
def test_one_cpu_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small(monkeypatch, sorted(os.sched_getaffinity(0))[:1])
    file = tmp_path / "rows.json"
    assert run("--measure", "-o", file) == 0
    err = capsys.readouterr().err
    assert "one CPU may be used: nobody could be interrupted" in err
    keys = {m.key for m in from_micro(read(file.read_text()), "x", XEON)}
    assert not keys & {"cost.flush_first", "target.page", "access.wake"}


def test_another_node_s_cpu_shows_in_the_range() -> None:
    far = {"remote=0": rows(0), "remote=1": rows(6000)}
    doc = {"micro": {"remote=0": rows(0), "remote=1": rows(5000)}}
    doc |= {"micro_other_node": far, "target_and_futex": []}
    made = {m.key: m for m in from_micro(doc, "x", XEON)}["cost.flush_first"]
    assert (made.ns, made.high) == (5000, 6500)
    # On a machine of its own fewer things differ from one minute to the next.
    made = {m.key: m for m in from_micro(doc | {"guest": False}, "x", XEON)}
    m = made["cost.flush_first"]
    assert (m.low, m.ns, m.high) == (4000, 5000, 6000)


def test_rounds_that_contradict_say_nothing() -> None:
    doc = {
        f"micro{i}": {"remote=0": [{"what": "copy4k_sequential_cold", "median_ns": ns}]}
        for i, ns in enumerate((200, 800))
    }
    doc["target_and_futex"] = []
    assert not from_micro(doc, "x", XEON)


def test_another_machine_is_told_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert run("--measure") == 1
    assert "only on x86-64 Linux; calibrate from perf" in capsys.readouterr().err


def test_cpus_that_answer_are_told_from_those_that_did_not() -> None:
    # Both directions interrupt here, so half of it is a thread that was away.
    tried = [(2.0, 12.0), (1.0, 7.0), (0.0, 2.0), (1.9, 13.0)]
    assert timings._answered(tried, 0.8) == [(2.0, 12.0), (1.9, 13.0)]
    assert timings._answered(tried[1:3], 0.8) == [(1.0, 7.0)]
    assert timings._answered(tried, 0.0) == [(0.0, 2.0)]
    assert timings._cpus("0-2,8\n") == {0, 1, 2, 8}


def test_a_report_and_timings_share_out_the_copy() -> None:
    here = [Measured("cost.copy_4k", 600.0, "perf", 580.0, 620.0)]
    there = [Measured("cost.copy_4k", 500.0, "micro", 450.0, 550.0)]

    def both(pages: int) -> dict[str, float]:
        told: list[str] = []
        made = combined(XEON, here, there, pages, told.append)
        numbers = fit(XEON, made, "t").profile
        return {k: numbers[f"cost.{k}"] for k in ("copy_4k", "copy_beyond")}

    told: list[str] = []
    combined(XEON, here, there, 1, told.append)
    assert "cost.flush_first" in told[0]
    # 4,096 pages and their copies fill the cache of 8,192; of 16,384 three in four do not.
    assert both(4096) == {"copy_4k": 600, "copy_beyond": 0}
    large = both(16384)
    assert large == {
        "copy_4k": 500,
        "copy_beyond": pytest.approx(100 * 4 / 3, rel=1e-3),
    }
    again = large["copy_4k"] + large["copy_beyond"] * 3 / 4
    assert again == pytest.approx(600, rel=1e-3)


# --- the command ---------------------------------------------------------------------


def run(*args: str | Path) -> int:
    return cli.main(["calibrate", *map(str, args)])


def test_a_guest_s_profile_predicts_its_other_calls(tmp_path: Path) -> None:
    """Made of calls of 16,384 pages: medians of calls of 512 on are within 10 %."""
    made = tmp_path / "vm.toml"
    how = [
        "--pages",
        "16384",
        "--elapsed",
        "37.0ms",
        "--kernel",
        "6.18",
        "--flushes",
        "0",
    ]
    files = GUEST / "perf0.children.txt", "--micro", GUEST / "idle.json"
    assert run(*files, *how, "-o", made) == 0
    profile = machines.load(made)
    each = (
        "allocs alloc_pages tries ptes_cleared nr_tlb_local_flush_one moves "
        "folios_moved pages_copied ptes_set"
    )
    measured = json.loads((GUEST / "idle.json").read_text())["idle_rows"]
    assert len(measured) == 10
    errors = []
    for row in measured:
        n = row["pages"]
        counts = dict.fromkeys(cost.PRICED, 0) | dict.fromkeys(each.split(), n)
        predicted = cost.price(counts | {"calls": 1}, profile).total / n
        errors.append(predicted / (0.77 * row["cpu_ns_per_page"]["median"]) - 1)
    assert statistics.median(map(abs, errors)) < 0.10
    assert max(map(abs, errors)) < 0.20


def test_the_command_writes_what_machine_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "perf.txt").write_text(FLAT)
    made = tmp_path / "mine.toml"
    some = ("--pages", str(PAGES), "--elapsed", "2068000000ns", "-o", made)
    assert run(tmp_path / "perf.txt", *some) == 0
    err = capsys.readouterr().err
    assert "cost.copy_4k = 3156" in err
    assert "one report: its ranges are sampling errors alone" in err
    assert cli.main(["machines", str(made)]) == 0
    assert "perf.txt: 40.00 %" in capsys.readouterr().out
    times = ("--pages", str(PAGES), "--elapsed", "2.068s,4.136s", "-o", made)
    assert run(tmp_path / "perf.txt", tmp_path / "perf.txt", *times) == 0
    n = machines.load(made).numbers["cost.copy_4k"]
    assert n.value == pytest.approx(3156 * 1.5, rel=1e-3)
    assert n.low == pytest.approx(3156, rel=0.01)
    assert n.high == pytest.approx(2 * 3156, rel=0.01)


@pytest.mark.parametrize(
    "time", ["1139603850ns", "1.1396038500000s", "0001139603850ns"]
)
def test_a_time_may_have_any_number_of_digits(time: str) -> None:
    from jaxmig.cli.options import duration

    assert duration(time) == 1_139_603_850


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (2, ()),
        (2, ("{file}",)),
        (2, ("{file}", "--elapsed", "1s")),
        (2, ("{file}", "--elapsed", "1")),
        (2, ("{file}", "--elapsed", "0ns")),
        (2, ("{file}", "--elapsed", "1s,2s", "--pages", "5")),
        (2, ("{file}", "-o", "x.json")),
        (2, ("{file}", "--running", "16")),
        (2, ("{file}", "--share", "1.5")),
        (2, ("{file}", "--kernel", "6.2,6.3")),
        (2, ("--measure", "--micro", "{file}")),
        (1, ("{file}", "--elapsed", "1s", "--pages", "5")),
        (1, ("{file}", "{file}", "--elapsed", "1s")),
        (1, ("--micro", "{file}")),
        (1, ("nowhere", "--elapsed", "1s")),
        (1, ("{idle}", "--elapsed", "1s", "--pages", "5")),
        (1, ("{before}", "{after}", "--elapsed", "1s")),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, args: tuple[str, ...]
) -> None:
    files = {name: tmp_path / name for name in ("file", "idle", "before", "after")}
    files["file"].write_text("nothing\n")
    files["idle"].write_text("    5.00%  sh  [kernel]  [k] idle\n")
    files["before"].write_text("pgmigrate_success 5\n")
    files["after"].write_text("pgmigrate_success 6\n")
    assert run(*(a.format(**files) for a in args)) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("how", [(), ("--micro",)])
def test_what_is_read_whole_has_a_largest_size(
    capsys: pytest.CaptureFixture[str], how: tuple[str, ...]
) -> None:
    assert run(*how, "/dev/zero", "--pages", "5", "--elapsed", "1s") == 1
    said = capsys.readouterr().err
    assert said.endswith("/dev/zero: longer than 67,108,864 bytes; give another file\n")


def test_names_of_programs_need_not_be_text(tmp_path: Path) -> None:
    data = FLAT.encode().replace(b"migratepages", b"migrat\xffpages")
    assert data != FLAT.encode()
    (tmp_path / "perf.txt").write_bytes(b"\xef\xbb\xbf" + data)
    made = ("--pages", str(PAGES), "--elapsed", "2s", "-o", tmp_path / "x.toml")
    assert run(tmp_path / "perf.txt", *made) == 0
    (tmp_path / "perf.txt").write_bytes(FLAT.encode("utf-16"))
    assert run(tmp_path / "perf.txt", *made) == 1


def test_of_several_files_the_wrong_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text("pgmigrate_success 5\n")
    bad.write_text("pgmigrate_success 9\nnr_x -5\n")
    for pair in ((good, bad), (bad, good)):
        assert run(*pair, "--elapsed", "1s") == 1
        assert f"calibrate: {bad}: line 2: 'nr_x -5' is no" in capsys.readouterr().err
    report = (RECORDED / "flat.txt").read_text()
    good.write_text(report)
    bad.write_text(report.replace("%", "0%", 1) + "  100.01%  a  [k] migrate_pages\n")
    words = ("--pages", "9", "--elapsed", "1s")
    assert run(good, bad, *words) == 1
    assert f"calibrate: {bad}: line " in capsys.readouterr().err


def test_cpus_that_may_be_used_by_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest node first; one CPU of another if any may be used."""
    monkeypatch.setattr(timings, "_NODES", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 3, 9})
    assert timings.places() == ([1, 2, 3, 9], None)
    for node, text in enumerate(("0-1\n", "2-8,11\n", "12\n", "9\n")):
        (tmp_path / f"node{node}").mkdir()
        (tmp_path / f"node{node}/cpulist").write_text(text)
        found = ([1], None) if node == 0 else ([2, 3], 1)
        assert timings.places() == found


def test_counters_that_linux_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object, **how: object) -> str:
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", closed)
    assert timings.interrupts() is None
    assert timings._delay(1) == 0
    monkeypatch.setattr(Path, "read_text", lambda self: "  0:  1  2  IO-APIC\n")
    assert timings.interrupts() is None
    monkeypatch.setattr(Path, "read_text", lambda self: " TLB:  3  4  shootdowns\n")
    assert timings.interrupts() == 7


def test_a_row_without_one_of_its_fields_is_used_or_refused() -> None:
    """Each field of each kind of row; nothing but CalibrationError may come of it."""
    doc = guest()
    rounds = [r for key, r in doc.items() if key.startswith("micro")]
    rows = [row for r in rounds for some in r.values() for row in some]
    rows += doc["target_and_futex"]
    kinds = {(row["what"], name): row for row in rows for name in row}
    refused = 0
    for (_, name), row in kinds.items():
        value = row.pop(name)
        try:
            from_micro(read(json.dumps(doc)), "x", XEON)
        except CalibrationError:
            refused += 1
        row[name] = value
    assert len(kinds) > refused > 20
