"""migratepages on live processes: every resident page that may move does."""

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from jaxmig import cli
from jaxmig.sources import snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads a live /proc")
MIB = 1 << 20
TWICE = -1  # instead of an advice: one file, mapped twice
TOUCH = """
import mmap, os, sys
size, advice = map(int, sys.argv[1:])
if advice < 0:
    file = os.memfd_create("twice")
    os.truncate(file, size)
    areas = [mmap.mmap(file, size), mmap.mmap(file, size)]
else:
    areas = [mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)]
    areas[0].madvise(advice)
for m in areas:
    for i in range(0, size, 4096):
        m[i] = 1
print("touched", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_still(size: int, advice: int) -> Iterator[int]:
    """PID of a stopped process that wrote `size` bytes."""
    args = [sys.executable, "-c", TOUCH, str(size), str(advice)]
    child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"touched\n"
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        yield child.pid
    finally:
        child.kill()
        child.communicate()


def rss_pages(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        line = next(line for line in file if line.startswith("Rss:"))
    return int(line.split()[1]) // 4


def read_at_rest(pid: int) -> tuple[snapshot.Snapshot, int]:
    """What a process has, and its pages as smaps counts them; the kernel may reclaim."""
    while True:
        before, taken, after = rss_pages(pid), snapshot.take(pid), rss_pages(pid)
        if before == after:
            return taken, after


@pytest.mark.parametrize(
    ("size", "advice"),
    [
        (16 * MIB, mmap.MADV_NOHUGEPAGE),
        (16 * MIB, mmap.MADV_HUGEPAGE),
        pytest.param(256 * MIB, mmap.MADV_NOHUGEPAGE, marks=pytest.mark.slow),
    ],
    ids=["16m", "16m-thp", "256m"],
)
def test_every_page_that_may_move_does(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    advice: int,
) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    with held_still(size, advice) as pid:
        taken, rss = read_at_rest(pid)
        monkeypatch.setattr(snapshot, "take", lambda *pids: taken)
        args = ("migratepages", str(pid), "0", "1", "--nodes", "2", "--cpus", "4")
        code = cli.main([*args, "--running", "1-3", "--json", "-"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert int(taken.rss_pages[0]) == rss
    doc = json.loads(out)
    stay = {u["why"]: u["pages"] for u in doc["target"]["unmovable"]}
    assert stay == dict(taken.unmovable())
    movable = int(taken.movable.sum())
    assert f"{rss:,} pages resident" in doc["target"]["description"]
    for call in doc["calls"]:
        assert call["nodes_after"]["1"] == movable
        assert call["vmstat"]["pgmigrate_success"] == movable
        assert call["contents_wrong"] == 0
    serial, batched = (c["vmstat"] for c in doc["calls"])
    sent = "nr_tlb_remote_flush_received"
    assert batched[sent] * 20 < serial[sent]
    assert doc["calls"][1]["ipis_per_cpu"][0] == 0


def test_a_snapshot_file_gives_what_the_process_gave(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    file = f"{tmp_path}/child.npz"
    where = ("0", "1", "--cpus", "4", "--running", "1", "--kernel", "6.3")
    with held_still(MIB, mmap.MADV_NOHUGEPAGE) as pid:
        # Libraries' pages are shared with whoever starts or ends: one reading for both.
        taken = snapshot.take(pid)
        monkeypatch.setattr(snapshot, "take", lambda *pids: taken)
        assert cli.main(["snapshot", str(pid), "-o", file]) == 0
        assert f"PID {pid}" in capsys.readouterr().out
        cli.main(["migratepages", str(pid), *where, "--json", "-"])
    live = json.loads(capsys.readouterr().out)["calls"][0]
    cli.main(["migratepages", file, *where, "--json", "-"])
    saved = json.loads(capsys.readouterr().out)["calls"][0]
    times = ("wall_s", "compile_s")
    assert {k: v for k, v in saved.items() if k not in times} == {
        k: v for k, v in live.items() if k not in times
    }


def test_a_page_mapped_twice_moves_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    args = ("0", "1", "--cpus", "4", "--running", "1", "--kernel", "6.3")
    with held_still(MIB, TWICE) as pid:
        assert cli.main(["migratepages", str(pid), *args, "--json", "-"]) == 0
    doc = json.loads(capsys.readouterr().out)
    (call,) = doc["calls"]
    # Counted by address the file's 256 pages are 512, by folio they are not.
    mapped = call["nodes_after"]["1"]
    assert mapped - call["vmstat"]["pgmigrate_success"] == 256
    assert call["contents_wrong"] == 0
