"""Traces read back: their counts and times are those of the records."""

import dataclasses
import functools
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jaxmig import cli, report
from jaxmig.report import folded, perfetto, tracefs
from jaxmig.report.timed import Traced
from jaxmig.sources.scenario import loads
from jaxmig.state import pte
from jaxmig.time.cost import PHASES
from jaxmig.tools import player
from trace_formats import chrome, ns, stacks, tracefs as read

KERNELS = ("6.2", "6.12")
SCENARIO = """
[machine]
nodes = 2
cpus = 4
[[process]]
name = "victim"
running = [1, 2]
lazy = [3]
[[process]]
name = "mover"
running = [0]
[[region]]
process = "victim"
name = "heap"
size = "160k"
[[region]]
process = ["victim", "mover"]
name = "both"
size = "32k"
kind = "shmem"
[[region]]
process = "victim"
name = "huge"
size = "2m"
folio = "2m"
[[condition]]
region = "heap"
pages = [3, 4]
state = "extra_ref"
[[call]]
syscall = "migrate_pages"
process = "victim"
from = "0"
to = "1"
[[call]]
syscall = "move_pages"
process = "victim"
pages = "heap"
nodes = 0
flags = "move_all"
"""


@functools.cache
def played() -> tuple[Traced, ...]:
    """Both calls on both kernels, with their logs."""
    found: list[Traced] = []
    player.play(loads(SCENARIO), kernels=KERNELS, trace=found.append, logs=True)
    return tuple(found)


@functools.cache
def events() -> dict[str, list[Any]]:
    return read("".join(tracefs.text(played())))


def calls() -> list[tuple[Traced, list[Any]]]:
    return [(t, events()[t.title]) for t in played()]


def test_trace_points_count_what_the_record_counts() -> None:
    assert len(events()) == 2 * len(KERNELS)
    for t, lines in calls():
        vmstat = t.record["vmstat"]
        flushes = [e for e in lines if e.event == "tlb_flush"]
        by_reason = Counter(int(e.fields["number"]) for e in flushes)
        assert by_reason[4] == vmstat["nr_tlb_remote_flush"]
        taken = Counter(e.cpu for e in flushes if e.fields["number"] == "1")
        assert [taken[c] for c in range(4)] == t.record["ipis_per_cpu"]
        own = [int(e.fields["pages"]) for e in flushes if e.fields["number"] in "23"]
        assert own.count(-1) == vmstat["nr_tlb_local_flush_all"]
        ones = sum(n for n in own if n > 0)
        assert ones == vmstat["nr_tlb_local_flush_one"]
        ends = [e.fields for e in lines if e.event == "mm_migrate_pages"]
        assert sum(int(f["succeeded"]) for f in ends) == vmstat["pgmigrate_success"]
        assert sum(int(f["failed"]) for f in ends) == vmstat["pgmigrate_fail"]
        assert all(("split" in f) == (t.record["kernel"] == "6.12") for f in ends)


def test_every_migration_entry_is_removed_and_names_its_page() -> None:
    for _, lines in calls():
        waiting: dict[int, int] = {}
        for e in lines:
            if not e.event.endswith("migration_pte"):
                continue
            address, word = int(e.fields["addr"], 16), int(e.fields["pte"], 16)
            assert 0x10000000 <= address < 0x10800000
            # Two processes map some pages at one address.
            step = 1 if e.event == "set_migration_pte" else -1
            waiting[address] = waiting.get(address, 0) + step
            assert waiting[address] in (0, 1, 2)
            assert (word & 1) == (step == -1)
            assert int(e.fields["order"]) == (9 if address >= 0x10200000 else 0)
        assert waiting
        assert not any(waiting.values())


def test_events_follow_one_another() -> None:
    last = 0
    for _, lines in calls():
        assert lines[0].event == "mm_migrate_pages_start"
        assert lines[-1].event == "mm_migrate_pages"
        assert lines[0].fields["reason"] == "syscall_or_cpuset"
        for e in lines:
            assert e.us >= last
            last = e.us
        assert {e.comm for e in lines if e.cpu == 1} == {"victim"}


def test_stretches_are_the_log_of_the_call() -> None:
    for t, lines in calls():
        some, r = report.stretches(t), t.record
        folios = len(
            {e.fields["addr"] for e in lines if e.event == "set_migration_pte"}
        )
        # A page that is refused is tried again after others: a stretch of its own.
        assert some[-1].last >= (r["batches"] or folios)
        assert r["batches"] in (0, some[-1].last)
        assert [s.first for s in some[1:]] == [s.last + 1 for s in some[:-1]]
        assert some[0].first == 1
        for i, phase in enumerate(PHASES):
            assert sum(s.ns[i] for s in some) == r["time_ns"][phase]
        for a, b in itertools.pairwise(some):
            assert b.begin == a.begin + sum(a.ns)
        assert sum(s.ipis for s in some) == sum(r["ipis_per_cpu"]) > 0
        assert report.stretches(dataclasses.replace(t, calls=())) == []


def test_the_longest_stall_of_a_log_is_that_of_the_record() -> None:
    """With pages of one size; the record's means hold what pages that stay took, too."""
    back = [t for t, _ in calls() if t.record["syscall"] == "move_pages"]
    assert len(back) == len(KERNELS)
    for t in back:
        longest = max(s.stall for s in report.stretches(t))
        assert 0.9 < longest / t.record["stall_ns"]["max"] <= 1.01


