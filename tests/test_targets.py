"""Targets: workloads, processes and snapshot files as machines."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from jaxmig.calls.syscalls import pages_by_node
from jaxmig.calls.syscalls.space import View
from jaxmig.sources import resident, snapshot, targets
from jaxmig.sources.procfs import ProcError
from jaxmig.sources.snapshot import PageFlag as F, Snapshot, SnapshotError
from jaxmig.sources.targets import Setting, TargetError, resolve
from jaxmig.state import conditions, frame, pte
from jaxmig.state.machine import Machine
from procfs_fake import SLEEP_PID, SLEEP_RSS, sleep_root

GOLDEN = Path(__file__).parent / "data/procfs/snapshot-v1.npz"
PLAIN = Setting(running=(1,), content=False)


def pages_on(target: targets.Target, setting: Setting = PLAIN) -> list[int]:
    m, space = target.build(setting)
    return pages_by_node(View.of(m), space, setting.nodes)


def invented(pages: int, **columns: np.ndarray) -> Snapshot:
    """Anonymous, exclusive pages of the recorded process's heap, with changes."""
    s = snapshot.load(GOLDEN)
    heap = s.areas.path.index("[heap]")
    base = {
        "process": np.zeros(pages, np.int32),
        "area": np.full(pages, heap, np.int32),
        "vpn": np.arange(1024, 1024 + pages, dtype=np.int64),
        "pfn": np.arange(4096, 4096 + pages, dtype=np.int64),
        "flags": np.full(pages, (F.WRITABLE | F.EXCLUSIVE | F.DIRTY).value, np.uint32),
        "node": np.zeros(pages, np.int16),
        "order": np.zeros(pages, np.int8),
        "mapcount": np.ones(pages, np.int32),
        "kpageflags": np.zeros(pages, np.uint64),
    }
    return dataclasses.replace(s, **(base | columns))


def flags(*bits: F) -> np.uint32:
    return np.uint32(sum(bit.value for bit in bits))


def head_flags(m: Machine, kind: int) -> int:
    """How many folios of a kind there are."""
    word = np.asarray(m.frame)[:, frame.FLAGS]
    return int(((word & (frame.KIND | frame.TAIL)) == kind).sum())


def leaves(m: Machine) -> int:
    """How many PMD leaves map something."""
    bits = np.asarray(m.pte)[m.geometry.ptes :, pte.BITS]
    return int(((bits & pte.PRESENT) != 0).sum())


def test_memhog_has_the_pages_of_its_size_on_its_node() -> None:
    target = resolve("memhog:1m")
    assert (target.pages, target.running) == (256, (5,))
    assert pages_on(target) == [256, 0]
    assert pages_on(target, dataclasses.replace(PLAIN, node=1)) == [0, 256]
    assert resolve("memhog:4097").pages == 2


def test_memhog_with_thp_has_huge_pages_and_a_rest() -> None:
    target = resolve("memhog:5m,thp")
    m, space = target.build(PLAIN)
    assert [a.pages for a in space.areas] == [1024, 256]
    assert m.geometry.orders == (0, 9)
    assert pages_on(target) == [1280, 0]
    assert pages_on(resolve("memhog:1m,thp")) == [256, 0]


def test_pmbench_has_its_working_set_and_runs_on_its_threads() -> None:
    target = resolve("pmbench:setsize=2m,pattern=normal,jobs=3")
    assert (target.pages, target.running) == (512, (1, 2, 3))
    assert resolve("pmbench:").pages == 32768


@pytest.mark.parametrize(
    "text",
    [
        *("memhog:", "memhog:0", "memhog:x", "memhog:1m,huge", "memhog:1m,thp,thp"),
        *("memhog:-1m", "memhog:9000g", "pmbench:size=1m", "pmbench:setsize=0"),
        *("pmbench:jobs=0", "pmbench:jobs=\u0663", "pmbench:pattern=odd"),
        *("nothing", ""),
    ],
)
def test_a_bad_target_is_one_line_that_names_it(text: str) -> None:
    with pytest.raises(TargetError) as caught:
        resolve(text)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="no such file"):
        resolve(str(tmp_path / "none.npz"))
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"\x00" * 100)
    with pytest.raises(SnapshotError):
        resolve(str(garbage))
    with pytest.raises(ProcError, match="no such process"):
        resolve("4194304999")


