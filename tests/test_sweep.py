"""Sweeps: axes, counts against single calls, prices, files that survive anything."""

import csv
import dataclasses
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jaxmig
import numpy as np
import pytest
from jaxmig import __version__, cli
from jaxmig.calls import syscalls
from jaxmig.calls.syscalls import Area, Session, Space
from jaxmig.cli import app, gather, sweeptable
from jaxmig.engine.migrate import Result
from jaxmig.linux.rules import rules
from jaxmig.report.window import AwayTimes, away, quantile
from jaxmig.sources.targets import Setting, resolve
from jaxmig.state.events import COUNTERS
from jaxmig.state.machine import PAGE_BYTES
from jaxmig.time import cost, machines
from jaxmig.tools import job
from jaxmig.tools.sweep import (
    AXES,
    AxisError,
    CallRunner,
    Grid,
    count_many,
    journal,
    play,
    rows,
    values,
)
from jaxmig.tools.sweep.counts import countable
from jaxmig.tools.sweep.engine import CallTally, SweptCall, run_of
from jaxmig.tools.sweep.memory import Memory
from jaxmig.tools.sweep.play import Sweep
from jaxmig.tools.sweep.pricing import MachineWeights
from processes import LIMIT_S, environment, held_port, together

SMALL = ("sweep", "memhog:1m", "--batch", "1,64:256:64", "--cpus", "2:8:2x")
SMALL += ("--running", "all")
OLD, NEW = frozenset({0}), frozenset({1})


def run(*args: str) -> int:
    return cli.main([*map(str, args)])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8", (8,)),
        ("8,1,8", (8, 1)),
        ("0:100:25", (0, 25, 50, 75, 100)),
        ("2:100:2x", (2, 4, 8, 16, 32, 64)),
        ("1,512:1024:512", (1, 512, 1024)),
    ],
)
def test_values(text: str, found: tuple[int, ...]) -> None:
    assert values(text, "things", 0, 4096) == found


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "1:2", "5:1:1", "1:5:0", "1:5:1x", "0:5:2x", "9999", "-1"]
)
def test_bad_values_are_refused(text: str) -> None:
    with pytest.raises(AxisError):
        values(text, "things", 0, 4096)


def grid(**axes: tuple) -> Grid:
    one: dict = {
        "thp": (0,),
        "kernel": ("6.3",),
        "mode": ("sync",),
        "cpus": (4,),
        "batch": (512,),
        "machine": ("xeon-2s",),
        "copy": ("cpu",),
    }
    return Grid(**(one | axes))


def test_a_grid_is_the_product_in_order() -> None:
    g = grid(kernel=("6.2", "6.3"), cpus=(2, 4, 8), copy=("cpu", "dma:16"))
    points = [g.at(i) for i in range(len(g))]
    product = itertools.product(*g.axes.values())
    assert [tuple(getattr(p, n) for n in AXES) for p in points] == list(product)


def test_samples_are_seeded_points_of_the_grid() -> None:
    g = grid(cpus=tuple(range(1, 1001)), batch=tuple(range(1000)))
    drawn = g.indices(50, 1)
    assert list(drawn) == sorted(set(drawn))
    assert len(drawn) == 50
    assert max(drawn) < len(g) == 1_000_000
    assert list(g.indices(50, 1)) == list(drawn) != list(g.indices(50, 2))
    assert g.indices(10**6, 0) == range(len(g))


