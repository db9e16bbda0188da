"""The readers of /proc on live and recorded processes, and what is missing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxmig.sources.procfs import errors, numa_maps, pagemap, process
from jaxmig.sources.procfs.columns import AreaKind, PageFlag as F
from jaxmig.sources.snapshot import Snapshot, take, take_all
from procfs_fake import (
    SLEEP_PID,
    SLEEP_RSS,
    sleep_root,
    write_process,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads a live /proc")
MIB = 1 << 20

TOUCH = f"""
import mmap, sys
kept = []
def area(size, write=True, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, huge=False):
    m = mmap.mmap(-1, size, flags=flags)
    if huge:
        m.madvise(14)
    for i in range(0, size, 4096):
        m[i] = 1 if write else m[i]
    kept.append(m)
def read(size):
    m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    sum(m[i] for i in range(0, size, 4096))
    kept.append(m)
area({48 * MIB})
area({16 * MIB}, huge=True)
area({MIB}, flags=mmap.MAP_SHARED)
read({MIB})
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def child() -> Iterator[int]:
    """A stopped process that touched 65 MiB and read 1 MiB of zeros."""
    pipe = subprocess.PIPE
    held = subprocess.Popen([sys.executable, "-c", TOUCH], stdin=pipe, stdout=pipe)
    assert held.stdout
    held.stdout.readline()
    held.send_signal(signal.SIGSTOP)
    while process.stat_fields(Path(f"/proc/{held.pid}/stat").read_text())[3] != "T":
        time.sleep(0.01)
    yield held.pid
    held.kill()
    held.communicate()


def reasons(snapshot: Snapshot) -> dict[str, int]:
    return dict(snapshot.unmovable())


def count(snapshot: Snapshot, flag: F) -> int:
    return int(np.count_nonzero(snapshot.has(flag)))


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (PermissionError(13, "x"), errors.PermissionDenied, "permission denied; .+"),
        (FileNotFoundError(2, "x"), errors.ProcError, "this kernel has no such file"),
        (ProcessLookupError(3, "x"), errors.ProcessVanished, "the process ended .+"),
        (OSError(5, "x"), errors.ProcError, "cannot be read: Input/output error"),
        (OSError("odd"), errors.ProcError, "cannot be read: odd"),
    ],
)
def test_what_a_file_of_proc_refuses_is_said(
    tmp_path: Path, error: OSError, kind: type[Exception], said: str
) -> None:
    path = tmp_path / "smaps"
    with pytest.raises(kind, match=f"^{path}: {said}$"), errors.reading(path):
        raise error
    # Without its folder in /proc the process itself is gone.
    gone = tmp_path / "7/smaps"
    with pytest.raises(errors.ProcessVanished), errors.reading(gone):
        raise FileNotFoundError(2, "x")


@linux
@pytest.mark.parametrize("hide", [False, True])
def test_live_page_count_is_rss(child: int, hide: bool) -> None:
    snapshot = take(child, hide_pfns=hide)
    assert snapshot.rss_pages.tolist() == snapshot.processes.rss.tolist()
    assert snapshot.rss_pages[0] >= 65 * MIB // snapshot.page_size
    assert not any("changed" in sentence for sentence in snapshot.missing)
    assert reasons(snapshot)["zero page"] >= MIB // snapshot.page_size
    assert count(snapshot, F.ZERO) + snapshot.rss_pages[0] <= len(snapshot)
    assert set(snapshot.processes.running()) <= set(range(os.cpu_count() or 1))
    assert any("PFNs" in s for s in snapshot.missing) >= hide


@linux
def test_live_huge_pages_agree_with_smaps(child: int) -> None:
    snapshot = take(child)
    huge = snapshot.has(F.HUGE_PMD) & ~snapshot.has(F.ZERO)
    assert np.count_nonzero(huge) == np.maximum(snapshot.areas.huge_pmd, 0).sum()
    assert (snapshot.order[huge] == 9).all()


