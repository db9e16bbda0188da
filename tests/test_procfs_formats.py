"""The readers of /proc on invented processes, and the formats they parse."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from jaxmig.sources.procfs import errors, kpage, maps, numa_maps, process
from jaxmig.sources.procfs.columns import AreaKind, PageFlag as F, pick
from jaxmig.sources.snapshot import Snapshot, take, take_all
from procfs_fake import (
    ANON,
    CACHE,
    EXCLUSIVE,
    FILE,
    HEAD,
    HUGETLB,
    PRESENT,
    SWAPPED,
    TAIL,
    ZERO,
    Area,
    invent,
    write_process,
)


def reasons(snapshot: Snapshot) -> dict[str, int]:
    return dict(snapshot.unmovable())


def count(snapshot: Snapshot, flag: F) -> int:
    return int(np.count_nonzero(snapshot.has(flag)))


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


def test_no_proc(tmp_path: Path) -> None:
    with pytest.raises(errors.NotLinux, match="no process file system"):
        take(1, root=tmp_path / "proc")
    with pytest.raises(errors.NotLinux):
        take_all(root=tmp_path / "proc")


def test_vanishing_files(tmp_path: Path) -> None:
    write_process(tmp_path, 7)
    with pytest.raises(errors.ProcError, match="7/maps"):
        take(7, root=tmp_path)
    invent(tmp_path, 8, [Area(16, 1, {0: PRESENT | 5})])
    snapshot = take_all(root=tmp_path, page_size=4096)
    assert snapshot.processes.pid.tolist() == [8]
    assert any("7/maps" in sentence for sentence in snapshot.missing)


ODD = ("\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r", "\u00a0", " ")


@pytest.mark.parametrize("odd", ODD)
def test_a_file_s_name_is_never_taken_for_an_area(tmp_path: Path, odd: str) -> None:
    """Linux escapes newlines alone: what else ends a line may stand in a name."""
    planted = f"/tmp/a{odd}0-1000 rwxp 00000000 00:00 0{odd}"
    areas = [Area(16, 2, {0: PRESENT | 7}, path=planted, inode=5), Area(64, 1)]
    shown = odd.replace(" ", r"\040")  # here blanks are escaped, too
    areas[0].numa = f"default file=/tmp/a{shown}N1=9{shown}10 N0=1"
    taken = take(5, root=invent(tmp_path, 5, areas, rss=1), page_size=4096)
    assert taken.areas.path == (planted, "")
    assert taken.areas.start.tolist() == [16 << 12, 64 << 12]
    assert taken.node.tolist() == [0]


NOT_AREAS = (
    "1000-0 rw-p 0 08:01 0 x",
    "0-11111111111111111 rw-p 0 08:01 0 x",
    "0-1000 rw-p 0 08:01 ² x",
    "Rss: x kB",
    "Rss: 9999999999999999 kB",
    "words",
)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fff000-1002000 rw-p 0 08:01 0 x", "begins before the area above it ends"),
        ("0-1000 rw-p 0 08:01 0 x", "begins before the area above it ends"),
        ("7fc1c0abe000-7fcfcfc1c0ac0000 r--p 0 0:0 0", "ends beyond all addresses"),
        ("1001000-8000000000000000 r--p 0 0:0 0", "ends beyond all addresses"),
        ("1001000-1002001 rw-p 0 08:01 0 x", "does not begin and end with a page"),
        ("1001800-1002000 rw-p 0 08:01 0 x", "does not begin and end with a page"),
        ("Size: 8 kB", "its addresses are 4 kB apart"),
        ("Size: 4", "its addresses are 4 kB apart"),
    ],
)
def test_an_area_that_no_process_has_is_named_by_its_line(line: str, said: str) -> None:
    """As long ones, such areas would be read for hours."""
    with pytest.raises(errors.ProcError, match=f"^smaps:2: {said}.*: {line!r}$"):
        maps.parse_areas(f"1000000-1001000 rw-p 0 08:01 0 \n{line}\n", "smaps")


def test_areas_that_linux_has_are_taken() -> None:
    """Neighbours, the highest user page, and [vsyscall] in the kernel's half."""
    text = (
        "1000-2000 rw-p 0 0:0 0\nSize: 4 kB\n2000-4000 rw-p 0 0:0 0\nSize: 8 kB\n"
        f"{(1 << 57) - 4096:x}-{1 << 57:x} rw-p 0 0:0 0\n"
        "ffffffffff600000-ffffffffff601000 --xp 0 0:0 0 [vsyscall]\n"
    )
    assert [a.kilobytes.get("Size") for a in maps.parse_areas(text)] == [
        4,
        8,
        None,
        None,
    ]


