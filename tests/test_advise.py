"""Advice against trying everything, and what the command says."""

import csv
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxmig import cli
from jaxmig.cli.options import duration
from jaxmig.report import window
from jaxmig.sources.targets import resolve
from jaxmig.time import machines
from jaxmig.time.machines import sampling
from jaxmig.tools.advise import ROUNDS, advise, engines
from jaxmig.tools.sweep import CallRunner, Grid, Player, Sweep, play
from jaxmig.tools.sweep.memory import Memory

MODES = ("sync",)


def sweep(copy: tuple[str, ...] = ("cpu",), batch: tuple[int, ...] = (0,)) -> Sweep:
    where = Memory(resolve("memhog:1m"), 2, 0, 8, everywhere=True)
    kernels = ("6.2", "6.3")
    grid = Grid((0,), kernels, MODES, (8,), batch, ("xeon-2s",), copy)
    profiles = {"xeon-2s": machines.load("xeon-2s")}
    return Sweep(where, frozenset({0}), frozenset({1}), grid, profiles)


@pytest.mark.parametrize("budget_us", [6, 20, 50, 111, 300, 10_000])
def test_nothing_within_the_budget_is_faster(budget_us: int) -> None:
    copy = ("cpu", "threads:8", "dma:1")
    found = advise(sweep(copy), budget_us * 1000)
    every = sweep(copy, tuple(range(1, 300)))
    rows = [r for some in play(every, every.indices) for r in some]
    fitting = [r for r in rows if r["stall_ns.p99"] <= budget_us * 1000]
    if not fitting:
        assert found.best is None
        return
    assert found.best is not None
    assert found.best["stall_ns.p99"] <= budget_us * 1000
    least = min(r["time_ns.total"] for r in fitting)
    assert found.best["time_ns.total"] == pytest.approx(least, rel=0.002)
    assert found.rows[0] == found.best


def test_a_sure_limit_keeps_the_budget_on_nine_of_ten_machines() -> None:
    found = advise(sweep(), 50_000)
    assert found.own is not None
    assert found.sure is not None
    assert (found.own.row, found.engine) == (found.best, None)
    assert found.own.over > 0.1 >= found.sure.over
    assert found.own.low < found.own.row["stall_ns.p99"] < found.own.high
    assert found.linux is not None
    assert (found.linux.row["batch"], found.linux.over) == (512, 1)
    limits = sweep(batch=tuple(range(1, 64)))
    player = Player(limits)
    points = [limits.grid.at(i) for i in range(len(limits.grid))]
    over = {}
    for p, row in zip(points, player.play(points, lambda done: None), strict=True):
        if p.kernel == "6.3":
            stalls = player.stalls(p, "p99")
            assert stalls.min() < row["stall_ns.p99"] < stalls.max()
            over[p.batch] = np.mean(stalls > 50_000)
    best = found.sure.row["batch"]
    assert best == max(limit for limit, share in over.items() if share <= 0.1)


def test_stalls_of_drawn_machines_are_those_of_their_places() -> None:
    """And these cost together what the totals' ranges are drawn from."""
    profile, how = machines.load("xeon-2s"), ("cpu", "batched", "x86")
    by_place = sampling.places(profile, *how)
    whole = sampling.ranges(profile, *how).weights[:, : sampling.SAMPLES]
    np.testing.assert_allclose(sum(by_place.values()), whole, rtol=1e-9, atol=1e-9)
    ns = {"walk": np.array([10.0, 20.0]), "flush": np.array([5.0, 5.0])}
    ns["copy"] = np.array([30.0, 10.0])
    for k, most in enumerate(window.on_each(ns, "most", 10, 2, 5)):
        one = window.away({n: v[k] for n, v in ns.items()}, 10, 2, 5)
        assert most == one.most > 0


