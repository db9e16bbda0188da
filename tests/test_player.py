"""Scenario files of tests/scenarios against values worked out by hand.

Beside NAME.toml lies NAME.expect.toml: an array of tables a group of kernels, one
table a call, with the fields of its record that the scenario is about.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jaxmig.player import play
from jaxmig.scenario import load

HERE = Path(__file__).parent / "scenarios"
FILES = sorted(p for p in HERE.glob("*.toml") if not p.stem.endswith(".expect"))


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


@pytest.mark.parametrize("file", FILES, ids=lambda p: p.stem)
def test_scenario(file: Path) -> None:
    scenario = load(file)
    wanted = expected(file)
    assert set(wanted) == set(scenario.kernels)
    made = play(scenario)
    assert len(made) == len(scenario.kernels) * len(scenario.calls)
    for kernel, calls in wanted.items():
        records = [r for r in made if r["kernel"] == kernel]
        for i, (record, fields) in enumerate(zip(records, calls, strict=True)):
            check(record, fields, f"{file.stem}, {kernel}, call {i}")
