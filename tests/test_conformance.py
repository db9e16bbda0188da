"""The engine against the oracle: every record, entry, folio and page of drawn scenarios.

JAXMIG_EXAMPLES=100000 JAXMIG_SEED=7 pytest -s -k fuzz   plays that many, as fuzz.py does,
which can also go on after an interrupt.
"""

from __future__ import annotations

import os

import fuzz
import pytest
from differential import PLAYED, differences
from hypothesis import HealthCheck, given, seed, settings
from strategies import Example, Program, examples, programs

ROUND = 1000  # examples a seed: what hypothesis remembers of them grows
FUZZ = int(os.environ.get("JAXMIG_EXAMPLES", "0"))
SEED = int(os.environ.get("JAXMIG_SEED", "0"))
SMALL, LARGE = programs(large=False), programs(large=True)


def play(choice: list[Program], count: int, first: int = SEED) -> None:
    """Engine and oracle agree on `count` examples, drawn from the seeds `first` ..."""

    def agree(e: Example) -> None:
        p = e.program
        lines = differences(
            e.document, p.kernel, batch=e.batch, arch=p.arch, content=p.content
        )
        assert not lines, "\n".join([f"{p}, batch {e.batch}", *lines[:20]])

    for number, done in enumerate(range(0, count, ROUND)):
        run = settings(
            max_examples=min(ROUND, count - done),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        seed(first + number)(run(given(examples(choice))(agree)))()


def test_base_pages() -> None:
    play(SMALL, 150)


def test_large_folios() -> None:
    play(LARGE, 150)


@pytest.mark.parametrize("kernel", ["6.19", "7.1"])
def test_pieces_of_zeros_that_memory_leaves_behind_are_freed(kernel: str) -> None:
    # Four of sixteen pieces find memory; the list of pieces is given up, the call is not.
    document = {
        "machine": {"nodes": 2, "cpus": 2, "node_size": "64m", "free": {"1": "16k"}},
        "process": [{"name": "a", "running": [1]}],
        "region": [{"name": "r", "size": "64k", "folio": "64k"}],
        "condition": [{"region": "r", "pages": [2, 3, 9, 15], "state": "zero"}],
        "call": [{"syscall": "migrate_pages", "from": "0", "to": "1"}] * 2,
    }
    before = PLAYED["compared"]
    assert differences(document, kernel, arch="x86", content=False) == []
    assert PLAYED["compared"] == before + 1


@pytest.mark.parametrize("state", ["pinned", "extra_ref"])
def test_a_split_sees_references_until_the_attempt_that_ends_them(state: str) -> None:
    # Ten attempts fail; then no memory, and a split that is not the eleventh.
    document = {
        "machine": {"nodes": 3, "cpus": 2, "node_size": "64m", "free": {"1": "0k"}},
        "process": [{"name": "a", "running": [1]}],
        "region": [{"name": "r", "size": "16k", "folio": "16k", "kind": "file"}],
        "condition": [
            {"region": "r", "pages": [0], "state": state, "until": "attempt:11"}
        ],
        "call": [
            {"syscall": "migrate_pages", "from": "0", "to": to}
            for to in ("2", "1", "2")
        ],
    }
    before = PLAYED["compared"]
    assert differences(document, "6.15", arch="x86", content=False) == []
    assert PLAYED["compared"] == before + 1


@pytest.mark.slow
def test_base_pages_on_all_programs() -> None:
    play(SMALL, 1000, SEED + 1)


@pytest.mark.slow
def test_large_folios_on_all_programs() -> None:
    play(LARGE, 700, SEED + 1)


@pytest.mark.skipif(not FUZZ, reason="JAXMIG_EXAMPLES says how many to play")
def test_fuzz() -> None:
    assert fuzz.main(["--examples", str(FUZZ), "--seed", str(SEED)]) == 0
