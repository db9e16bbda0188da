"""Profiles from measurements: shares of perf, scaled vmstat, times of this machine."""

import dataclasses
from pathlib import Path

import pytest
from jaxmig import cli, machines
from jaxmig.calibrate import (
    CalibrationError,
    Measured,
    fit,
    from_perf,
    from_vmstat,
    measure,
    perf,
)
from jaxmig.machines import reader

RECORDED = Path(__file__).with_name("data") / "perf"
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


def vmstat(moved: int, flushes: int, ipis: int) -> str:
    return (
        f"nr_free_pages 5\npgmigrate_success {moved}\nnr_tlb_remote_flush {flushes}\n"
        f"nr_tlb_remote_flush_received {ipis}\n"
    )


def test_a_profile_with_children_gives_the_published_costs() -> None:
    base = machines.load("arm64-2n128c")
    found = fit(base, from_perf(CHILDREN, "x", base, PAGES, ELAPSED), "mine")
    for key in ("walk", "copy_4k", "switch", "tlbi", "dsb", "alloc", "bookkeeping"):
        name = f"cost.{key}"
        assert found.profile[name] == pytest.approx(base[name], rel=0.04)
        n = found.profile.numbers[name]
        assert n.low is not None
        assert n.high is not None
        assert n.low < n.value < n.high
        assert n.source.startswith("x: ")
    assert "cost.copy_2m" not in found.keys


def test_a_flat_profile_is_sorted_into_groups() -> None:
    shares = perf.own(perf.parse(FLAT).percent)
    assert shares == {
        "copy": 40.0,
        "flush": 15.0,
        "walk": 5.0,
        "alloc": 4.0,
        "remap": 3.0,
        "switch": 2.0,
    }


def test_a_flush_of_many_cpus_is_shared_in_proportion() -> None:
    base = machines.load("xeon-2s")
    found = fit(base, from_perf(FLAT, "x", base, PAGES, ELAPSED), "mine", running=16)
    first, more = (found.profile[f"cost.flush_{n}"] for n in ("first", "next"))
    assert first + 15 * more == pytest.approx(0.15 * ELAPSED / PAGES, rel=1e-3)
    assert first / more == pytest.approx(1800 / 280, rel=1e-2)


def test_a_batched_profile_pays_one_flush_a_batch() -> None:
    base = machines.load("arm64-2n128c")
    text = FLAT + "  1.00%  migratepages  [kernel.kallsyms]  [k] migrate_pages_batch\n"
    flush = {m.group: m.ns for m in from_perf(text, "x", base, PAGES, ELAPSED)}["flush"]
    assert flush == pytest.approx(0.15 * ELAPSED / (PAGES / 512))


def test_reports_of_a_real_kernel() -> None:
    """Linux 6.18 compacts memory: a report of each kind, of the same samples."""
    texts = {n: (RECORDED / f"{n}.txt").read_text() for n in ("flat", "children")}
    reports = {name: perf.parse(text) for name, text in texts.items()}
    assert [r.children for r in reports.values()] == [False, True]
    assert {r.samples for r in reports.values()} == {2000}
    flat = perf.own(reports["flat"].percent)
    below = perf.below(reports["children"].percent)
    groups = {"alloc", "copy", "flush", "remap", "switch", "walk"}
    assert flat.keys() == below.keys() == groups
    assert flat["copy"] == pytest.approx(below["copy"], rel=0.02)
    # A function's own time is part of what is below it, whatever its helpers are called.
    for group in ("alloc", "flush", "remap", "walk"):
        assert flat[group] < 1.2 * below[group]
    assert 70 < sum(flat.values()) < sum(below.values()) <= 100
    base = machines.load("xeon-2s")
    made = {
        m.group: m.ns for m in from_perf(texts["flat"], "x", base, 174_315, 310_750_000)
    }
    assert made["copy"] == pytest.approx(flat["copy"] / 100 * 310_750_000 / 174_315)
    assert made["flush"] > 10 * made["copy"]  # one serves a batch


