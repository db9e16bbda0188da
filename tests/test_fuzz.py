"""The runner of the long fuzz run: what it shares out, and that it goes on."""

import json
from pathlib import Path
from typing import Any

import fuzz
import pytest


def row(task: fuzz.Task, *failures: str) -> dict[str, Any]:
    """What `play` returns."""
    numbers = {"examples": task.count, "compared": task.count, "executables": 1}
    numbers |= {"wall_s": 1, "cpu_s": 1}
    who = {"kernel": task.program.kernel, "caller": task.program.caller}
    return {"task": task.key, **who, **numbers, "failures": list(failures)}


def test_every_example_is_given_to_a_program() -> None:
    arguments = fuzz.parsed(["--examples", "1000", "--large", "0.25"])
    tasks = fuzz.tasks(arguments)
    assert sum(t.count for t in tasks) == 1000
    assert sum(t.count for t in tasks if t.program.large) == 250
    # No two programs draw from the same seeds.
    assert len({t.first for t in tasks}) == len(tasks)
    assert tasks == fuzz.tasks(arguments)


def test_few_large_programs() -> None:
    tasks = fuzz.tasks(fuzz.parsed(["--examples", "900", "--large-programs", "3"]))
    assert len({t.program for t in tasks if t.program.large}) == 3


def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, played = tmp_path / "fuzz.jsonl", []

    def play(task: fuzz.Task) -> dict[str, Any]:
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(task.key)
        return row(task)

    monkeypatch.setattr(fuzz, "play", play)
    words = ["--examples", "500", "--large", "0", "--journal", str(journal)]
    assert fuzz.main(words) == 130
    # The interrupt may have come in the middle of a line.
    journal.write_text(journal.read_text() + '\n{"task": "sm')
    first = list(played)
    monkeypatch.setattr(fuzz, "play", lambda task: played.append(task.key) or row(task))
    assert fuzz.main(words) == 0
    assert len(played) == len(set(played)) > len(first)
    count = len(fuzz.programs(large=False))
    assert len(fuzz.read(journal)) == count
    assert f"500 examples of {count} programs, 0" in capsys.readouterr().out


def test_each_caller_of_each_release_has_examples() -> None:
    tasks = fuzz.tasks(fuzz.parsed(["--callers", "--examples", "20000"]))
    pairs = {(t.program.kernel, t.program.caller) for t in tasks}
    assert len(pairs) == len({(p.kernel, p.caller) for p in fuzz.caller_programs(True)})
    assert ("6.10", "damon") not in pairs
    assert ("7.3", "damon") in pairs


def test_a_disagreement_is_shown_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "play", lambda task: row(task, "oracle 1, engine 2"))
    words = ["--examples", "1", "--large", "0", "--journal", str(tmp_path / "j")]
    assert fuzz.main(words) == 1
    assert fuzz.main(words) == 1
    assert "oracle 1, engine 2" in capsys.readouterr().out
    lines = (tmp_path / "j").read_text().splitlines()
    assert [json.loads(t)["examples"] for t in lines if t] == [1]