def test_a_recorded_process_keeps_every_page(tmp_path: Path) -> None:
    taken = snapshot.take(SLEEP_PID, root=sleep_root(tmp_path / "proc"), page_size=4096)
    target = targets.of_snapshot("sleep", taken)
    assert f"{SLEEP_RSS} pages" in target.description
    frames = int((~taken.has(F.ZERO | F.PFNMAP)).sum())
    assert sum(pages_on(target)) == frames
    assert sum(n for _, n in target.unmovable) == int((~taken.movable).sum())


def test_areas_keep_what_maps_says_of_them() -> None:
    s = snapshot.load(GOLDEN)
    space = resident.build(s, 0, PLAIN)[1]
    found = {a.start: a for a in space.areas}
    wanted = {"rw-p": 0, "r--p": 0, "r-xp": 0}
    for i in sorted({int(n) for n in s.area}):
        area = found[int(s.vpn[np.flatnonzero(s.area == i)[0]])]
        perms = int(s.areas.perms[i])
        text = "".join(c if perms & 1 << n else "-" for n, c in enumerate("rwx"))
        text += "s" if perms & 8 else "p"
        file = s.areas.kind[i] in (snapshot.AreaKind.FILE, snapshot.AreaKind.SHMEM)
        assert (area.writable, area.executable) == (text[1] == "w", text[2] == "x")
        assert (area.shared, area.accessible) == (text[3] == "s", text[:3] != "---")
        assert area.file == file
        wanted[text] = wanted.get(text, 0) + 1
    assert all(wanted.values())


def test_gigantic_pages_are_refused_by_name() -> None:
    huge = {"flags": np.full(4, flags(F.WRITABLE, F.HUGETLB))}
    s = invented(4, order=np.full(4, 18, np.int8), **huge)
    with pytest.raises(SnapshotError, match=r"4 base pages of gigantic hugetlb pages"):
        targets.of_snapshot("x", s)
    # A file may have folios as large, of which only pages are mapped.
    file = invented(4, order=np.full(4, 18, np.int8), flags=np.full(4, flags(F.FILE)))
    assert pages_on(targets.of_snapshot("x", file)) == [4, 0]


def test_one_process_of_several_must_be_chosen(tmp_path: Path) -> None:
    s = invented(4)
    two = dataclasses.replace(
        s.processes,
        pid=np.array([7, 8], np.int32),
        rss=np.array([4, 4], np.int64),
        statm=np.repeat(s.processes.statm, 2, axis=0),
        comm=("a", "b"),
    )
    both = dataclasses.replace(
        s, processes=two, process=np.array([0, 0, 1, 1], np.int32)
    )
    with pytest.raises(TargetError, match="7, 8"):
        targets.of_snapshot("x", both)
    with pytest.raises(SnapshotError, match="no PID 9"):
        targets.of_snapshot("x", both, 9)
    assert pages_on(targets.of_snapshot("x", both, 8)) == [2, 0]


def test_shared_frames_are_one_folio() -> None:
    s = invented(4, pfn=np.array([10, 11, 10, 11]), mapcount=np.full(4, 2, np.int32))
    m, _ = resident.build(s, 0, PLAIN)
    assert head_flags(m, frame.ANON) == 2
    rows = np.asarray(m.frame)
    assert sorted(rows[:, frame.MAPCOUNT])[-2:] == [2, 2]
    assert m.geometry.shared


def test_mappings_by_others_keep_the_counts_right() -> None:
    s = invented(3, mapcount=np.array([1, 3, -1], np.int32))
    m, space = resident.build(s, 0, PLAIN)
    rows = np.asarray(m.frame)
    assert sorted(rows[:, frame.MAPCOUNT])[-3:] == [1, 1, 3]
    assert sorted(rows[:, frame.REFCOUNT])[-3:] == [1, 1, 3]
    assert pages_by_node(View.of(m), space, 2) == [3, 0]
    assert "2 more mappings of these" in resident.notes(s)[0]
    others = np.asarray(m.pte)[:, pte.BITS] >> pte.MM_SHIFT == 1
    assert others.sum() == 2


