"""Long runs without waiting for them: memory that does not grow, counters past 2^32."""

import re
import tracemalloc
from itertools import islice
from pathlib import Path

import jaxmig
import numpy as np
import pytest
from jaxmig import cli
from jaxmig.cli import room
from jaxmig.cli.errors import Failure
from jaxmig.cli.room import check_room
from jaxmig.host import files
from jaxmig.programs.traces import ACCESS, Reading
from jaxmig.programs.workloads.spool import KEPT_BYTES, Spool
from jaxmig.state import events
from jaxmig.tools.sweep import journal, rows

# One region of 256 MiB that all of 16,000 samples found accessed: 10^9 loads.
BILLION = (
    "kdamond.0 7 [000] 1.000001: damon:damon_aggregated: target_id=0 nr_regions=1 "
    f"4096-{4096 + (1 << 28)}: 16000 0\n"
)


def test_a_billion_accesses_are_read_in_constant_memory(tmp_path: Path) -> None:
    """A part of them early and much later on in the file take the same room."""
    path = tmp_path / "t"
    path.write_text(BILLION)
    peaks = []
    for blocks in (4, 24):
        tracemalloc.start()
        read = sum(len(b) for b in islice(Reading(str(path)), blocks))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert read > blocks * 30_000
    assert peaks[1] < 1.1 * peaks[0] + (1 << 20)


def test_a_spool_keeps_its_pages_not_its_accesses() -> None:
    """Beyond what it may keep in memory, accesses go to a file without a name."""
    spool, block = Spool("t"), np.zeros(1 << 16, ACCESS)
    block["cpu"] = 1
    block["address"] = (np.arange(len(block)) % 64) << 12
    tracemalloc.start()
    rounds = 2 * KEPT_BYTES // (len(block) * 10)
    half = 0
    for i in range(rounds):
        spool.add(block)
        if i == rounds * 3 // 4:
            half = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - half
    tracemalloc.stop()
    assert spool.lanes[1].accesses == rounds * len(block)
    assert grown < 1 << 20


def test_a_journal_adds_rows_in_constant_memory(tmp_path: Path) -> None:
    """An hour of rows: each goes to the disk, none stays."""
    path = tmp_path / "x.csv"
    line = "x" * 400 + "\n"
    with journal.Journal(path, "s", lambda i: "", resume=False) as file:
        # Once what is made at the first calls is there, also what measures coverage.
        for _ in range(2_000):
            file.add(line)
        tracemalloc.start()
        for _ in range(20_000):
            file.add(line)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
        tracemalloc.stop()
    assert path.stat().st_size == len(rows.heading()) + 22_000 * len(line)


@pytest.mark.parametrize("start", [2**31 - 2, 2**32 - 2, 2**33 - 2])
def test_counters_count_on_past_every_power(start: int) -> None:
    """One by one and many at once, for events and for each CPU's interrupts."""
    ev = events.none(2)
    while (left := start - ev.counts()["ipis_batch"]) > 0:
        some = np.uint32(min(left, 2**32 - 1))
        ev = ev.add(ipis_batch=some).interrupt(np.asarray([some, 0], np.uint32))
    for n in range(1, 5):
        ev = ev.add(ipis_batch=1).interrupt(np.asarray([1, 1], np.uint32))
        assert ev.counts()["ipis_batch"] == start + n
        assert ev.ipis_per_cpu() == [start + n, n]


@pytest.mark.parametrize(("nodes", "frames"), [(16, 1024), (32, 512), (1024, 16)])
def test_many_nodes_are_small_ones(nodes: int, frames: int) -> None:
    """A thousand nodes with a thousand frames each would be 4 GiB of contents."""
    b = jaxmig.Builder(nodes=nodes, cpus=2)
    b.mmap(b.process("app", [1]), pages=16)
    state = b.build(content=False)
    assert state.geometry.frames_per_node == frames
    assert np.asarray(state.nfree)[1:].tolist() == [16] * (nodes - 1)


@pytest.mark.parametrize(
    ("how", "advice"),
    [
        ({"pages": 1 << 40, "content": True}, "use fewer pages or --no-content"),
        ({"pages": 1 << 40, "content": False}, "use fewer pages"),
        ({"pages": 1, "content": False, "mappings": 1 << 50}, "use fewer pages"),
        ({"pages": 1 << 30, "content": False, "machines": 1000}, "use fewer pages"),
    ],
)
def test_what_would_not_fit_is_said_before(how: dict, advice: str) -> None:
    with pytest.raises(
        Failure, match=r"needs [\d,.]+ GiB.* has [\d,.]+ GiB free"
    ) as told:
        check_room("memhog:4p", nodes=2, **how)
    said = re.sub(r" \([\d,.]+ GiB fit\)", "", str(told.value))
    assert said.endswith(advice)
    assert len(str(told.value)) < 300


class Gpu:
    """What JAX tells of a device with 80 GiB, of which one is in use."""

    platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": 80 << 30, "bytes_in_use": 1 << 30}


def test_on_a_gpu_its_own_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents of 40 GiB on two nodes do not fit; 32 GiB do, and 40 without."""
    monkeypatch.setattr(room.jax, "local_devices", lambda: [Gpu()])
    with pytest.raises(Failure) as told:
        check_room("memhog:40g", 10 << 20, 2, True)
    assert str(told.value) == (
        "memhog:40g on 2 nodes needs 82.5 GiB of memory, the NVIDIA H100 80GB HBM3 has "
        "79.0 GiB free; use fewer pages (38.3 GiB fit) or --no-content"
    )
    check_room("memhog:32g", 32 << 18, 2, True)
    check_room("memhog:40g", 10 << 20, 2, False)


def test_a_device_that_tells_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gpu, "memory_stats", lambda self: None)
    monkeypatch.setattr(room.jax, "local_devices", lambda: [Gpu()])
    assert room.memory() == ("the NVIDIA H100 80GB HBM3", None)
    check_room("memhog:1t", 1 << 28, 2, True)


def test_files_that_are_read_whole_have_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 1001)
    assert len(files.text(path, 1001)) == 1001
    with pytest.raises(files.FileError, match="longer than 1,000 bytes"):
        files.text(path, 1000)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("memhog 8192g --migrate 0:1", "give a smaller size"),
        ("pmbench -m 99999999 -s 99999999 1", "give a smaller -s"),
        ("pmbench -m 99999999 -s 99999999 -j 4 1 --migrate 0:1", "give a smaller -s"),
        ("pmbench -m 9999999 -s 9999999 -p linear -e 7 1", "give a smaller -s"),
    ],
)
def test_a_program_that_would_not_fit_is_not_begun(
    capsys: pytest.CaptureFixture[str], words: str, advice: str
) -> None:
    tracemalloc.start()
    assert cli.main(words.split()) == 1
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    out, said = capsys.readouterr()
    assert re.search(r"needs [\d,.]+ GiB of memory to be played, .*" + advice, said)
    assert out == ""


@pytest.mark.parametrize(
    "words",
    [
        "pmbench -p pareto -e 0 1",
        "pmbench -p zipf -e -5 1",
        "pmbench -p pareto -e nan 1",
        "pmbench -p normal -e inf 1",
        "pmbench -p linear -e 1e300 1",
        "pmbench 1 --migrate 0:1 --limits " + ",".join(["8"] * 1001),
    ],
)
def test_numbers_of_pmbench_have_an_end(
    capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert cli.main(words.split()) in (1, 2)
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"--shape .*: give .* at most|--limits: 1,001 of them", said)
