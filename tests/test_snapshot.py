"""Snapshot files: what is written reads back, and nothing else is believed."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jaxmig.sources import snapshot as s
from procfs_fake import SLEEP_PID, SLEEP_RSS, sleep_root

GOLDEN = Path(__file__).parent / "data/procfs/snapshot-v1.npz"


@pytest.fixture
def taken(tmp_path: Path) -> s.Snapshot:
    return s.take(SLEEP_PID, root=sleep_root(tmp_path / "proc"), page_size=4096)


@pytest.fixture
def file(taken: s.Snapshot, tmp_path: Path) -> Path:
    path = tmp_path / "sleep.npz"
    taken.save(path)
    return path


def change(path: Path, **arrays: np.ndarray | None) -> None:
    """Rewrites the file with other arrays; None drops one."""
    with np.load(path) as old:
        kept = {name.replace(".", "__"): old[name] for name in old.files} | arrays
    names = {k.replace("__", "."): v for k, v in kept.items() if v is not None}
    np.savez(path, **names)


def test_reads_back_equal(taken: s.Snapshot, file: Path) -> None:
    assert s.load(file) == taken
    assert s.load(str(file)) == taken
    other = dataclasses.replace(taken, node=taken.node + np.int16(1))
    assert other != taken
    assert taken != "a snapshot"


def test_saving_leaves_nothing_else(file: Path, taken: s.Snapshot) -> None:
    taken.save(file)
    assert [p.name for p in file.parent.iterdir() if p.is_file()] == [file.name]


def test_format_1_is_read_for_ever() -> None:
    snapshot = s.load(GOLDEN)
    assert snapshot.processes.comm == ("sleep",)
    assert snapshot.rss_pages.tolist() == [SLEEP_RSS]
    assert len(snapshot.unmovable()) == 1


def test_odd_names_survive(taken: s.Snapshot, tmp_path: Path) -> None:
    paths = ("", "/tmp/\udcff\u00e9", *taken.areas.path[2:])
    areas = dataclasses.replace(taken.areas, path=paths)
    odd = dataclasses.replace(taken, areas=areas, missing=("", "two\nlines"))
    odd.save(tmp_path / "odd.npz")
    assert s.load(tmp_path / "odd.npz") == odd


@pytest.mark.parametrize(
    ("version", "advice"), [(0, "take it again"), (99, "update jaxmig")]
)
def test_other_formats_are_named(file: Path, version: int, advice: str) -> None:
    change(file, jaxmig_snapshot=np.array(version))
    with pytest.raises(s.SnapshotError, match=f"format {version}.*{advice}"):
        s.load(file)


def test_another_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(3))
    with pytest.raises(s.SnapshotError, match="but not a snapshot"):
        s.load(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.arange(3))
    with pytest.raises(s.SnapshotError, match="not a snapshot, or cut short"):
        s.load(tmp_path / "x.npy")


def test_never_unpickles(file: Path) -> None:
    change(file, pfn=np.array([print], dtype=object))
    with pytest.raises(s.SnapshotError, match="not a snapshot"):
        s.load(file)


@pytest.mark.parametrize(
    "arrays",
    [
        {"pfn": None},
        {"pfn": np.zeros(3, np.int64)},
        {"vpn": np.zeros(SLEEP_RSS, np.int32)},
        {"area": np.full(SLEEP_RSS, 99, np.int32)},
        {"process": np.full(SLEEP_RSS, -1, np.int32)},
        {"page_size": np.array(4095)},
        {"page_size": np.array("4096")},
        {"areas__path": np.zeros(5, np.uint8)},
        {"areas__vm_flags": np.zeros(5, np.int8)},
        {"processes__comm": np.zeros(2, np.uint8)},
        {"processes__thread_process": np.array([7], np.int32)},
    ],
)
def test_damaged_rows(file: Path, arrays: dict[str, np.ndarray | None]) -> None:
    change(file, **arrays)
    with pytest.raises(s.SnapshotError, match="damaged snapshot"):
        s.load(file)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cut=st.integers(0, 5000), flips=st.lists(st.integers(0, 10**6), max_size=3))
def test_garbage_gives_one_line(tmp_path: Path, cut: int, flips: list[int]) -> None:
    data = bytearray(GOLDEN.read_bytes())
    for at in flips:
        data[at % len(data)] ^= 0x55
    broken = tmp_path / "broken.npz"
    broken.write_bytes(data[: len(data) - cut])
    with contextlib.suppress(s.SnapshotError):  # flips may hit padding
        s.load(broken)
        return
    with pytest.raises(s.SnapshotError, match=r"^[^\n]*broken\.npz[^\n]*$"):
        s.load(broken)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04", "not a snapshot, or cut short"),
        (b"garbage" * 100, "not a snapshot, or cut short"),
    ],
)
def test_not_even_zip(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(s.SnapshotError, match=words):
        s.load(tmp_path / "x.npz")


def test_unreadable_and_unwritable(taken: s.Snapshot, tmp_path: Path) -> None:
    with pytest.raises(s.SnapshotError, match="No such file"):
        s.load(tmp_path / "none.npz")
    with pytest.raises(s.SnapshotError, match="directory"):
        s.load(tmp_path)
    with pytest.raises(s.SnapshotError, match="cannot be written"):
        taken.save(tmp_path / "none" / "x.npz")
    with pytest.raises(s.SnapshotError, match="cannot be written"):
        taken.save(tmp_path / "proc")