def test_processes_share_every_point_once_with_all_its_prices() -> None:
    g = grid(cpus=(2, 4, 8), machine=("xeon-2s", "zen3-2s"))
    parts = [g.share(range(len(g)), i, 2) for i in range(2)]
    assert sorted(parts[0] + parts[1]) == list(range(len(g)))
    assert {i // 2 for i in parts[0]} & {i // 2 for i in parts[1]} == set()


def memory(text: str = "memhog:6m", cpus: int = 8) -> Memory:
    return Memory(resolve(text), 2, 0, cpus, everywhere=True)


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
@pytest.mark.parametrize("thp", [0, 50])
def test_counts_are_those_of_single_calls(kernel: str, thp: int) -> None:
    """With the TLBs of the machine instead of the least ones, and unpadded CPUs."""
    where = memory()
    runs = [
        SweptCall(thp, kernel, "sync", "x86", c, b, engine=False)
        for c, b in ((2, 7), (8, 0), (5, 512))
    ]
    found = CallRunner(where, OLD, NEW).tallies(runs)
    for one, tally in zip(runs, found, strict=True):
        state, space = where.build(thp)
        full, _ = resolve("memhog:6m").build(
            Setting(cpus=8, running=tuple(range(1, one.cpus)), content=False)
        )
        if thp == 0:
            state = full
        else:
            state = state.__class__(**(vars(state) | {"cpus": full.cpus}))
        s = Session(state, kernel, batch=one.batch)
        assert syscalls.migrate_pages(s, space, OLD, NEW) == tally.ret == 0
        assert s.counts == tally.counts
        assert (sum(s.ipis), max(s.ipis)) == (tally.ipis, tally.ipis_most)
        assert tally.mapped == (0, 1536)


def on_two_nodes(setting: Setting) -> tuple[jaxmig.Machine, Space]:
    b = jaxmig.Builder(setting.nodes, setting.cpus)
    process = b.process("a", setting.running)
    areas = [b.mmap(process, pages, node) for node, pages in ((0, 100), (1, 50))]
    m = b.build(content=False)
    where = [Area(r.start // PAGE_BYTES, r.pages, r.first_pte[0]) for r in areas]
    return m, Space(where)


@pytest.mark.parametrize("batch", [64, 0])
def test_several_lists_go_through_the_system_call(batch: int) -> None:
    """Pages on two nodes are two lists, of which the second depends on the first."""
    target = dataclasses.replace(resolve("memhog:600k"), build=on_two_nodes)
    where = Memory(target, 4, 0, 4, everywhere=True)
    one = SweptCall(0, "6.3", "sync", "x86", 4, batch, engine=False)
    old, new = frozenset({0, 1}), frozenset({2, 3})
    tallies = CallRunner(where, old, new).tallies([one, one])
    state, space = where.build(0)
    s = Session(state, "6.3", batch=batch)
    assert syscalls.migrate_pages(s, space, old, new) == 0
    for tally in tallies:
        assert (tally.ret, tally.errno, tally.mapped) == (0, None, (0, 0, 100, 50))
        assert tally.counts == s.counts
        assert tally.counts["batches"] == (3 if batch else 2)
        assert (tally.ipis, tally.ipis_most) == (sum(s.ipis), max(s.ipis))


def alike(n: int) -> list[jaxmig.Machine]:
    """Machines that differ in what is in the way, and in who runs where."""
    found = []
    for i in range(n):
        b = jaxmig.Builder(nodes=2, cpus=4)
        r = b.mmap(b.process("a", range(1 + i % 3)), 600)
        b.mmap([b.process("b", [3]), b.process("c", lazy=[2])], 300)
        b.condition(r, "extra_ref", range(i, 600, 7))
        b.condition(r, "locked", range(0, 600, 50), until=1 + i)
        found.append(b.build(content=False))
    return found


def as_single_calls(
    states: list[jaxmig.Machine],
    folios: Any,
    limits: list[int],
    kernel: str,
    **how: int,
) -> Result:
    """What all configurations count; each must be what its own call counts."""
    got = count_many(states, folios, 1, batch=limits, kernel=kernel, **how)
    for i, (m, limit) in enumerate(zip(states, limits, strict=True)):
        _, want = jaxmig.migrate_pages(m, folios, 1, batch=limit, kernel=kernel)
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
            np.testing.assert_array_equal(a, b[i])
    return got


@pytest.mark.parametrize("kernel", ["6.2", "6.12"])
def test_many_configurations_count_as_single_calls(kernel: str) -> None:
    states, limits = alike(3), [512, 7, 0]
    folios = jaxmig.folios_on(states[0], 0)
    got = as_single_calls(states, folios, limits, kernel, at_once=2)
    assert len({tuple(row) for row in got.events.ipis.tolist()}) > 1


def of_several_sizes(n: int) -> list[jaxmig.Machine]:
    """Folios of three orders, machines that differ in who runs them where."""
    found = []
    for i in range(n):
        b = jaxmig.Builder(nodes=2, cpus=4)
        a, c = b.process("a", range(i % 2, 3)), b.process("c", [3], lazy=[i])
        for pages, order in ((512, 9), (100, 0), (64, 4), (1024, 9), (7, 0)):
            b.mmap(a, pages, order=order)
        b.mmap([a, c], 1024, order=9)
        b.mmap([a, c], 48, order=4)
        found.append(b.build(content=False))
    return [dataclasses.replace(found[0], cpus=m.cpus) for m in found]


@pytest.mark.parametrize("kernel", ["6.2", "6.12", "v4"])
def test_folios_of_several_sizes_count_as_single_calls(kernel: str) -> None:
    states, limits = of_several_sizes(3), [512, 7, 0]
    folios = jaxmig.folios_on(states[0], 0)
    assert countable(rules(kernel), states[0], len(folios), 1)
    as_single_calls(states, folios, limits, kernel)


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_where_memory_ends_calls_are_played(kernel: str) -> None:
    """Base pages without conditions: up to 6.2 one loop, which XLA knows too well."""
    b = jaxmig.Builder(nodes=2, cpus=4, free=(0, 300))
    b.mmap(b.process("a", [1, 2]), 600)
    m = b.build(content=False)
    folios = jaxmig.folios_on(m, 0)
    assert not countable(rules(kernel), m, len(folios), 1)
    got = as_single_calls([m, m], folios, [512, 7], kernel)
    assert (got.error != 0).all()


def test_what_cannot_be_swept_together_is_refused() -> None:
    m = alike(1)[0]
    folios = jaxmig.folios_on(m, 0)
    with pytest.raises(ValueError, match="2 machines and 3 batch limits"):
        count_many([m, m], folios, 1, batch=[1, 2, 3])
    with pytest.raises(ValueError, match="which is listed before"):
        count_many(m, [5, 5], 1)
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("a", [1]), 5000)
    with pytest.raises(ValueError, match="different shapes"):
        count_many([m, b.build(content=False)], folios, 1)


def runs(arch: str = "x86", **axes: tuple) -> set[SweptCall]:
    """The different calls of a grid."""
    g = grid(**axes)
    return {run_of(g.at(i), arch) for i in range(len(g))}


def test_calls_are_told_apart_by_what_they_depend_on() -> None:
    limits = (0, 1, 512)
    assert len(runs(kernel=("6.2",), batch=limits)) == 1
    assert len(runs(kernel=("6.3",), batch=limits)) == 3
    # Only a release that knows INVLPGB broadcasts, and only one asks copy engines.
    broadcasts = runs("x86-invlpgb", kernel=("6.3", "6.18"))
    assert {r.kernel: r.arch for r in broadcasts} == {
        "6.3": "x86",
        "6.18": "x86-invlpgb",
    }
    engines = runs(kernel=("6.18", "batch-copy"), copy=("cpu", "dma:4", "dma:16"))
    assert {(r.kernel, r.engine) for r in engines} == {
        ("6.18", False),
        ("batch-copy", False),
        ("batch-copy", True),
    }


def test_batch_copy_is_priced_as_a_single_call_is() -> None:
    """With 2 MiB pages: as many channels as a batch has folios."""
    known = machines.load("zen3-2s")
    axes = {"kernel": ("6.18", "batch-copy"), "thp": (100,), "machine": ("zen3-2s",)}
    g = grid(**axes, copy=("cpu", "dma:4"), batch=(512, 1024))
    swept = Sweep(memory("memhog:8m", 4), OLD, NEW, g, {"zen3-2s": known})
    found = [r for some in play(swept, swept.indices) for r in some]
    target = resolve("memhog:8m,thp")
    setting = Setting(cpus=4, running=(1, 2, 3), content=False)
    for row in found:
        call = job.Call(OLD, NEW, batch=row["batch"], copy=row["copy"])
        (one,) = job.run(target, setting, known, [row["kernel"]], call)
        assert one.cost.total == row["time_ns.total"], row
    assert len(found) == 8
    # Without an engine the series is 6.18; with one a batch of n folios has n channels.
    assert len({r["time_ns.total"] for r in found}) == 4


@pytest.mark.parametrize("policy", ["serial", "batched"])
@pytest.mark.parametrize("arch", ["x86", "x86-invlpgb", "arm64"])
def test_one_product_prices_as_the_cost_model_does(policy: str, arch: str) -> None:
    rng = np.random.default_rng(0)
    counts = {
        name: int(n)
        for name, n in zip(COUNTERS, rng.integers(0, 10**6, len(COUNTERS)), strict=True)
    }
    for part in ("flushes_immediate", "flushes_batch"):
        counts[f"{part}_lazy"] = counts[part] // 3
        counts[part.replace("flushes", "ipis")] = counts[part] * 3
    counts["ptes_deferred"] = counts["ptes_cleared"] // 2
    counts["moves"] = counts["folios_moved"] + 5
    known = {n: machines.load(n) for n in machines.names()}
    mine = {(n, "cpu"): p for n, p in known.items() if p.arch == arch}
    found = MachineWeights(mine, policy, arch).of(counts)
    for (name, copy), price in found.items():
        c = cost.price(counts, known[name], copy=copy, policy=policy, arch=arch)
        assert price.total == c.total
        assert price.phases == {p: getattr(c, p) for p in cost.PHASES}
        assert (price.low, price.high, price.stolen) == (c.low, c.high, c.stolen)
        assert price.places == {k: v for k, v in c.places.items() if k in price.places}


def test_the_window_of_a_batch_is_the_sum_of_its_parts() -> None:
    places = {"walk": 1000 * 10, "flush": 2 * 700, "copy": 1000 * 4}
    found = away(places, folios=1000, batches=2, limit=600)
    times = [
        10 * (k - i + 1) + 700 + 4 * i for k in (600, 400) for i in range(1, k + 1)
    ]
    assert found.most == max(times)
    assert found.p99 == sorted(times)[989]
    assert found.p50 == sorted(times)[499]
    assert found.first == 10 * 600 + 700 + 4
    assert away({"walk": 100, "clear": 50, "copy": 50}, 10, 0, 1) == AwayTimes(
        20, 20, 20, 20
    )
    assert away({}, 0, 0, 1) == AwayTimes(0, 0, 0, 0)


def test_quantile_weighs() -> None:
    assert quantile([5.0, 1.0], np.array([1.0, 99.0]), 0.99) == 1
    assert quantile([5.0, 1.0], np.array([2.0, 98.0]), 0.99) == 5


def test_large_batches_are_sampled_and_come_out_alike() -> None:
    places = {"walk": 100_000 * 10, "flush": 5, "copy": 100_000 * 7}
    found = away(places, folios=100_000, batches=1, limit=100_000)
    assert found.most == 10 * 100_000 + 5 + 7
    assert found.p50 == pytest.approx(850_005, rel=1e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "whole.csv"
    assert run(*SMALL, "-o", path) == 0
    return path


def test_rows_say_what_happened(whole: Path) -> None:
    made = journal.read(whole)
    assert len(made) == 2 * 5 * 3
    for r in made:
        assert r["vmstat.pgmigrate_success"] == r["pages"] == 256
        batches = 256 if r["policy"] == "serial" else -(-256 // r["batch"])
        assert r["vmstat.nr_tlb_remote_flush"] == batches
        assert r["vmstat.nr_tlb_remote_flush_received"] == batches * r["running"]
        parts = [n for name, n in r.items() if name.startswith("time_ns.")]
        assert sum(parts) == 2 * r["time_ns.total"]
        assert r["time_ns_low"] < r["time_ns.total"] < r["time_ns_high"]


@pytest.mark.parametrize("cut", [0, 1, 70, 500, 1500, 3000, -1, -30])
def test_a_cut_file_is_completed_to_the_same_bytes(
    whole: Path, tmp_path: Path, cut: int
) -> None:
    data, path = whole.read_bytes(), tmp_path / "cut.csv"
    path.write_bytes(data[:cut])
    assert run(*SMALL, "-o", path, "--resume") == 0
    assert path.read_bytes() == data


def kill_at_random(command: list[str], path: Path, rng: random.Random) -> bool:
    """Kill a sweep at start-up, or after it has written something; whether it ran."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    had = path.stat().st_size if path.exists() else 0
    if rng.random() < 0.2:
        time.sleep(rng.uniform(0, 2))
    else:
        while process.poll() is None:
            if path.exists() and path.stat().st_size > had:
                break
            time.sleep(0.002)
        time.sleep(rng.expovariate(10))
    ran = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return ran


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "kills"), [("csv", 20), ("parquet", 6)])
def test_a_sweep_killed_again_and_again_makes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, kills: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = random.Random(suffix)
    few = ("--batch", "1:40:1", "--cpus", "2:4:1", "--machine", "all")
    whole, path = (tmp_path / f"{n}.{suffix}" for n in ("whole", "killed"))
    start = [sys.executable, "-m", "jaxmig", "sweep", "memhog:64k", *few, "-o"]
    assert subprocess.run([*start, str(whole)], check=False).returncode == 0
    grows = path if suffix == "csv" else path.with_name(f"{path.name}.rows")
    again = [*start, str(path), "--resume"]
    killed = finished = 0
    while killed < kills:
        if kill_at_random(again, grows, rng):
            killed += 1
        elif path.exists():
            # It was faster than the signal; what it made counts, and from the start.
            assert path.read_bytes() == whole.read_bytes()
            finished += 1
            path.unlink()
        assert finished < 3 * kills
    assert subprocess.run(again, check=False).returncode == 0
    assert path.read_bytes() == whole.read_bytes()
    assert not path.with_name(f"{path.name}.rows").exists()


def test_the_file_is_plain_csv(whole: Path) -> None:
    with whole.open(newline="") as file:
        made = list(csv.DictReader(file))
    assert tuple(made[0]) == rows.COLUMNS
    assert len(made) == 2 * 5 * 3
    assert {r["sweep"].partition("-")[0] for r in made} == {__version__}


def test_a_row_has_the_copies_for_nothing_and_every_column_is_described() -> None:
    counts = dict.fromkeys(COUNTERS, 0) | {"copies_lost": 3}
    profiles = {("zen3-2s", "dma:4"): machines.load("zen3-2s")}
    price = MachineWeights(profiles, "batched", "x86").of(counts)["zen3-2s", "dma:4"]
    config = grid(kernel=("batch-copy",), machine=("zen3-2s",), copy=("dma:4",)).at(0)
    made = rows.row(config, CallTally(0, None, counts, 0, 0, ()), price, 1, 1, "stamp")
    assert made["copies_wasted"] == 3
    assert rows.check(rows.text(made)[:-1]) == made
    page = Path(__file__).parent.parent / "docs/reference/records.md"
    told = set(re.findall("`([a-z0-9_]+)`", page.read_text().partition("## Rows")[2]))
    assert {name.partition(".")[0] for name in rows.COLUMNS} <= told


def test_a_file_of_another_version_is_recognised(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.csv"
    old = whole.read_text().replace(f",{__version__}-", ",0.0.1-") + "torn"
    path.write_text(old)
    assert run(*SMALL, "-o", path, "--resume") == 1
    assert "was written by jaxmig 0.0.1, this is" in capsys.readouterr().err
    assert path.read_text() == old


def test_another_configuration_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(whole.read_bytes())
    assert run("sweep", "memhog:1m", "--batch", "1", "-o", path, "--resume") == 1
    assert "was written for the options of" in capsys.readouterr().err
    assert run(*SMALL, "-o", path) == 1
    assert "--resume" in capsys.readouterr().err
    assert path.read_bytes() == whole.read_bytes()
    path.write_text("name,age\nalice,3\n")
    assert run(*SMALL, "-o", path, "--resume") == 1
    assert "is no file of this version's sweeps" in capsys.readouterr().err


def test_a_row_that_is_not_the_next_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, path = whole.read_text().splitlines(keepends=True), tmp_path / "x.csv"
    path.write_text("".join(lines[:3] + lines[4:6]))
    assert run(*SMALL, "-o", path, "--resume") == 1
    assert "line 4 is not the row" in capsys.readouterr().err


def test_processes_make_the_same_file(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "parts.csv"
    for i in (2, 0, 1):
        assert not path.exists()
        some = ("--processes", "3", "--process-id", str(i))
        assert run(*SMALL, "-o", path, *some) == 0
    assert path.read_bytes() == whole.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("head", 2, "--coordinator 'head': write HOST:PORT, process 0's"),
        (":80", 2, "--coordinator ':80': write HOST:PORT, process 0's"),
        ("head:http", 2, "--coordinator 'head:http': write HOST:PORT, process 0's"),
        ("head:80", 1, "--coordinator head:80: nobody answers"),
    ],
)
def test_processes_that_do_not_find_each_other(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    code: int,
    said: str,
) -> None:
    def initialize(*_: object) -> None:
        raise RuntimeError("nobody answers\nand much more about that")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    some = ("--processes", "2", "--coordinator", where)
    assert run(*SMALL, "-o", tmp_path / "x.csv", *some) == code
    assert capsys.readouterr().err.startswith(f"jaxmig sweep: {said}")
    assert list(tmp_path.iterdir()) == []


def test_parts_come_to_process_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of different lengths, from processes that are threads here."""
    texts = [b"one,2\n", b"", b"a longer part\n" * 9]
    meet, shared = threading.Barrier(3), [np.zeros(0)] * 3
    mine = threading.local()

    def allgather(array: Any) -> np.ndarray:
        shared[mine.number] = np.asarray(array)
        meet.wait()
        made = np.stack(shared)
        meet.wait()
        return made

    monkeypatch.setattr(gather.multihost_utils, "process_allgather", allgather)

    def process(number: int) -> None:
        mine.number = number
        folder = tmp_path / str(number)
        folder.mkdir()
        parts = [folder / f"part{i}" for i in range(3)]
        parts[number].write_bytes(texts[number])
        gather.exchange(parts, number)

    threads = [threading.Thread(target=process, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [sorted(p.name for p in (tmp_path / str(i)).iterdir()) for i in range(3)]
    assert found == [["part0", "part1", "part2"], ["part1"], ["part2"]]
    assert [(tmp_path / f"0/part{i}").read_bytes() for i in range(3)] == texts


def test_process_0_merges_what_came(
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []

    def exchange(parts: list[Path], process: int) -> None:
        if process:
            sent.append(parts[1].read_bytes())
        else:
            parts[1].write_bytes(sent[0])

    monkeypatch.setattr(gather, "join", lambda *_: None)
    monkeypatch.setattr(gather, "exchange", exchange)
    for i in (1, 0):
        (tmp_path / str(i)).mkdir()
        some = ("--processes", 2, "--process-id", i, "--coordinator", "head:80")
        assert run(*SMALL, "-o", tmp_path / f"{i}/x.csv", *some) == 0
        if i:
            assert "part 1 of 2 is done" in capsys.readouterr().err
    assert (tmp_path / "0/x.csv").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "1/x.csv").exists()
    assert run(*SMALL, "-o", tmp_path / "0/x.csv", *some) == 1
    assert "exists, though parts are to be merged" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_without_a_common_directory(whole: Path, tmp_path: Path) -> None:
    with held_port() as port:
        at = ("--coordinator", f"localhost:{port}", "--processes", "2")
        programs = []
        for i in range(2):
            (tmp_path / str(i)).mkdir()
            mine = ("--process-id", str(i), "-o", str(tmp_path / f"{i}/x.csv"))
            programs.append(["-m", "jaxmig", *SMALL, *at, *mine])
        together(programs, environment(), LIMIT_S)
    assert (tmp_path / "0/x.csv").read_bytes() == whole.read_bytes()


def test_parquet_keeps_words_words(whole: Path, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    assert run(*SMALL, "--kernel", "6.10", "-o", path) == 0
    table = pq.read_table(path)
    assert tuple(table.column_names) == rows.COLUMNS
    assert set(table.column("kernel").to_pylist()) == {"6.10"}
    assert list(tmp_path.iterdir()) == [path]
    assert run(*SMALL, "--kernel", "6.10", "-o", path) == 1
    assert run(*SMALL, "--kernel", "6.10", "-o", path, "--resume") == 0


def test_parquet_without_pyarrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert run(*SMALL, "-o", tmp_path / "x.parquet") == 1
    assert "pip install pyarrow" in capsys.readouterr().err


def test_standard_output_is_the_file(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*SMALL) == 0
    assert capsys.readouterr().out == whole.read_text()


def test_the_fastest_row_is_said_drawn_and_reported(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside a file, and beside rows on standard output."""
    best = max(journal.read(whole), key=lambda r: r["pages_per_s"])
    axes = ", ".join(f"{name} {best[name]}" for name in ("kernel", "cpus", "batch"))
    plot, page = tmp_path / "x.svg", tmp_path / "x.html"
    both = ("--plot", plot, "--report", page)
    for to in (("-o", tmp_path / "x.csv"), ()):
        assert run(*SMALL, *to, *both) == 0
        out, _ = capsys.readouterr()
        assert (tmp_path / "x.csv").read_bytes() == whole.read_bytes()
        sentence = rf"Of 30 configurations the fastest moves .* pages/s: {axes}; 99 of"
        assert re.search(sentence, out) if to else out == whole.read_text()
        assert re.search(sentence, page.read_text())
        for title in ("Modelled pages/s", "Modelled time", "Stall of 99 of 100 pages"):
            assert title in page.read_text()
        assert "memhog:1m: 1m written by memhog: 256 pages" in plot.read_text()
        plot.unlink()
        page.unlink()


def test_lists_of_names() -> None:
    words = "sweep memhog:1m --copy cpu,dma:2,cpu --mode async,sync --machine"
    parse = app.parser("sweep").parse_args
    made = parse([*words.split(), "all", "--running", "1-3"])
    assert made.copy == ("cpu", "dma:2")
    assert made.mode == ("async", "sync")
    assert made.machine == tuple(machines.names())
    assert made.running == (1, 2, 3)
    made = parse([*words.split(), "zen3-2s,xeon-2s,zen3-2s", "--running", "all"])
    assert made.machine == ("zen3-2s", "xeon-2s")
    assert made.running == "all"


@pytest.mark.parametrize(
    "args",
    [
        ("memhog:1m", "--batch", "x"),
        ("memhog:1m", "--mode", "sync,later"),
        ("memhog:1m", "0", "0,1", "--mode", "async"),
        ("memhog:1m", "0", "!0-1"),
        ("memhog:1m", "--cpus", "4", "--running", "1,4"),
        ("memhog:1m", "--thp", "101"),
        ("memhog:1m", "--kernel", "7.9"),
        ("memhog:1m", "--machine", "cray"),
        ("memhog:1m", "--resume"),
        ("memhog:1m", "-o", "x.txt"),
        ("memhog:1m", "0", "9"),
        ("memhog:1m", "-o", "x.csv", "--resume", "--overwrite"),
        ("memhog:1m", "-o", "x.csv", "--processes", "2", "--process-id", "2"),
        ("1", "-o", "x.csv", "--resume"),
        ("nobody",),
    ],
)
def test_wrong_usage_is_one_line(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", *args) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize("command", ["sweep", "advise", "calibrate"])
def test_help_opens_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"example:\n  jaxmig {command} ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--print-completion", shell) == 0
    out = capsys.readouterr().out
    dashes = "" if shell == "fish" else "--"
    assert all(word in out for word in ("sweep", "advise", f"{dashes}batch", "resume"))


def test_windows_do_not_show_in_the_rows() -> None:
    g = grid(cpus=(2, 3, 4), batch=(1, 2), machine=("xeon-2s", "arm64-2n128c"))
    profiles = {name: machines.load(name) for name in g.machine}
    s = Sweep(memory("memhog:1m"), OLD, NEW, g, profiles)
    at_once = [r for some in play(s, s.indices) for r in some]
    one_by_one = [r for i in s.indices for some in play(s, [i]) for r in some]
    assert json.dumps(at_once) == json.dumps(one_by_one)


def priced(total: int, **cells: Any) -> rows.Row:
    one = dict(zip(AXES, (0, "6.3", "sync", 4, 512, "xeon-2s", "cpu"), strict=True))
    times = {
        "time_ns.total": total,
        "time_ns_low": total - 9,
        "time_ns_high": total + 9,
    }
    return one | times | {
        "vmstat.pgmigrate_success": 5, "stall_ns.max": 7, "pages_per_s": 10**9 // total,
    } | cells  # fmt: skip


def test_few_rows_are_shown_beside_the_cpu_and_many_by_the_fastest() -> None:
    made = [priced(100), priced(80, copy="dma:4"), priced(150, copy="dma:1")]
    made += [r | {"cpus": 8, "time_ns.total": 2 * r["time_ns.total"]} for r in made]
    lines = sweeptable.text(made, ["cpus", "copy"], None).splitlines()
    assert lines[0].split()[-2:] == ["against", "cpu"]
    against = [line.split("ns")[-1].split() for line in lines[2:]]
    assert against == [["-"], ["-20.0", "%"], ["+50.0", "%"]] * 2
    assert len(lines) == 2 + len(made)
    many = [priced(1000 - i, batch=i + 1) for i in range(sweeptable.MOST + 1)]
    text = sweeptable.text(many, ["batch"], None)
    assert text.splitlines()[4].split()[0] == "21"
    assert text.endswith(f"\n{len(many) - sweeptable.BEST} more rows.")
    assert "against the first" in text
    assert "pages moved" not in text
    few = [priced(9), priced(9, **{"vmstat.pgmigrate_success": 4})]
    assert "pages moved" in sweeptable.text(few, ["batch"], None)


def test_ranges_that_overlap_are_said() -> None:
    best, near, far = priced(100), priced(110), priced(200)
    assert sweeptable.overlapping([best, far], best) == ""
    one = sweeptable.overlapping([best, near, far], best)
    assert one.startswith("Its 80 % range overlaps that of another; all have the same")
    other = near | {"machine": "zen3-2s"}
    two = sweeptable.overlapping([best, near, other], best)
    assert two == "Its 80 % range overlaps those of 2 others."
