"""The sentences before the table: what they say, and that they say what the table has."""

import dataclasses
import re
from typing import Any

import pytest
from jaxmig.cli import show
from jaxmig.report import answer, units
from jaxmig.sources import targets
from jaxmig.sources.snapshot import OFF_LRU
from jaxmig.tools import job


def record(kernel: str, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "kernel": kernel, "ret": 0, "errno": None,
        "vmstat": {"pgmigrate_success": 100, "pgmigrate_fail": 0,
                   "nr_tlb_remote_flush": 100},
        "ipis_per_cpu": [0, 100, 100, 0], "time_ns": {"total": 400_000},
        "time_ns_range": [300_000, 500_000],
        "stall_ns": {"p50": 4000, "p99": 4000, "max": 4000},
    }  # fmt: skip
    vmstat = made["vmstat"] | changes.pop("vmstat", {})
    return made | changes | {"vmstat": vmstat}


OLD = record("6.2")
NEW = record(
    "6.3", vmstat={"nr_tlb_remote_flush": 1}, ipis_per_cpu=[0, 1, 1, 0],
    time_ns={"total": 200_000}, stall_ns={"p50": 70_000, "p99": 90_000, "max": 99_000},
)  # fmt: skip


def test_what_batching_gives_and_takes() -> None:
    assert answer([OLD, NEW]) == [
        "Linux 6.3 moves 100 pages in 200 us (80 % range 300 us .. 500 us); 6.2 takes "
        "400 us (80 % range 300 us .. 500 us), 2.00 times as long.",
        "1 flush request and 2 IPIs (1 on each of CPUs 1-2) instead of 100 flush requests "
        "and 200 IPIs.",
        "A thread that touches a moving page waits up to 99 us (half of the pages: up to "
        "70 us); with 6.2 up to 4 us.",
    ]


def test_one_kernel_and_kernels_that_do_the_same() -> None:
    assert answer([NEW])[0].endswith("500 us).")
    assert (
        answer([NEW])[1]
        == "It sends 1 flush request and 2 IPIs (1 on each of CPUs 1-2)."
    )
    same = answer([NEW, NEW | {"kernel": "6.18"}])
    assert same[0].startswith("Linux 6.18 moves 100 pages")
    assert same[0].endswith(", and so does 6.3.")
    assert "with 6.3" not in same[2]
    faster = answer([NEW, OLD | {"kernel": "9"}])[0]
    assert faster.endswith("2.00 times as fast.")


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ([0, 0], "; no CPU is interrupted."),
        ([0, 7], " (on CPU 1)."),
        ([0, 7, 9, 0, 8], " (7 to 9 on each of CPUs 1-2,4)."),
    ],
)
def test_who_is_interrupted(by: list[int], words: str) -> None:
    assert answer([OLD | {"ipis_per_cpu": by}])[1].endswith(words)


def test_where_only_the_older_kernel_interrupts_its_cpus_are_named() -> None:
    quiet = NEW | {"ipis_per_cpu": [0, 0], "vmstat": OLD["vmstat"]}
    quiet["vmstat"] = quiet["vmstat"] | {"nr_tlb_remote_flush": 0}
    old = "100 flush requests and 200 IPIs (100 on each of CPUs 1-2)"
    assert answer([OLD, quiet])[1] == f"0 flush requests and 0 IPIs instead of {old}."


def test_times_that_hardly_differ_are_said_to_be_alike() -> None:
    near = OLD | {"time_ns": {"total": 400_000}}, OLD | {"kernel": "6.5"}
    for total, said in ((401_000, "about as long"), (410_000, "1.02 times as")):
        old = near[0] | {"time_ns": {"total": total}}
        assert said in answer([old, near[1]])[0]


def test_what_failed_and_why() -> None:
    full = record(
        "6.2",
        ret=-1,
        errno="ENOMEM",
        vmstat={"pgmigrate_success": 0, "pgmigrate_fail": 3},
    )
    lines = answer([full, full | {"kernel": "6.3"}], {"6.2": "full", "6.3": "full"})
    assert lines[0] == "Linux 6.3 moves 0 pages in 400 us (80 % range 300 us .. 500 us), " \
        "and so does 6.2."  # fmt: skip
    assert (
        lines[-1]
        == "In 6.2 and 6.3, 3 pages failed and the call ends with ENOMEM: full."
    )
    assert not any("waits" in line for line in lines)
    none = full | {"time_ns": {"total": 0}}
    assert answer([none])[0] == "Linux 6.2 has no page to move."
    stay = [record(kernel, shared_stay=n) for kernel, n in (("6.2", 5), ("6.3", 1))]
    assert answer([stay[0], *stay])[3:] == [
        "In 6.2 and 6.2, 5 pages stay: they are mapped more than once, and the caller is "
        "not root.",
        "In 6.3, 1 page stays: it is mapped more than once, and the caller is not root.",
    ]
    left = record("6.2", ret=2)
    assert answer([left])[-1] == "In 6.2, 2 could not be moved."
    assert len(answer([OLD])) == 3
    same = [left | {"kernel": f"6.{i}"} for i in range(5)]
    assert answer(same)[-1] == "In all 5 kernels, 2 could not be moved."
    assert answer([*same[:4], OLD])[-1].startswith("In 6.0, 6.1, 6.2 and 6.3, 2 ")
    assert units.some(1, "page") == "1 page"


@pytest.mark.parametrize(
    ("kernel", "why"), [("6.6", ""), ("6.7", f"9 pages: {OFF_LRU}")]
)
def test_only_what_the_walk_tries_is_a_reason(kernel: str, why: str) -> None:
    """Closed areas and the zero page are on no list, so nothing failed there."""
    may_not = (("zero page", 1), (OFF_LRU, 9), ("memfd_secret area", 2))
    t = dataclasses.replace(targets.resolve("memhog:1m", None), unmovable=may_not)
    both = frozenset({0}), frozenset({1})
    asked: Any = show.Resolved(t, Any, Any, job.Call(*both))
    o: Any = job.Outcome(record("6.2") | {"kernel": kernel}, Any, 0, 0, None, ())
    assert show._why(asked, o) == why


def test_numbers_that_differ_are_both_said() -> None:
    fewer = record("6.2", vmstat={"pgmigrate_success": 1})
    line = answer([fewer, NEW])[0]
    assert re.search(r"6\.3 moves 100 pages in 200 us .*; 6\.2 1 page in 400 us", line)
    assert answer([{k: v for k, v in NEW.items() if k != "time_ns_range"}])[0] == (
        "Linux 6.3 moves 100 pages in 200 us."
    )