@linux
def test_without_the_scan_the_rows_are_the_same(
    child: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who else maps a library changes meanwhile: nothing did if the first is read again.
    again = None
    while again is None or not np.array_equal(again.flags, with_scan.flags):
        with_scan = take(child)
        with monkeypatch.context() as patch:
            patch.setattr(pagemap, "scan", lambda *_: None)
            without = take(child)
        again = take(child)
    monkeypatch.setattr(pagemap, "scan", lambda *_: None)
    # The huge page of zeros is the one mapping that smaps does not count.
    real = ~with_scan.has(F.ZERO)
    np.testing.assert_array_equal(with_scan.vpn, without.vpn)
    np.testing.assert_array_equal(with_scan.flags[real], without.flags[real])
    assert count(without, F.ZERO) == count(with_scan, F.ZERO)
    hidden = take(child, hide_pfns=True)
    assert count(hidden, F.ZERO) == count(with_scan, F.ZERO)
    assert count(hidden, F.HUGE_PMD) >= count(without, F.HUGE_PMD)


@linux
def test_live_machine_recognises_shared_pages(child: int) -> None:
    snapshot = take_all()
    assert child in snapshot.processes.pid
    assert os.getpid() not in snapshot.processes.pid
    assert (np.diff(snapshot.process) >= 0).all()
    if not count(snapshot, F.MADE_UP_PFN):
        _, times = np.unique(snapshot.pfn, return_counts=True)
        assert (times > 1).any()


@linux
def test_asking_the_kernel_for_nodes(child: int) -> None:
    snapshot = take(child)
    nodes = numa_maps.ask_nodes(child, snapshot.vpn[:300], snapshot.page_size)
    online = numa_maps.online_nodes(Path("/sys"))
    assert nodes is None or set(nodes.tolist()) <= {-1, *online}


@linux
@pytest.mark.parametrize(
    ("pid", "error", "text"),
    [
        (0x7FFFFFFF, errors.NoSuchProcess, "PID 2147483647: no such process"),
        (-1, errors.NoSuchProcess, "PID -1"),
    ],
)
def test_unknown_pid(pid: int, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        take(pid)


@linux
def test_zombie_has_vanished() -> None:
    dead = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(errors.ProcessVanished, match="ended already"):
        take(dead.pid)
    dead.wait()


def test_golden_sleep(tmp_path: Path) -> None:
    snapshot = take(SLEEP_PID, root=sleep_root(tmp_path), page_size=4096)
    assert snapshot.processes.comm == ("sleep",)
    assert snapshot.rss_pages.tolist() == snapshot.processes.rss.tolist() == [SLEEP_RSS]
    assert snapshot.unmovable() == [("vDSO: mapped more than once, not on the LRU", 1)]
    assert not snapshot.has(F.MADE_UP_PFN | F.MADE_UP_ADDRESS).any()
    assert count(snapshot, F.DIRTY) == 24  # Private_Dirty of the roll-up
    assert count(snapshot, F.YOUNG) == SLEEP_RSS
    stack = snapshot.areas.kind[snapshot.area] == AreaKind.STACK
    assert np.count_nonzero(stack) == 3
    assert snapshot.has(F.WRITABLE)[stack].all()
    assert (snapshot.mapcount[snapshot.has(F.FILE)] >= 1).all()
    assert snapshot.node.tolist() == [0] * SLEEP_RSS


def test_golden_without_privilege(tmp_path: Path) -> None:
    root = sleep_root(tmp_path)
    seen = take(SLEEP_PID, root=root, page_size=4096)
    blind = take(SLEEP_PID, root=root, page_size=4096, hide_pfns=True)
    np.testing.assert_array_equal(seen.vpn, blind.vpn)
    assert blind.has(F.MADE_UP_PFN).all()
    assert blind.missing[0].startswith("PFNs: hidden (run as root or with CAP_SYS")
    assert len(np.unique(blind.pfn)) == len(np.unique(seen.pfn))
    assert blind.rss_pages.tolist() == [SLEEP_RSS]


@pytest.mark.parametrize("gone", ["smaps", "numa_maps", "smaps_rollup", "statm"])
def test_golden_with_a_file_missing(tmp_path: Path, gone: str) -> None:
    root = sleep_root(tmp_path)
    (root / str(SLEEP_PID) / gone).unlink()
    snapshot = take(SLEEP_PID, root=root, page_size=4096)
    assert snapshot.rss_pages.tolist() == [SLEEP_RSS]
    told = any(s.startswith(f"{gone}:") for s in snapshot.missing)
    assert told == (gone in {"smaps", "numa_maps"})


def denied(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Makes opens of these file names fail as they do without privilege."""
    real_open, real_read = os.open, Path.read_bytes

    def refuse(path: object) -> None:
        if Path(str(path)).name in names:
            raise PermissionError(13, "Permission denied", str(path))

    def fake_open(path: str, flags: int) -> int:
        refuse(path)
        return real_open(path, flags)

    def fake_read(path: Path) -> bytes:
        refuse(path)
        return real_read(path)

    monkeypatch.setattr(os, "open", fake_open)
    monkeypatch.setattr(Path, "read_bytes", fake_read)


def test_numa_maps_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sleep_root(tmp_path)
    denied(monkeypatch, "pagemap", "smaps")
    snapshot = take(SLEEP_PID, root=root, page_size=4096)
    assert len(snapshot) == SLEEP_RSS - 1  # numa_maps leaves the vDSO out
    assert snapshot.has(F.MADE_UP_ADDRESS).all()
    assert snapshot.has(F.MADE_UP_PFN).all()
    assert [s.split(":")[0] for s in snapshot.missing][:2] == ["smaps", "pagemap"]


def test_maps_denied_names_file_and_privilege(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sleep_root(tmp_path)
    denied(monkeypatch, "maps")
    with pytest.raises(errors.PermissionDenied, match=r"4242/maps.*CAP_SYS_PTRACE"):
        take(SLEEP_PID, root=root)
    with pytest.raises(errors.PermissionDenied, match="no process may be read"):
        take_all(root=root)


def test_kpageflags_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sleep_root(tmp_path)
    denied(monkeypatch, "kpageflags")
    snapshot = take(SLEEP_PID, root=root, page_size=4096)
    assert not snapshot.has(F.MADE_UP_PFN).any()
    assert "CAP_SYS_ADMIN" in snapshot.missing[0]


def test_kernel_thread(tmp_path: Path) -> None:
    proc = write_process(tmp_path, 2, "kthreadd")
    text = (proc / "stat").read_text().replace("-1 0", f"-1 {0x208040}")
    (proc / "stat").write_text(text)
    with pytest.raises(errors.KernelThread, match=r"PID 2 \(kthreadd\)"):
        take(2, root=tmp_path)