def test_where_pagemap_ends_an_area_is_read_no_further(tmp_path: Path) -> None:
    """A saved pagemap ends with its last page; the area may be of petabytes."""
    long = Area(16, (1 << 45) - 16, {1: PRESENT | EXCLUSIVE | 5}, counts={"Rss": 1})
    root = invent(tmp_path, 5, [long])
    assert len(take(5, root=root, page_size=4096)) == 1


def test_a_garbled_smaps_is_not_taken_for_an_unreadable_one(tmp_path: Path) -> None:
    root = invent(tmp_path, 5, [Area(16, 2, {1: PRESENT | EXCLUSIVE | 5})])
    smaps = root / "5/smaps"
    smaps.write_text(smaps.read_text() + "words\n")
    with pytest.raises(errors.ProcError, match=r"smaps:4: not a line of maps or smaps"):
        take(5, root=root, page_size=4096)


@pytest.mark.parametrize("line", NOT_AREAS)
def test_what_linux_never_wrote_is_named_by_its_line(line: str) -> None:
    with pytest.raises(errors.ProcError, match="maps:2: not a line of maps or smaps"):
        maps.parse_areas(f"0-1000 rw-p 0 08:01 0 \n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        *("x default", "1000", "1000 default N0=-1", "1000 default anon=1e3", "\x0c"),
        *(f"1000 default N0=1 kernelpagesize_kB={n}" for n in (0, 3, 7, 10**14)),
        "0 default N0=1",  # a second time
    ],
)
def test_lines_of_numa_maps_too(line: str) -> None:
    with pytest.raises(errors.ProcError, match="numa_maps:2: not a line of numa_maps"):
        numa_maps.parse_numa_maps(f"0 default\n{line}\n")


def test_nodes_of_four_digits_count_too() -> None:
    (area,) = numa_maps.parse_numa_maps("1000 default N7=2 N1023=5\n").values()
    assert (area.nodes, area.pages) == ({7: 2, 1023: 5}, 7)


def test_where_nobody_tells_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sysfs, none that lists blocks, blocks of no size; a call that is not there."""
    pfns, top = np.zeros(1, np.int64), tmp_path / "devices/system"
    assert numa_maps.online_nodes(tmp_path) == [0]
    (top / "memory").mkdir(parents=True)
    size = top / "memory/block_size_bytes"
    for text in ("0\n", "words\n", "8000000\n"):
        size.write_text(text)
        assert numa_maps.nodes_of_frames(pfns, 4096, tmp_path) is None
        (top / "node/node0/memory0").mkdir(parents=True, exist_ok=text != "0\n")
        if text == "words\n":
            (top / "node/node0/memory0").rmdir()
    monkeypatch.setattr(numa_maps.platform, "machine", lambda: "s390x")
    assert numa_maps.ask_nodes(1, pfns, 4096) is None
    monkeypatch.setattr(numa_maps.platform, "machine", lambda: "x86_64")
    assert numa_maps.ask_nodes(2**22 - 1, pfns + 1, 4096) is None  # no such process


def test_counts_beyond_an_area_take_no_memory() -> None:
    lines = numa_maps.parse_numa_maps(f"1000 default N0=2 N1={10**14}\n")
    area = np.zeros(5, np.int64)
    node, guess = numa_maps.spread_nodes(area, [0x1000], lines, 4096)
    assert node.tolist() == [0, 0, 1, 1, 1]
    assert guess.all()
