"""Scenario files of tests/scenarios against values worked out by hand.

Beside NAME.toml lies NAME.expect.toml: an array of tables for each group of kernels, one
table a call, with the fields of its record that the scenario is about.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jaxmig.player import play
from jaxmig.scenario import ScenarioError, load, loads

HERE = Path(__file__).parent / "scenarios"
FILES = sorted(p for p in HERE.glob("*.toml") if not p.stem.endswith(".expect"))


def expected(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Kernel to fields of each call."""
    groups = tomllib.loads(file.with_suffix(".expect.toml").read_text())
    return {k: calls for names, calls in groups.items() for k in names.split()}


def check(made: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    """Compare the fields that `wanted` has."""
    for key, value in wanted.items():
        if key == "status_counts":
            names = ("none" if s is None else str(s) for s in made["status"])
            assert Counter(names) == value, where
        elif key == "status":
            assert ["none" if s is None else s for s in made["status"]] == value, where
        elif key == "vmstat":
            found = {name: made["vmstat"][name] for name in value}
            assert found == value, where
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
