"""Every field of a snapshot file: its type, its range, and what it points at."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jaxmig.sources import snapshot
from jaxmig.sources.procfs import schema
from jaxmig.sources.procfs.schema import FIELDS, TEXT

GOLDEN = Path(__file__).parent / "data/procfs/snapshot-v1.npz"


def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def problem(path: Path) -> str:
    with pytest.raises(snapshot.SnapshotError) as caught:
        snapshot.load(path)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 300 + len(str(path))
    return said.removeprefix(f"{path}: ")


def changed(tmp_path: Path, name: str, array: np.ndarray) -> Path:
    np.savez(tmp_path / "x.npz", **(arrays() | {name: array}))
    return tmp_path / "x.npz"


def test_the_table_names_every_array_of_a_file() -> None:
    assert set(arrays()) == {*FIELDS, snapshot.MAGIC}
    schema.check(arrays())
    text = schema.table()
    assert all(f"`{name}`" in text for name in FIELDS)


NUMBERS = [n for n, f in FIELDS.items() if f.dtype not in (TEXT, "int")]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_named(tmp_path: Path, name: str) -> None:
    """Just below, just above, and as far as its type goes, in the last row."""
    f, whole = FIELDS[name], arrays()
    info, counted = np.iinfo(f.dtype), 0
    high = f.high
    if f.points_at:
        lead = {"process": "processes.pid", "area": "areas.process"}[f.points_at]
        high = len(whole[lead]) - 1
    for value in {f.low - 1, high + 1, info.min, info.max}:
        if info.min <= value <= info.max and not f.low <= value <= high:
            array = whole[name].copy()
            array[-1] = value
            said = problem(changed(tmp_path, name, array))
            row = len(array) - 1
            words = f"{name}, row {row}: {value} is not within {f.low} to {high}"
            assert words in said
            counted += 1
    assert (
        counted == 4 - 2 * (f.low == 0) * (info.min == 0)
        or counted > 0
        or (f.high == schema.ANY and info.min == 0 and not f.points_at)
    )


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize(
    "odd",
    [
        lambda a: np.float64(a),
        lambda a: a[..., None],
        lambda a: a.astype(a.dtype.newbyteorder()) if a.itemsize > 1 else a[:0, None],
        lambda a: np.zeros((), a.dtype) if a.ndim else np.zeros(2, a.dtype),
        lambda a: np.asarray("x"),
    ],
)
def test_another_type_or_shape_is_named(
    tmp_path: Path, name: str, odd: Callable[[np.ndarray], np.ndarray]
) -> None:
    made = odd(arrays()[name])
    if name == "page_size" and made.shape == () and made.dtype.kind in "iu":
        assert snapshot.load(changed(tmp_path, name, made)).page_size == 4096
        return
    assert f"a damaged snapshot ({name} is " in problem(changed(tmp_path, name, made))


def test_fields_that_contradict_one_another(tmp_path: Path) -> None:
    a = arrays()
    for name, array, words in (
        ("vpn", a["vpn"][::-1].copy(), "vpn, row 0"),
        ("vpn", np.full_like(a["vpn"], a["vpn"][0]), "vpn, row"),
        ("vpn", a["vpn"] * 0, "vpn, row 0: 0 cannot be"),
        ("area", a["area"][::-1].copy(), "vpn, row 0"),
        ("areas.start", a["areas.end"], "areas.start, row 0"),
        ("areas.start", a["areas.start"] + np.uint64(1), "areas.start, row 0"),
        ("areas.end", a["areas.end"] + np.uint64(8), "areas.end, row 0"),
        ("areas.page_size", a["areas.page_size"] * 3, "areas.page_size, row 0: 12288"),
        ("page_size", np.array(12288), "page_size, row 0: 12288 cannot be"),
        ("page_size", np.array(2**30), "page_size, row 0: 1073741824 is not within"),
        ("processes.comm", np.frombuffer(b"sleep", np.uint8), "comm has 0 rows"),
        ("processes.comm", np.frombuffer(b"sleep\0x", np.uint8), "ends within a word"),
        (
            "processes.comm",
            np.frombuffer(b"a\0b\0", np.uint8),
            "comm has 2 rows, not 1",
        ),
        ("order", a["order"][1:], "order has"),
    ):
        assert words in problem(changed(tmp_path, name, array)), name


def packed(tmp_path: Path, change: Callable[[str, bytes], bytes], how: int) -> Path:
    path = tmp_path / "y.npz"
    with zipfile.ZipFile(GOLDEN) as old, zipfile.ZipFile(path, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def header(shape: str, dtype: str = "<i8") -> bytes:
    out = io.BytesIO()
    about = {"descr": dtype, "fortran_order": False, "shape": (3,)}
    np.lib.format.write_array_header_1_0(out, about)
    return out.getvalue().replace(b"(3,)", shape.encode())


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (header("(99999999999,)"), "vpn is not as long as it says"),
        (header("(3,)"), "vpn is not as long as it says"),
        (header("(3,)", "|O"), "not a snapshot, or cut short"),
        (b"\x93NUMPY\x01\x00", "not a snapshot, or cut short"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 64, "not a snapshot, or cut short"),
        (header("(-3,)") + b"\0" * 24, "a damaged snapshot"),
        (b"", "not a snapshot, or cut short"),
    ],
)
def test_a_member_is_believed_only_as_far_as_it_goes(
    tmp_path: Path, made: bytes, words: str
) -> None:
    """Nothing is allocated for what a header claims."""

    def change(name: str, data: bytes) -> bytes:
        return made if name == "vpn.npy" else data

    assert words in problem(packed(tmp_path, change, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("how", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_packings_are_refused(tmp_path: Path, how: int) -> None:
    path = packed(tmp_path, lambda name, data: data, how)
    assert "is packed as no snapshot is" in problem(path)


def test_a_field_twice_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path, lambda name, data: data, zipfile.ZIP_STORED)
    with (
        pytest.warns(UserWarning, match="Duplicate"),
        zipfile.ZipFile(path, "a") as file,
    ):
        file.writestr("vpn.npy", b"")
    assert "a field is there twice" in problem(path)


def test_what_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    taken = snapshot.load(GOLDEN)
    taken.order[0] = 99
    with pytest.raises(
        snapshot.SnapshotError, match="cannot be kept: order, row 0: 99"
    ):
        taken.save(tmp_path / "z.npz")
    assert list(tmp_path.iterdir()) == []


def test_names_of_processes_and_files_are_shown_escaped(tmp_path: Path) -> None:
    from jaxmig.cli.snapshot import describe
    from jaxmig.sources.targets.snapshots import of_snapshot

    name = b"\x1b]0;owned\x07\n\0"
    path = changed(tmp_path, "processes.comm", np.frombuffer(name, np.uint8))
    taken = snapshot.load(path)
    assert taken.processes.comm == ("\x1b]0;owned\x07\n",)
    for text in (describe(taken), of_snapshot("x", taken).description):
        assert r"\x1b]0;owned\x07\n" in text
        assert text.isprintable()
