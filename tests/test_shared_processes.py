"""Snapshots of the whole machine: who shares a page, and what that does to its moves."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxmig import cli
from jaxmig.sources import resident, snapshot, targets
from jaxmig.sources.procfs.columns import PageFlag as F
from jaxmig.sources.snapshot import Snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads a live /proc")
SHARED, OWN = 96, 64  # pages that both map, and pages of each alone
TRIES = 8
PAIR = f"""
import mmap, os, sys
shared = mmap.mmap(-1, {SHARED} * 4096)
for i in range(0, len(shared), 4096):
    shared[i] = 1
child = os.fork()
own = mmap.mmap(-1, {OWN} * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for m in (shared, own):
    for i in range(0, len(m), 4096):
        m[i] = 2
os.write(1, b"%d\\n" % os.getpid())
os.read(0, 1)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[int], Path]]:
    """Two stopped processes that share pages, and the snapshot of the machine."""
    pipe = subprocess.PIPE
    held = subprocess.Popen([sys.executable, "-c", PAIR], stdin=pipe, stdout=pipe)
    assert held.stdout is not None
    pids = sorted(int(held.stdout.readline().split()[0]) for _ in range(2))
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield pids, still(tmp_path_factory.mktemp("all"))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        held.communicate()


def migrated_by_linux() -> list[str]:
    """How many pages the kernel has migrated, by compaction say."""
    return re.findall(r"^pgmigrate_success .*", Path("/proc/vmstat").read_text(), re.M)


def still(directory: Path) -> Path:
    """A snapshot of the machine during which Linux has moved no page of it."""
    for i in range(TRIES):
        before, file = migrated_by_linux(), directory / f"all{i}.npz"
        assert cli.main(["snapshot", "--all", "-o", str(file)]) == 0
        if migrated_by_linux() == before:
            break
    return file


def rows_of(s: Snapshot, pid: int) -> slice:
    return s.select(s.processes.pid.tolist().index(pid))


def known(s: Snapshot) -> None:
    if s.has(F.MADE_UP_PFN).any():
        pytest.skip("frame numbers are hidden: not root")


def test_shared_pages_have_one_frame(pair: tuple[list[int], Path]) -> None:
    pids, file = pair
    s = snapshot.load(file)
    known(s)
    assert os.getpid() not in s.processes.pid
    assert len(s.processes) >= 2
    frames = []
    for pid in pids:
        mine = rows_of(s, pid)
        area = s.has(F.SHARED_AREA)[mine] & (s.mapcount[mine] == 2)
        frames.append(set(s.pfn[mine][area].tolist()))
    assert len(frames[0] & frames[1]) == SHARED
    assert snapshot.load(file) == s


def test_a_process_of_the_machine_has_its_sharers_only(
    pair: tuple[list[int], Path],
) -> None:
    """Rows of others are those of folios that the process maps, and all of them."""
    pids, file = pair
    s = snapshot.load(file)
    known(s)
    which = s.processes.pid.tolist().index(pids[0])
    near, mine_now = resident.around(s, which)
    mine = near.select(mine_now)
    assert near.processes.pid[mine_now] == pids[0]
    assert pids[1] in near.processes.pid
    threads = near.processes.thread_process == mine_now
    assert near.processes.tid[threads].tolist() == [pids[0]]
    for column in ("start", "path", "vm_flags"):
        before, after = (
            [getattr(t.areas, column)[i] for i in t.area[rows].tolist()]
            for t, rows in ((s, s.select(which)), (near, mine))
        )
        assert before == after
    assert set(near.areas.process.tolist()) == set(range(len(near.processes)))
    np.testing.assert_array_equal(near.vpn[mine], s.vpn[s.select(which)])
    has_frame = ~near.has(F.ZERO | F.PFNMAP)
    frames = near.pfn[mine][has_frame[mine]]
    others = np.ones(len(near), bool)
    others[mine] = False
    single = others & (near.order == 0)
    assert np.isin(near.pfn[single], frames).all()
    everywhere = ~s.has(F.ZERO | F.PFNMAP) & np.isin(s.pfn, frames)
    assert everywhere.sum() == (has_frame & np.isin(near.pfn, frames)).sum()
    assert len(near) < len(s)