def test_engines_are_priced_and_not_played(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many engines: a list of calls for each kernel, and one a round."""
    played: list[int] = []
    really = CallRunner.tallies

    def noted(self: CallRunner, runs: Any) -> Any:
        played.append(len(runs))
        return really(self, runs)

    monkeypatch.setattr(CallRunner, "tallies", noted)
    copy = ("cpu", "threads:8", "dma:1", "dma:4")
    ticks: list[float] = []
    found = advise(sweep(copy), 20_000, tick=lambda _, done, more: ticks.append(done))
    assert 2 < len(played) <= 2 + ROUNDS
    assert found.tried == sum(ticks) > 2 * sum(played)


def test_engines_are_those_with_a_known_speed() -> None:
    profile = machines.load("xeon-2s")
    known = engines(profile)
    assert known[0] == "cpu"
    assert {"threads:16", "dma:16"} <= set(known)
    for copy in known:
        profile.copy_speedups(copy)


@pytest.mark.parametrize(
    ("text", "ns"), [("200us", 200_000), ("1.5ms", 1_500_000), ("2s", 2 * 10**9)]
)
def test_durations(text: str, ns: int) -> None:
    assert duration(text) == ns


SMALL = (
    "advise",
    "memhog:1m",
    "--cpus",
    "8",
    "--running",
    "1-7",
    "--kernel",
    "6.2,6.3",
)


def test_the_answer_stands_above_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "--p99", "100us"]) == 0
    out = capsys.readouterr().out
    assert "Within a p99 stall of 100 us: batch limit " in out
    assert out.index("Within") < out.index("batch limit    pages/s")
    assert re.search(r"\nOn \d+ of 100 machines .*; batch limit \d+ keeps", out)
    assert re.search(r"\nWith Linux's limit of 512: .*: over the budget\.\n", out)
    assert "is a constant of Linux (NR_MAX_BATCHED_MIGRATION)" in out


def test_an_engine_is_said_with_its_assumption(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*SMALL[:-2], "--p99", "100us", "--engines"]) == 0
    out = capsys.readouterr().out
    assert "\nWith Linux's limit of 512: " in out
    engine = re.search(r"Linux does not have: .* copy (\S+), kernel 7\.3:", out)
    assert engine is not None
    assert f"\nAssumed: {engine[1]} copies folios below 2 MiB as 4 KiB pages, " in out


@pytest.mark.parametrize("option", ["--copy", "--batch", "--mode"])
def test_what_advise_finds_itself_is_said(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["advise", "memhog:1m", "--p99", "1ms", option, "x"]) == 2
    said = capsys.readouterr().err
    words = {"--copy": "see --engines", "--batch": "advise looks for the limit"}
    assert words.get(option, "advise tries every mode") in said
    assert "did you mean" not in said


def test_json_has_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "--max", "100us", "--json", "-"]) == 0
    doc = json.loads(capsys.readouterr().out)
    assert doc["advice"]["stall_ns.max"] <= 100_000
    assert doc["rows"][0] == doc["advice"] == doc["own"]["row"]
    assert doc["sure"]["row"]["batch"] < doc["advice"]["batch"]


def test_files_have_the_answer_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Linux's limit beside the advised one, and an engine that Linux lacks."""
    table, page = tmp_path / "x.csv", tmp_path / "x.html"
    files = ("--csv", str(table), "--report", str(page))
    assert cli.main([*SMALL, "--p99", "20us", "--engines", *files]) == 0
    out = capsys.readouterr().out
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["stall_ns.p99"]) <= 20_000
    said = [
        line
        for line in out.splitlines()
        if line.startswith(("Within a p99 ", "With Linux's ", "With an engine "))
    ]
    assert len(said) == 3
    assert f"copy {rows[0]['copy']}" in said[2]
    assert all(line in html.unescape(page.read_text()) for line in said)


def test_a_budget_that_nobody_meets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SMALL, "--p99", "10ns"]) == 1
    out, err = capsys.readouterr()
    assert "Nothing stays within" in out
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--p99", "soon"),
        ("--p99", "0us"),
        ("--p99", "1us", "--max", "2us"),
        ("0", "0,1", "--p99", "1us"),
        ("--cpus", "4", "--running", "4", "--p99", "1us"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", "memhog:1m", *args]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_lazy_cpus_are_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    """They are not among what a budget depends on here; help offers none."""
    for cpus in ("3", "none"):
        assert cli.main(["advise", "memhog:1m", "--p99", "1us", "--lazy", cpus]) == 2
        said = "--lazy: no such option: only CPUs that run the target count here"
        assert said in capsys.readouterr().err
    assert cli.main(["advise", "--help"]) == 0
    out = capsys.readouterr().out
    assert ("--running" in out, "--lazy" in out) == (True, False)
