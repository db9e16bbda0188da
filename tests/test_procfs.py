"""The readers of /proc: formats, live processes, and what is missing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxmig.procfs import errors, kpage, maps, numa_maps, pagemap, process
from jaxmig.procfs.columns import AreaKind, pick
from jaxmig.procfs.columns import PageFlag as F
from jaxmig.snapshot import Snapshot, take, take_all
from procfs_fake import (
    ANON,
    CACHE,
    EXCLUSIVE,
    FILE,
    HEAD,
    HUGETLB,
    PRESENT,
    SLEEP_PID,
    SLEEP_RSS,
    SWAPPED,
    TAIL,
    ZERO,
    Area,
    invent,
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
    with_scan = take(child)
    monkeypatch.setattr(pagemap, "scan", lambda *_: None)
    without = take(child)
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


def test_reasons_of_invented_pages(tmp_path: Path) -> None:
    anon = {i: PRESENT | EXCLUSIVE | 100 + i for i in range(4)}
    anon |= {4: PRESENT | 7, 5: PRESENT | 7, 6: SWAPPED | 3, 7: PRESENT | 900}
    areas = [
        Area(16, 8, anon, counts={"Rss": 5, "Private_Dirty": 3, "Referenced": 4}),
        Area(64, 2, {0: PRESENT | 9}, "rw-s", "/dev/gpu", 5, "rd wr pf io"),
        Area(80, 1, {0: PRESENT | FILE | 50}, "r-xp", "[vdso]", vm_flags="rd ex"),
        Area(96, 1, {0: PRESENT | FILE | 300}, "rw-s", "/secretmem (deleted)", 8),
        Area(112, 1, {0: PRESENT | FILE | 301}, "rw-s", "/dev/dax0.0", 9),
    ]
    flags = {100 + i: ANON for i in range(4)} | {7: ZERO, 50: 1 << 11, 900: 1 << 11}
    flags |= {300: CACHE, 301: CACHE, 102: ANON | 1 << 19}
    root = invent(tmp_path, 5, areas, flags, rss=8)
    snapshot = take(5, root=root, page_size=4096)
    assert reasons(snapshot) == {
        "VM_PFNMAP/VM_IO area (/dev/gpu)": 1,
        "DAX area": 1,
        "zero page": 2,
        "vDSO: mapped more than once, not on the LRU": 1,
        "memfd_secret area": 1,
        "poisoned memory": 1,
        "not on the LRU (kpageflags)": 1,
    }
    assert np.count_nonzero(snapshot.movable) == 3
    assert snapshot.rss_pages.tolist() == [8]
    assert count(snapshot, F.DIRTY) == 3
    assert count(snapshot, F.YOUNG) == 4
    # The same without frames: zero pages follow from what smaps leaves out.
    blind = take(5, root=root, page_size=4096, hide_pfns=True)
    assert reasons(blind)["zero page"] == 2


def test_folios_and_huge_pages(tmp_path: Path) -> None:
    big = {i: PRESENT | EXCLUSIVE | 1024 + i for i in range(512)}
    split = {512 + i: PRESENT | EXCLUSIVE | 2048 + i for i in range(512)}
    small = {1024 + i: PRESENT | EXCLUSIVE | 5000 + i for i in range(4)}
    counts = {"Rss": 1028, "AnonHugePages": 512}
    hugetlb = {i: PRESENT | FILE | EXCLUSIVE | 8192 + i for i in range(512)}
    areas = [
        Area(512, 1028, big | split | small, counts=counts),
        Area(4096, 512, hugetlb, "rw-s", "/anon_hugepage (deleted)", 3, "rd wr ht"),
    ]
    flags = {1024: ANON | HEAD} | {1024 + i: TAIL for i in range(1, 512)}
    flags |= {2048 + i: ANON for i in range(512)} | {5003: ANON}
    flags |= {5000: ANON | HEAD, 5001: TAIL, 5002: ANON}
    flags |= {8192 + i: HUGETLB | (TAIL if i else HEAD) for i in range(512)}
    root = invent(tmp_path, 5, areas, flags)
    snapshot = take(5, root=root, page_size=4096)
    assert snapshot.order.tolist() == [9] * 512 + [0] * 512 + [1, 1, 0, 0] + [9] * 512
    assert np.flatnonzero(snapshot.has(F.HUGE_PMD)).tolist() == list(range(512))
    assert not snapshot.has(F.OFF_LRU).any()
    assert snapshot.rss_pages.tolist() == [1028]
    blind = take(5, root=root, page_size=4096, hide_pfns=True)
    for flag in (F.HUGE_PMD, F.HUGETLB):
        frames = blind.pfn[blind.has(flag)]
        assert frames[0] % 512 == 0
        assert (np.diff(frames) == 1).all()
    assert len(np.unique(blind.pfn)) == len(blind)


@pytest.mark.parametrize("hide", [False, True])
def test_shared_file_pages_have_one_frame(tmp_path: Path, hide: bool) -> None:
    for pid, start in ((5, 16), (6, 99)):
        shared = {i: PRESENT | FILE | 70 + i for i in range(3)}
        own = {0: PRESENT | EXCLUSIVE | pid * 100}
        invent(tmp_path, pid, [Area(start, 3, shared, path="/l", inode=4)
                               , Area(200, 1, own)])  # fmt: skip
    snapshot = take_all(root=tmp_path, page_size=4096, hide_pfns=hide)
    first, second = (snapshot.pfn[snapshot.select(p)] for p in (0, 1))
    np.testing.assert_array_equal(first[:3], second[:3])
    assert first[3] != second[3]
    assert len(np.unique(snapshot.pfn)) == 5


def test_nodes_spread_by_count(tmp_path: Path) -> None:
    words = {i: PRESENT | EXCLUSIVE | 40 + i for i in range(6)}
    area = Area(16, 6, words, numa="bind:0-1 anon=6 N0=2 N1=4 kernelpagesize_kB=4")
    snapshot = take(5, root=invent(tmp_path, 5, [area]), page_size=4096)
    assert snapshot.node.tolist() == [0, 0, 1, 1, 1, 1]
    assert snapshot.areas.policy == ("bind:0-1",)
    assert any(s.startswith("nodes:") for s in snapshot.missing)


def test_nodes_of_memory_blocks(tmp_path: Path) -> None:
    top = tmp_path / "devices/system"
    for node, block in ((0, 0), (0, 1), (1, 2)):
        (top / f"node/node{node}/memory{block}").mkdir(parents=True)
    (top / "memory").mkdir()
    (top / "memory/block_size_bytes").write_text("8000000\n")
    pfns = np.array([0, 32768, 65536, 98304, 1 << 40], np.int64)
    nodes = numa_maps.nodes_of_frames(pfns, 4096, tmp_path)
    assert nodes is not None
    assert nodes.tolist() == [0, 0, 1, -1, -1]
    assert numa_maps.nodes_of_frames(pfns, 4096, tmp_path / "none") is None
    assert numa_maps.online_nodes(tmp_path) == [0, 1]


def test_giant_holes_cost_nothing(tmp_path: Path) -> None:
    empty = Area(1 << 20, 1 << 34, counts={"Rss": 0})  # 64 TiB reserved
    used = Area(16, 2, {1: PRESENT | EXCLUSIVE | 5}, counts={"Rss": 1})
    root = invent(tmp_path, 5, [used, empty])
    assert len(take(5, root=root, page_size=4096)) == 1


def test_kernel_thread(tmp_path: Path) -> None:
    proc = write_process(tmp_path, 2, "kthreadd")
    text = (proc / "stat").read_text().replace("-1 0", f"-1 {0x208040}")
    (proc / "stat").write_text(text)
    with pytest.raises(errors.KernelThread, match=r"PID 2 \(kthreadd\)"):
        take(2, root=tmp_path)


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(errors.NotLinux, match="no process file system"):
        take(1, root=tmp_path / "proc")
    with pytest.raises(errors.NotLinux):
        take_all(root=tmp_path / "proc")


def test_vanishing_files(tmp_path: Path) -> None:
    write_process(tmp_path, 7)
    with pytest.raises(errors.ProcError, match="7/maps"):
        take(7, root=tmp_path)


@pytest.mark.parametrize("text", ["hello\n", "12-zz rw-p 0 0:0 0\n"])
def test_garbled_maps(text: str) -> None:
    with pytest.raises(errors.ProcError, match="maps:1: not a line"):
        maps.parse_areas(text)
    with pytest.raises(errors.ProcError, match="numa_maps:1: not a line"):
        numa_maps.parse_numa_maps("zz default\n")


def test_names_with_blanks_and_brackets() -> None:
    fields = process.stat_fields("7 (a) b (c) R 1" + " 0" * 40)
    assert fields[2:4] == ["a) b (c", "R"]
    line = "1000-2000 rw-p 00000000 08:01 7      /tmp/a b (deleted)\n"
    (area,) = maps.parse_areas(line)
    assert area.path == "/tmp/a b (deleted)"
    assert maps.area_kind(area, {}) == AreaKind.FILE
    assert maps.area_kind(area, {8 << 32 | 1: AreaKind.SHMEM}) == AreaKind.SHMEM


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60),
    st.lists(st.integers(0, 20), min_size=5, max_size=5),
)
def test_pick_takes_the_best_of_each_group(
    rows: list[tuple[int, int]], want: list[int]
) -> None:
    group, score = np.array(rows).T
    chosen = pick(group, np.array(want), score)
    for g in range(5):
        mine = group == g
        assert chosen[mine].sum() == min(want[g], mine.sum())
        left, taken = score[mine & ~chosen], score[mine & chosen]
        assert not len(left) or not len(taken) or taken.min() >= left.max()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_folio_orders_of_a_packed_block(orders: list[int]) -> None:
    sizes = [1 << order for order in sorted(orders, reverse=True)]
    words = np.zeros(kpage.BLOCK, np.uint64)
    wanted: list[int] = []
    for size in sizes:
        at = len(wanted)
        if at + size > kpage.BLOCK:
            break
        words[at] = HEAD if size > 1 else 0
        words[at + 1 : at + size] = TAIL
        wanted += [size.bit_length() - 1] * size
    _, found = kpage._folios(words.reshape(1, -1))
    assert found[0, : len(wanted)].tolist() == wanted
    assert not found[0, len(wanted) :].any()