def migrated(capsys: pytest.CaptureFixture[str], *args: str) -> dict:
    where = ("0", "1", "--nodes", "2", "--cpus", "4", "--running", "1", "--no-content")
    assert (
        cli.main(["migratepages", *args, *where, "--kernel", "6.3", "--json", "-"]) == 0
    )
    return json.loads(capsys.readouterr().out)


def test_shared_pages_move_for_the_privileged_only(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[list[int], Path],
) -> None:
    """FILE.npz:PID is the process; MPOL_MF_MOVE leaves what others map, MOVE_ALL not."""
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")
    pids, file = pair
    s = snapshot.load(file)
    known(s)
    mine = rows_of(s, pids[0])
    movable = s.movable[mine]
    alone = movable & (s.mapcount[mine] == 1)
    assert movable.sum() - alone.sum() >= SHARED
    capsys.readouterr()
    name = f"{file}:{pids[0]}"
    everything = migrated(capsys, name)
    assert f"PID {pids[0]} (" in everything["target"]["description"]
    assert everything["calls"][0]["nodes_after"]["1"] == movable.sum()
    less = migrated(capsys, name, "--unprivileged")
    assert less["calls"][0]["nodes_after"]["1"] == alone.sum()
    again = targets.resolve(str(file), pids[0])
    assert again.pages == everything["target"]["pages"]


def test_a_wrong_choice_is_one_line(
    capsys: pytest.CaptureFixture[str], pair: tuple[list[int], Path]
) -> None:
    pids, file = pair
    with pytest.raises(targets.TargetError, match=r"all\d\.npz:PID or with --pid"):
        targets.resolve(str(file))
    with pytest.raises(targets.TargetError, match="leave out --pid"):
        targets.resolve(f"{file}:{pids[0]}", pids[1])
    for name, words in (
        (f"{file}:4194304999", "holds no PID 4194304999"),
        (f"{file}:x", "neither a PID nor a file"),
        (f"{file}x.npz:1", "cannot be read"),
    ):
        assert cli.main(["migratepages", name, "0", "1"]) in (1, 2)
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert words in err


def closed(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    """Makes pagemap unreadable."""
    real = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if Path(str(path)).name == "pagemap":
            raise error
        return real(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PermissionError(13, "Permission denied"), "not permitted"),
        (FileNotFoundError(2, "No such file"), "not in this kernel"),
    ],
)
def test_numa_maps_alone_is_said_on_stderr(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    pair: tuple[list[int], Path],
    tmp_path: Path,
    error: OSError,
    why: str,
) -> None:
    pids, _ = pair
    text = Path(f"/proc/{pids[0]}/numa_maps").read_text()
    pages = sum(
        int(n) * int(size) // 4
        for line in text.splitlines()
        for size in re.findall(r"kernelpagesize_kB=(\d+)", line)
        for n in re.findall(r" N\d+=(\d+)", line)
    )
    capsys.readouterr()
    closed(monkeypatch, error)
    file = tmp_path / "numa.npz"
    assert cli.main(["snapshot", str(pids[0]), "-o", str(file)]) == 0
    out, err = capsys.readouterr()
    assert f"pagemap: {why}" in out
    assert f"pagemap cannot be read: {pages:,} pages are laid out by the counts" in err
    target = targets.resolve(str(file))
    assert target.laid_out == target.pages == pages
    assert sum(target.by_node.values()) == pages


def test_pages_of_a_closed_pagemap_are_on_the_nodes_of_numa_maps(
    tmp_path: Path,
) -> None:
    """Counts by node become pages in address order, area by area."""
    from procfs_fake import Area, invent

    areas = [
        Area(0x1000, 8, numa="default anon=5 dirty=5 N0=2 N1=3 kernelpagesize_kB=4"),
        Area(0x2000, 4, numa="bind:1 file=/x mapped=4 N1=4 kernelpagesize_kB=4"),
    ]
    invent(tmp_path, 7, areas)
    (tmp_path / "7" / "pagemap").unlink()
    s = snapshot.take(7, root=tmp_path, page_size=4096)
    assert s.laid_out == len(s) == 9
    assert s.node.tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert s.vpn.tolist() == [*range(0x1000, 0x1005), *range(0x2000, 0x2004)]
