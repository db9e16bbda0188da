"""Counts of real kernels: 6.1 flushes page by page, 6.12 batch by batch.

tests/data/groundtruth.jsonl holds one migration run a line, taken on Debian's 6.1.192
and 6.12.117 in a virtual machine of two nodes and four CPUs.  The migrator is CPU 0;
processes spin on other CPUs without touching their pages.  How many pages moved is
an input (a process has some beside its region), what that cost is predicted.

An interrupt may be missing where its CPU had just gone idle, and one may belong to
somebody else: 0.2 % or three of them, whichever is more.  Requests are exact.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from jaxmig.sources.scenario import loads
from jaxmig.tools.player import play

DATA = Path(__file__).parent / "data" / "groundtruth.jsonl"
RECORDS = [json.loads(line) for line in DATA.read_text().splitlines()]
RUNNING = {
    "H_batch": [1, 2, 3],
    "C_spin": [1, 2, 3],
    "A_spin": [3],
    "A_self": [0],
    "D_shm_spin": [3],
    "E_status": [0],
}
# The region's pages on machines of two sizes: each size is compiled once.
SMALL, LARGE = 4096, 65792


def groups() -> list[Any]:
    """Runs that differ in nothing but their repeat number, one case for all of them."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for r in RECORDS:
        second = shared_pages(r)
        found[r["exp"], r["kernel"], r["pgmigrate_success"], second].append(r)
    return [
        pytest.param(
            runs,
            id="-".join(map(str, key)),
            marks=[pytest.mark.slow] if key[2] > SMALL else [],
        )
        for key, runs in sorted(found.items())
    ]


def shared_pages(r: dict[str, Any]) -> int:
    """How many of the pages moved a second process maps, read off the record."""
    if r["exp"] != "D_shm_spin":
        return 0
    # 6.12 asks both CPUs in each batch: the second maps pages of every one.
    return r["tlb_ipis_per_cpu"][2] if r["kernel"] == "6.1" else r["pgmigrate_success"]


def scenario(r: dict[str, Any]) -> str:
    """The run as a scenario file."""
    moved, shared = r["pgmigrate_success"], shared_pages(r)
    total = SMALL if moved <= SMALL else LARGE
    lazy = [1] if r["exp"] == "E_status" else []
    text = f"""
        kernel = "{r["kernel"]}"
        [machine]
        nodes = 2
        cpus = 4
        [[process]]
        name = "victim"
        running = {RUNNING[r["exp"]]}
        lazy = {lazy}
        [[process]]
        name = "second"
        running = {[2] if r["exp"] == "D_shm_spin" else []}
        """
    text += region("shared", shared, "shmem", '["victim", "second"]')
    text += region("heap", moved - shared)
    text += region("rest", total - moved)
    if total > moved:
        text += '[[condition]]\nregion = "rest"\npages = "all"\nstate = "untouched"\n'
    return text + call(r)


def region(name: str, pages: int, kind: str = "anon", process: str = '"victim"') -> str:
    """A region of so many pages; none if there are none."""
    if pages == 0:
        return ""
    return f"""
        [[region]]
        process = {process}
        name = "{name}"
        kind = "{kind}"
        size = "{pages * 4}k"
        """


def call(r: dict[str, Any]) -> str:
    """The system call that the run made."""
    if r["exp"] in ("H_batch", "E_status"):
        flags = "move_all" if r["exp"] == "H_batch" else r["flags"]
        return f"""
        [[call]]
        process = "victim"
        syscall = "move_pages"
        pages = "heap"
        nodes = 1
        flags = {json.dumps(flags)}
        """
    return """
        [[call]]
        process = "victim"
        syscall = "migrate_pages"
        from = "0"
        to = "1"
        """


def requests(r: dict[str, Any]) -> int | None:
    """Remote flush requests of the migrator, where the run was traced."""
    # A trace without a request has no such field at all.
    if not any(key.startswith("tlb_flush_migrator") for key in r):
        return None
    return sum(r.get("native_flush_tlb_multi_masks_by_migrator", {}).values())


@pytest.mark.parametrize("runs", groups())
def test_real_kernel(runs: list[dict[str, Any]]) -> None:
    (made,) = play(loads(scenario(runs[0])))
    for r in runs:
        assert (made["ret"], made["errno"]) == (r["rc"], None)
        for name, count in r["vmstat"].items():
            assert made["vmstat"][name] == count, name
        for cpu, taken in enumerate(r["tlb_ipis_per_cpu"]):
            slack = max(3, 0.002 * taken)
            assert abs(made["ipis_per_cpu"][cpu] - taken) <= slack, f"CPU {cpu}"
        if (asked := requests(r)) is not None:
            assert made["vmstat"]["nr_tlb_remote_flush"] == asked
        if "status_eq_1" in r and r["status_eq_1"] >= 0:
            assert made["status"].count(1) == r["status_eq_1"]
        if "status" in r:
            assert made["status"] == [r["status"]]


def test_self_migration_flushes_one_by_one() -> None:
    """A process alone on its CPU: the trace has a local one-page flush a page."""
    for r in RECORDS:
        if r["exp"] == "A_self" and (local := r.get("tlb_flush_migrator_side")):
            assert local == {"vic0:local_mm_shootdown:1": r["pgmigrate_success"]}