def huge(pages: int = 1024, **columns: np.ndarray) -> Snapshot:
    word = np.full(pages, flags(F.WRITABLE, F.EXCLUSIVE, F.DIRTY, F.HUGE_PMD))
    order = np.full(pages, 9, np.int8)
    return invented(pages, **({"flags": word, "order": order} | columns))


def test_huge_pages_are_mapped_by_pmds() -> None:
    m, space = resident.build(huge(), 0, PLAIN)
    assert m.geometry.orders == (0, 9)
    assert [(a.pages, a.first_pmd) for a in space.areas] == [(1024, m.geometry.ptes)]
    assert np.asarray(m.pmd_table)[:2].tolist() == [0, 512]
    assert leaves(m) == 2
    assert pages_by_node(View.of(m), space, 2) == [1024, 0]


def test_a_huge_page_of_others_too_is_one_folio_with_two_leaves() -> None:
    m, _ = resident.build(huge(512, mapcount=np.full(512, 2, np.int32)), 0, PLAIN)
    word = np.asarray(m.frame)
    head = (word[:, frame.FLAGS] & frame.ORDER == 9) & (word[:, frame.MAPCOUNT] > 0)
    assert word[head, frame.MAPCOUNT].tolist() == [2]
    assert leaves(m) == 2


def test_part_of_a_large_folio_is_pages_of_their_own() -> None:
    s = invented(24, order=np.full(24, 4, np.int8))  # pfn 4096 ... 4119: one and a half
    m, space = resident.build(s, 0, PLAIN)
    assert m.geometry.orders == (0, 4)
    assert head_flags(m, frame.ANON) == 1 + 8
    assert pages_by_node(View.of(m), space, 2) == [24, 0]
    assert "8 pages of large folios" in resident.notes(s)[0]


def test_a_huge_page_off_its_block_is_mapped_by_ptes() -> None:
    s = huge(512, vpn=np.arange(1000, 1512, dtype=np.int64))
    m, space = resident.build(s, 0, PLAIN)
    assert leaves(m) == 0
    assert [a.first_pmd for a in space.areas] == [-1]


def test_the_zero_page_has_no_frame() -> None:
    s = invented(2, flags=np.array([flags(F.ZERO), flags(F.EXCLUSIVE)]))
    m, space = resident.build(s, 0, PLAIN)
    assert pages_by_node(View.of(m), space, 2) == [1, 0]
    assert np.asarray(m.pte)[0, pte.BITS] & pte.ZERO_PAGE


def test_kinds_and_locks_carry_over() -> None:
    word = [flags(F.FILE, F.PRIVATE), flags(F.KSM), flags(F.SWAPCACHE, F.EXCLUSIVE)]
    word += [flags(F.EXCLUSIVE, F.LOCKED), flags(F.EXCLUSIVE, F.WRITEBACK)]
    word += [flags(F.EXCLUSIVE, F.OFF_LRU), flags(F.EXCLUSIVE, F.MLOCKED)]
    m, _ = resident.build(invented(7, flags=np.array(word)), 0, PLAIN)
    for kind, count in ((frame.FILE, 1), (frame.KSM, 1), (frame.SWAPCACHE, 1)):
        assert head_flags(m, kind) == count
    pfn = np.asarray(m.pte)[:7, pte.PFN]
    rows = np.asarray(m.frame)[pfn]
    # A mapping, the page cache and the buffers; a mapping and the swap cache.
    assert rows[[0, 2], frame.REFCOUNT].tolist() == [3, 2]
    assert ((rows[:, frame.FLAGS] & frame.LRU) > 0).tolist() == [True] * 5 + [
        False,
        True,
    ]
    assert rows[6, frame.FLAGS] & frame.MLOCKED
    left, _ = conditions.unpack(np.asarray(m.conditions)[pfn])
    assert left[conditions.LOCKED][3] == conditions.UNTIL_WAITED
    assert left[conditions.WRITEBACK][4] == conditions.UNTIL_WAITED


def test_other_page_sizes_are_refused() -> None:
    with pytest.raises(SnapshotError, match="4 KiB"):
        targets.of_snapshot("x", dataclasses.replace(invented(1), page_size=65536))
