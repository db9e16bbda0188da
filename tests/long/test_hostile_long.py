"""20,000 mutants, of a seed that the default suite has not."""

import contextlib
import io
import random
from pathlib import Path

import hostile
import pytest
from jaxmig import cli

pytestmark = pytest.mark.slow


def test_twenty_thousand_mutants() -> None:
    run = hostile.play(seed=2, first=0, count=20_000)
    assert run.faults == []
    assert run.slowest_s < hostile.SLOW_S


def test_some_that_are_accepted_are_run_too(tmp_path: Path) -> None:
    """One in 200 snapshots and profiles, as a user would; their machines are small."""
    readers, played = hostile.kinds(), 0
    for number, name, data in hostile.mutants(4, 0, 20_000):
        if name not in ("snapshot", "profile") or random.Random(number).random() > 0.1:
            continue
        path = tmp_path / f"x{readers[name].suffix}"
        path.write_bytes(data)
        words = ["memhog:64k", "0", "1", "--machine", str(path)]
        if name == "snapshot":
            words = [str(path), "0", "1", "--no-content"]
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = cli.main(["migratepages", *words, "--cpus", "2", "--kernel", "6.3"])
        assert code in (0, 1, 2), number
        assert said.getvalue().count("\n") <= 1, number
        played += code == 0
        if played == 30:
            break
    assert played >= 10
