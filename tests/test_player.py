"""Scenario files of tests/scenarios against values worked out by hand: the engine, and
the oracle, which without them might share a misreading with it.

Beside NAME.toml lies NAME.expect.toml: an array of tables a group of kernels, one
table a call, with the fields of its record that the scenario is about.
"""

import errno
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jaxmig.report.timed import Traced
from jaxmig.sources.scenario import load
from jaxmig.time import machines
from jaxmig.tools.player import play
from oracle import play as play_oracle

HERE = Path(__file__).parent / "scenarios"
FILES = sorted(p for p in HERE.glob("*.toml") if not p.stem.endswith(".expect"))
# Their sizes are their own: half a minute to compile a release.  The oracle plays all.
SLOW = {
    *("batch_cut", "longterm_retry", "ltp_move_pages12"),
    *("selftest_migration", "split_flushes"),
}


def expected(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Kernel to fields of each call."""
    groups = tomllib.loads(file.with_suffix(".expect.toml").read_text())
    found: dict[str, list[dict[str, Any]]] = {}
    for names, calls in groups.items():
        for kernel in names.split():
            found.setdefault(kernel, []).extend(calls)
    return found


def check(made: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Compare the fields that `wanted` has."""
    for key, value in wanted.items():
        if key == "status_counts":
            names = ("none" if s is None else str(s) for s in made["status"])
            assert Counter(names) == value, where
        elif key == "status":
            assert ["none" if s is None else s for s in made["status"]] == value, where
        elif isinstance(value, dict):
            found = {name: made[key][name] for name in value}
            assert found == value, f"{where}: {key}"
        else:
            assert made[key] == value, f"{where}: {key}"
    assert (made["errno"] is None) == ("errno" not in wanted), f"{where}: errno"


def compare(file: Path, kernel: str, records: list[dict[str, Any]]) -> None:
    """All calls of one kernel."""
    pairs = zip(records, expected(file)[kernel], strict=True)
    for i, (record, fields) in enumerate(pairs):
        check(record, fields, f"{file.stem}, {kernel}, call {i}")


def cases() -> list[Any]:
    """The files, the long ones marked."""
    slow = {name: [pytest.mark.slow] for name in SLOW}
    return [pytest.param(f, id=f.stem, marks=slow.get(f.stem, [])) for f in FILES]


@pytest.mark.parametrize("file", cases())
def test_scenario(file: Path) -> None:
    scenario = load(file)
    assert set(expected(file)) == set(scenario.kernels)
    made = play(scenario)
    assert len(made) == len(scenario.kernels) * len(scenario.calls)
    for kernel in scenario.kernels:
        compare(file, kernel, [r for r in made if r["kernel"] == kernel])


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_scenario_on_the_oracle(file: Path) -> None:
    document = tomllib.loads(file.read_text())
    for kernel in expected(file):
        made = play_oracle(document, kernel)
        outcomes = zip(made.records, made.outcomes, strict=True)
        for record, told in outcomes:
            record["caller_errno"] = errno.errorcode[-told] if told < 0 else None
        compare(file, kernel, made.records)


TWO_KINDS = """
[machine]
cpus = 2
node_size = "128k"
free = {{ 1 = "{free}k" }}
[[process]]
name = "one"
running = [1]
[[process]]
name = "two"
[[region]]
process = "one"
name = "heap"
size = "20k"
[[region]]
process = "one"
name = "text"
size = "12k"
kind = "file"
[[region]]
process = "two"
name = "shm"
size = "16k"
kind = "shmem"
[[call]]
syscall = "migrate_pages"
process = "one"
from = "0"
to = "1"
[[call]]
syscall = "migrate_pages"
process = "two"
from = "0"
to = "1"
"""


@pytest.mark.parametrize(
    ("kernel", "free", "cached"),
    [("6.2", 64, [3, 4]), ("6.18", 36, [3, 1])],
)
def test_folios_of_the_page_cache_and_calls_are_counted(
    tmp_path: Path, kernel: str, free: int, cached: list[int]
) -> None:
    """In every form of the engine: the last call runs out of memory, one by one."""
    file = tmp_path / "two.toml"
    file.write_text(TWO_KINDS.format(free=free))
    profile = machines.load("xeon-2s")
    nothing = dict.fromkeys(profile.values("cost."), 0)
    priced = profile.replace(nothing | {"cost.cached": 1, "cost.call": 1000})
    traced: list[Traced] = []
    made = play(load(file), kernels=[kernel], profile=priced, trace=traced.append)
    assert [list(t.full) for t in traced] == [[], [] if free == 64 else [1]]
    assert [r["time_ns"]["total"] for r in made] == [1000 + n for n in cached]
    assert [r["time_ns"]["other"] for r in made] == [1000 + n for n in cached]