@pytest.mark.parametrize("bits", [0, pte.DIRTY, pte.YOUNG | pte.SOFT_DIRTY])
def test_entries_are_spelled_as_x86_does(bits: int) -> None:
    word = tracefs.migration(0x1A2B3, bits | pte.WRITABLE)
    assert word >> 59 == 26
    offset = ~(word << 5 >> 14) & (1 << 50) - 1
    assert offset & (1 << 34) - 1 == 0x1A2B3
    assert bool(offset >> 35 & 1) == bool(bits & pte.DIRTY)
    assert not word & 1
    there = tracefs.present(0x1A2B3, bits | pte.WRITE)
    assert there >> 12 & (1 << 34) - 1 == 0x1A2B3
    assert there & 3 == 3


def within(slices: list[Any], t: Traced, call: Any) -> list[Any]:
    first, last = ns(call["ts"]), ns(call["ts"]) + ns(call["dur"])
    track = (call["pid"], t.cpu)
    mine = [e for e in slices if (e["pid"], e["tid"]) == track]
    return [e for e in mine if first <= ns(e["ts"]) <= ns(e["ts"] + e["dur"]) <= last]


def check_times(document: Any) -> list[Any]:
    """Phases sum to the records' times, handlers to what they took."""
    slices = chrome(json.loads(report.to_json(document)))
    tops = [e for e in slices if e.get("cat") == "call"]
    assert len(tops) == len(played())
    for t, call in zip(played(), tops, strict=True):
        spent: Counter[str] = Counter(dict.fromkeys(PHASES, 0))
        for e in within(slices, t, call):
            if e["cat"] == "phase":
                spent[e["name"]] += ns(e["dur"])
        times = dict(t.record["time_ns"])
        assert ns(call["dur"]) == times.pop("total") == sum(spent.values())
        assert dict(spent) == times
    ipis = [e for e in slices if e["cat"] == "ipi"]
    stolen = sum(t.record["stolen_ns"] for t in played())
    assert sum(ns(e["dur"]) for e in ipis) == pytest.approx(stolen, abs=len(ipis))
    taken = sum(e["args"].get("ipis", 1) for e in ipis)
    assert taken == sum(sum(t.record["ipis_per_cpu"]) for t in played())
    return slices


def test_slices_nest_and_phases_sum_to_the_record() -> None:
    made = perfetto.trace(played())
    assert not made.aggregated
    slices = check_times(made.document)
    kinds = Counter(e["cat"] for e in slices)
    assert kinds["folio"] > 40
    assert kinds["stage"] >= 6  # unmap, flush, move of at least two batches
    names = {e["name"] for e in slices}
    assert {"migrate_folio_unmap", "try_to_unmap_flush", "TLB shootdown"} <= names


@pytest.mark.parametrize(("folios", "share"), [(10, 200_000), (10, 50)])
def test_many_folios_are_drawn_together(
    monkeypatch: pytest.MonkeyPatch, folios: int, share: int
) -> None:
    monkeypatch.setattr(perfetto, "MAX_FOLIOS", folios)
    monkeypatch.setattr(perfetto, "MAX_SLICES", share)
    made = perfetto.trace(played())
    assert made.aggregated
    slices = check_times(made.document)
    assert not [e for e in slices if e["cat"] == "folio"]


def test_stacks_sum_to_the_total() -> None:
    priced = [(t.record, t.cost) for t in played()]
    found = stacks(folded.folded(priced))
    total = sum(t.record["time_ns"]["total"] for t in played())
    assert sum(found.values()) == total
    assert {s[0] for s in found} == {"6.2 serial", "6.12 batched"}
    document = folded.speedscope(priced, "1")
    assert document["$schema"].endswith("file-format-schema.json")
    frames = document["shared"]["frames"]
    for p, (record, _) in zip(document["profiles"], priced, strict=True):
        assert p["type"] == "sampled"
        assert len(p["samples"]) == len(p["weights"])
        assert p["endValue"] == sum(p["weights"]) == record["time_ns"]["total"]
        assert all(0 <= i < len(frames) for s in p["samples"] for i in s)


def test_the_command_writes_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    monkeypatch.setattr(perfetto, "MAX_FOLIOS", 100)
    job = ["migratepages", "memhog:1m", "0", "1", "--cpus", "4", "--running", "1-3"]
    files = {n: tmp_path / n for n in ("trace", "tracefs", "folded", "speedscope")}
    options = [x for n, p in files.items() for x in (f"--{n}", str(p))]
    out = tmp_path / "records"
    assert cli.main([*job, "--kernel", "6.3", *options, "--json", str(out)]) == 0
    told = capsys.readouterr()
    assert "drawn together" in told.err
    assert "6.3 batched" in told.out
    (record,) = json.loads(out.read_text())["calls"]
    ((title, lines),) = read(files["tracefs"].read_text()).items()
    assert title == "6.3: migratepages, memhog:1m"
    assert sum(e.event == "set_migration_pte" for e in lines) == 256
    assert {e.comm for e in lines} == {"migratepages", "memhog"}
    chrome(json.loads(files["trace"].read_text()))
    weights = stacks(files["folded"].read_text()).values()
    assert sum(weights) == record["time_ns"]["total"]
    assert json.loads(files["speedscope"].read_text())["profiles"]


@pytest.mark.parametrize("name", ["trace", "tracefs", "folded", "speedscope"])
def test_traces_need_a_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["migratepages", "memhog:1m", "0", "1"]
    assert cli.main([*job, f"--{name}", "-"]) == 2
    assert cli.main([*job, f"--{name}", "/nowhere/at/all"]) == 1
    assert "no such directory" in capsys.readouterr().err