def test_vmstat_of_the_base_itself_changes_nothing() -> None:
    base = machines.load("xeon-2s")
    ns = 1000 * (2250 + 1800 + 15 * 280)
    files = vmstat(7, 7, 7), vmstat(1007, 1007, 16007)
    found = fit(base, from_vmstat(*files, "x", base, ns, 1), "mine")
    for key in found.keys:
        assert found.profile[key] == pytest.approx(base[key], rel=1e-3)
    slow = fit(base, from_vmstat(*files, "x", base, ns + 2_250_000, 1), "mine")
    assert slow.profile["cost.copy_4k"] == pytest.approx(1800, rel=1e-3)
    assert slow.profile.numbers["cost.copy_4k"].high == pytest.approx(
        2 * 2070, rel=1e-3
    )


@pytest.mark.parametrize("name", machines.names())
def test_what_is_written_can_be_read(name: str) -> None:
    base = machines.load(name)
    for text in (CHILDREN, FLAT):
        made = fit(base, from_perf(text, "x", base, PAGES, ELAPSED), "mine").profile
        again = reader.parse(machines.dumps(made), "calibrated", "x", machines.load)
        assert dataclasses.replace(again, dvfs=made.dvfs) == made


@pytest.mark.parametrize("files", [("", ""), ("pgmigrate_success 5\n",) * 2])
def test_bad_vmstat_is_refused(files: tuple[str, str]) -> None:
    with pytest.raises(CalibrationError):
        from_vmstat(*files, "x", machines.load("xeon-2s"), 10**9, 1)


def test_flushes_longer_than_the_call_are_refused() -> None:
    with pytest.raises(CalibrationError, match="alone would take longer"):
        from_vmstat(
            vmstat(0, 0, 0), vmstat(9, 9, 99), "x", machines.load("xeon-2s"), 100, 1
        )


@pytest.mark.parametrize("text", ["", "hello", "  5.00%  sh  [kernel]  [k] idle\n"])
def test_what_is_no_report_of_a_migration_is_refused(text: str) -> None:
    with pytest.raises(CalibrationError):
        from_perf(text, "x", machines.load("xeon-2s"), 10, 10)


def test_ranges_hold_their_value_after_rounding() -> None:
    base = machines.load("xeon-2s")
    found = fit(base, [Measured("copy", 1234.5678, "x", 1234.5, 1234.6)], "t").profile
    n = found.numbers["cost.copy_4k"]
    assert n.low is not None
    assert n.high is not None
    assert n.low <= n.value <= n.high


@pytest.mark.slow
def test_this_machine_can_be_measured() -> None:
    found = {m.group: m for m in measure()}
    assert "copy" in found
    for m in found.values():
        assert m.low is not None
        assert m.high is not None
        assert 0 <= m.low <= m.ns <= m.high < 10**8


def run(*args: str | Path) -> int:
    return cli.main(["calibrate", *map(str, args)])


def test_the_command_writes_what_machine_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "perf.txt").write_text(FLAT)
    made = tmp_path / "mine.toml"
    some = ("--pages", str(PAGES), "--elapsed", "2.068s", "-o", made)
    assert run(tmp_path / "perf.txt", *some) == 0
    assert "cost.copy_4k = 3156" in capsys.readouterr().err
    assert cli.main(["machines", str(made)]) == 0
    assert "perf.txt: 40.00 %" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (2, ()),
        (2, ("a", "--measure")),
        (2, ("{file}",)),
        (2, ("{file}", "--elapsed", "1s")),
        (2, ("{file}", "--elapsed", "1")),
        (2, ("{file}", "-o", "x.json")),
        (1, ("{file}", "--elapsed", "1s", "--pages", "5")),
        (1, ("{file}", "{file}", "--elapsed", "1s")),
        (1, ("nowhere", "--elapsed", "1s")),
        (2, ("{file}",) * 3 + ("--elapsed", "1s")),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, args: tuple[str, ...]
) -> None:
    (tmp_path / "f").write_text("nothing\n")
    assert run(*(a.format(file=tmp_path / "f") for a in args)) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
