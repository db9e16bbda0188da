"""Long runs without waiting for them: memory that does not grow, counters past 2^32."""

import tracemalloc
from itertools import islice
from pathlib import Path

import jaxmig
import numpy as np
import pytest
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


def test_files_that_are_read_whole_have_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 1001)
    assert len(files.text(path, 1001)) == 1001
    with pytest.raises(files.FileError, match="longer than 1,000 bytes"):
        files.text(path, 1000)
