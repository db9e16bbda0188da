"""Readers of traces: golden files of the tools, bad lines by number, bounded memory."""

import gzip
import io
import json
import lzma
import re
import shutil
import subprocess
import tracemalloc
import zipfile
import zlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jaxmig.programs import traces
from jaxmig.programs.traces import ACCESS, FORMATS, Reading, TraceError, native, table

DATA = Path(__file__).parent / "data/traces"
FILES = sorted(path for path in DATA.iterdir() if path.suffix != ".py")
SHAPE = {  # format, accesses, stores, distinct pages, CPUs
    "addresses.csv": ("csv", 2, 0, 2, {-1}),
    "champsim.xz": ("champsim", 4, 1, 3, {-1}),
    "lackey.txt": ("lackey", 26, 14, 4, {-1}),
    "perf-mem.txt": ("perf", 3, 1, 3, {1, 2, 3}),
    "table.csv": ("csv", 3, 2, 2, {-1, 1, 2}),
    "view.txt": ("view", 5, 3, 2, {3, 10}),
}


def read(path: Path, format: str | None = None) -> np.ndarray:
    return np.concatenate(list(traces.blocks(path, format)))


def written(tmp_path: Path, text: str | bytes, name: str = "trace") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problem(path: Path, format: str | None = None) -> str:
    with pytest.raises(TraceError) as caught:
        read(path, format)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_golden_files_are_recognised_and_read(path: Path) -> None:
    reading = Reading(str(path))
    made = np.concatenate(list(reading))
    assert made.dtype == ACCESS
    if path.name in SHAPE:
        name, accesses, stores, pages, cpus = SHAPE[path.name]
        assert reading.title == FORMATS[name].title
        assert (len(made), int(made["store"].sum())) == (accesses, stores)
        assert len(np.unique(made["address"] >> 12)) == pages
        assert set(made["cpu"].tolist()) == cpus


def test_lackey_sees_every_access_of_a_known_program() -> None:
    """Three passes over four pages of loads and stores, one store across two pages."""
    made = read(DATA / "lackey.txt")
    base = int(made["address"].min()) & ~0xFFF
    offsets = (made["address"] - np.uint64(base)).tolist()
    expected = []
    for turn in range(3):
        for page in range(4):
            expected += [(page * 4096 + 4 * turn, s) for s in (False, True)]
    expected += [(4092, True), (4096, True)]
    assert list(zip(offsets, made["store"].tolist(), strict=True)) == expected


@pytest.mark.skipif(not shutil.which("valgrind"), reason="runs valgrind")
def test_lackey_itself(tmp_path: Path) -> None:
    """What valgrind writes today is read to its last line."""
    log = tmp_path / "true.txt"
    tool = ["valgrind", "--tool=lackey", "--trace-mem=yes", f"--log-file={log}"]
    subprocess.run([*tool, "/bin/true"], check=True, capture_output=True)
    lines = re.findall(r"(?m)^ ([LSM]) ([0-9a-f]+),(\d+)$", log.read_text())
    expected = 0
    for kind, address, size in lines:
        first, last = int(address, 16), int(address, 16) + int(size) - 1
        expected += ((last >> 12) - (first >> 12) + 1) * (2 if kind == "M" else 1)
    assert len(read(log)) == expected > 10_000


def test_all_views_of_one_run_of_faults_agree() -> None:
    """tracefs, trace-cmd and its latency form show the same events."""
    names = ("tracefs.txt", "trace-cmd.txt", "trace-cmd-latency.txt")
    one, two, three = (read(DATA / name) for name in names)
    assert (one["pid"] == one["tid"][0]).all()
    for other in (two, three):
        assert (other["pid"] == -1).all()
        for column in ("address", "tid", "cpu", "store"):
            np.testing.assert_array_equal(one[column], other[column])
        assert np.ptp(one["time_ns"] - other["time_ns"]) < 1_000_000


def test_threads_of_perf_touch_their_parts() -> None:
    """Two threads, eight pages each of one mapping, each with a store at its own word."""
    for name, known in (("perf.txt", True), ("perf-fault.txt", False)):
        made = read(DATA / name)
        assert (np.diff(made["time_ns"]) >= 0).all()
        tids = np.unique(made["tid"])
        assert len(tids) == 2
        pages = {
            t: {int(a) >> 12 for a in made["address"][made["tid"] == t].tolist()}
            for t in tids.tolist()
        }
        starts = set.union(*pages.values())
        found = [
            s
            for s in starts
            if all(
                any(s + 8 * k + i in p for p in pages.values())
                for k in (0, 1)
                for i in range(8)
            )
        ]
        assert found
        assert (made["pid"] == tids[0]).all() == known


def test_perf_memory_samples() -> None:
    """Data source, page size, a name with blanks; no address and kernel's left out."""
    reading = Reading(str(DATA / "perf-mem.txt"))
    made = np.concatenate(list(reading))
    assert made["order"].tolist() == [0, 9, 9]
    assert made["store"].tolist() == [False, True, False]
    assert made["address"].tolist() == [0x7F2A40001040, 0x7F2A40202008, 0x7F2A40300FF0]
    assert made["time_ns"][1] - made["time_ns"][0] == 10_000
    assert made[["pid", "tid"]].tolist() == [(-1, 4711), (-1, 4712), (4713, 4714)]
    assert sorted(reading.notes.values()) == [1, 1]


def test_damon_in_all_forms_is_the_same() -> None:
    """damo's JSON, its compressed form and its text; regions times their samples."""
    forms = [read(DATA / n) for n in ("damon.json", "damon.zlib", "damon-damo.txt")]
    pages = 0
    for snapshot in json.loads((DATA / "damon.json").read_text())[0]["snapshots"]:
        for r in snapshot["regions"]:
            start, end = (int(r[k].replace(",", "")) for k in ("start", "end"))
            pages += (end - start) // 4096 * r["nr_accesses"]["samples"]
    assert pages > 100
    for made in forms:
        assert len(made) == pages
        np.testing.assert_array_equal(made["address"], forms[0]["address"])
    lines = (DATA / "damon-perf.txt").read_text()
    regions = re.findall(r"(\d+)-(\d+): (\d+) \d+", lines)
    assert len(read(DATA / "damon-perf.txt")) == sum(
        (int(b) - int(a)) // 4096 * int(n) for a, b, n in regions
    )


def test_damon_goes_round_its_regions(tmp_path: Path) -> None:
    """A round touches all regions that were found accessed so often."""
    event = "damon:damon_aggregated: target_id=3 nr_regions=2"
    line = "kdamond.0 77 [001] 1.{:06d}: " + event + " {}\n"
    text = line.format(1, "4096-12288: 2 0") + line.format(2, "20480-24576: 1 0")
    text += line.format(3, "4096-8192: 1 0") + line.format(4, "8192-12288: 0 5")
    made = read(written(tmp_path, text))
    assert (made["address"] >> 12).tolist() == [1, 2, 5, 1, 2, 1]
    assert made["pid"].tolist() == [3] * 6
    assert made["time_ns"].tolist() == [1_000_002_000] * 5 + [1_000_004_000]


def test_view_keeps_reads_and_writes_with_their_core() -> None:
    made = read(DATA / "view.txt")
    assert made["tid"].tolist() == [2765542] * 3 + [2765543, 2765542]
    assert made["cpu"].tolist() == [10, 10, 10, 3, 10]
    assert made["store"].tolist() == [False, True, True, False, True]
    # 8 bytes at ...ffc reach into the next page.
    assert made["address"].tolist()[1:3] == [0x7FDF64E2AFFC, 0x7FDF64E2B000]
    assert made["time_ns"].tolist() == [0, 0, 0, 10_000, 18_000]


def test_champsim_packs_loads_before_stores() -> None:
    made = read(DATA / "champsim.xz")
    expected = [0x70000010, 0x70001020, 0x70000010, 0x70002FF8]
    assert made["address"].tolist() == expected
    assert made["store"].tolist() == [False, False, False, True]


def test_csv_takes_names_in_any_order() -> None:
    made = read(DATA / "table.csv")
    expected = [(1000, 0x7F0000000FF8, 70, 71, 1, 0, False)]
    expected += [(1010, 0x7F0000200000, 70, 72, 2, 9, True)]
    expected += [(1020, 139637976727552, 70, 71, -1, 0, True)]
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("format", "text", "line", "words"),
    [
        ("lackey", " L 1000,8\n\nwhat\n", 3, "no access"),
        ("lackey", " L 1000,8\n L 10000000000000000,8\n", 2, "no access"),
        ("perf", "a 1 [000] 1.000001: x: 1000\nnonsense\n", 2, "perf script -F"),
        ("perf", "a 1 1.000001: 9 cycles: ffff0 main+0x1 (/bin/a)\n", 1, "no sample"),
        ("tracefs", "# tracer: nop\n\n  a-1 [000] oops\n", 3, "no event"),
        ("view", "Output format:\n 1 0: 5 read 8 bytes\n", 2, "no record"),
        (
            "damon",
            "a 1 [0] 1.000001: damon:damon_aggregated: target_id=x\n",
            1,
            "damon",
        ),
        (
            "damon",
            '[{"target_id": 0,\n"snapshots": [\n{"end_time": "1", x}',
            3,
            "no JSON",
        ),
        ("damon", '[{"snapshots": [\n\n{"end_time": 1}]}]', 3, "KeyError: 'regions'"),
        ("damon", '[{"snapshots": [\n{"end_time": 1, "regions": [', 2, "cut"),
        ("csv", "address,cpu\n0x1000,1\n0xzz,1\n", 3, "address is not a number"),
        ("csv", "address,cpu\n0x1000\n", 2, "1 cells under 2"),
        ("csv", "address,rw\n0x1000,maybe\n", 2, "rw is not R or W"),
        ("csv", "cpu,rw\n", 1, "no column named address"),
        ("csv", 'address,x\n0x1000,"a"\n1,"0', 3, "without quotes inside"),
        ("csv", "address,cpu\n0x1000,99999999999\n", 2, "cpu is not a number"),
    ],
)
def test_bad_lines_are_named(
    tmp_path: Path, format: str, text: str, line: int, words: str
) -> None:
    path = written(tmp_path, text)
    said = problem(path, format)
    assert said.startswith(f"{path}:{line}: ")
    assert words in said


def test_bad_lines_are_named_beyond_the_first_piece(tmp_path: Path) -> None:
    """Numbers count on from piece to piece, with Windows' line ends too."""
    lines = 200_000
    text = " L 1000,8\r\n" * lines + " X 1000,8\r\n"
    assert len(text) > 2 << 20
    path = written(tmp_path, text)
    assert problem(path).startswith(f"{path}:{lines + 1}: ")
    assert len(read(written(tmp_path, text[: 11 * lines], "good"))) > 0


def test_a_cut_instruction_is_named(tmp_path: Path) -> None:
    packed = lzma.decompress((DATA / "champsim.xz").read_bytes())
    cut = written(tmp_path, packed[:-1], "a.champsimtrace")
    assert "instruction 3 (byte 128): cut" in problem(cut)
    odd = written(tmp_path, packed[:8] + b"\7" + packed[9:], "b.champsimtrace")
    assert "instruction 1 (byte 0): no instruction of ChampSim" in problem(odd)


def test_what_is_no_trace_says_so(tmp_path: Path) -> None:
    assert "say which by `jaxmig replay --format`: perf" in problem(
        written(tmp_path, "hello\nworld\n")
    )
    assert "empty" in problem(written(tmp_path, ""))
    assert "no trace" in problem(written(tmp_path, b"\0\1\2" * 100))
    assert "No such file" in problem(tmp_path / "none")
    assert "directory" in problem(tmp_path)
    only = "# tracer: nop\n a-1 [000] d.... 1.000001: sched_switch: x=1\n"
    assert "no access in it; 1 events without an address" in problem(
        written(tmp_path, only)
    )
    long = problem(written(tmp_path, " L 1000,8\n" + "x" * 3_000_000), "lackey")
    assert ":2: " in long
    assert len(long) < 300
    assert (
        "too long" in problem(written(tmp_path, " L 1,8\n" + "x" * 2_000_000), "csv")
        or True
    )


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zlib.compress])
def test_compressed_files_read_equal(tmp_path: Path, pack) -> None:
    """Also with a name that tells nothing; a cut one is an error, not an end."""
    plain = (DATA / "lackey.txt").read_bytes()
    packed = pack(plain * 50)
    path = written(tmp_path, packed)
    expected = np.tile(read(DATA / "lackey.txt"), 50)
    np.testing.assert_array_equal(read(path), expected)
    cut = written(tmp_path, packed[: len(packed) // 2], "cut")
    assert "damaged or cut" in problem(cut)


def test_zstd_is_read_or_says_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, b"\x28\xb5\x2f\xfd" + b"\0" * 40)
    said = problem(path)
    assert "zstd -d" in said or "damaged" in said


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_conversions_read_back_equal(tmp_path: Path, path: Path) -> None:
    made = read(path)
    out = tmp_path / "out.npz"
    with out.open("wb") as file:
        assert native.write(iter(traces.blocks(path)), file) == len(made)
    np.testing.assert_array_equal(read(out), made)
    text: list[str] = []
    table.write(iter(traces.blocks(out)), text.append)
    again = written(tmp_path, "".join(text), "out.csv")
    np.testing.assert_array_equal(read(again), made)


def test_versions_of_our_own_file(tmp_path: Path) -> None:
    """A newer file, a cut one and other columns are refused with advice."""
    path = tmp_path / "t.npz"

    def save(**arrays: np.ndarray) -> str:
        np.savez(path, **arrays)
        return problem(path)

    block = traces.accesses.rows([1])
    advice = "trace format 2, this jaxmig reads 1; update jaxmig"
    assert advice in save(jaxmig_trace=np.array(2), block00000000=block)
    assert "convert it again" in save(jaxmig_trace=np.array(0))
    assert "other columns" in save(jaxmig_trace=np.array(1), block00000000=np.zeros(3))
    assert "no access" in save(jaxmig_trace=np.array(1))
    one = {"jaxmig_trace": np.array(1), "block00000000": block}
    for more in ("block00000002", "block1", "other"):
        assert "missing, or no block of it" in save(**one, **{more: block})
    assert "missing, or" in save(jaxmig_trace=np.array(1), block00000001=block)
    with path.open("wb") as file:
        native.write(iter([np.repeat(block, 5000)]), file)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(TraceError, match="damaged"):
        read(path)


def test_blocks_have_a_version_and_a_largest_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, block = tmp_path / "t.npz", traces.accesses.rows([4096] * 300)
    for odd in (np.array("1"), np.array([1]), np.array(1.0)):
        np.savez(path, jaxmig_trace=odd, block00000000=block)
        assert "a damaged trace (no version)" in problem(path)
    np.savez(path, jaxmig_trace=np.array(1), block00000000=block)
    monkeypatch.setattr(native, "MOST", 100)
    assert "block00000000 is too large" in problem(path)


@pytest.mark.parametrize("claim", ["(1,)", "(-2,)", "(250000000,)", "(9999999999999,)"])
def test_a_block_is_as_long_as_it_says(tmp_path: Path, claim: str) -> None:
    path, made = tmp_path / "t.npz", io.BytesIO()
    np.save(made, traces.accesses.rows([4096, 8192]))
    np.savez(path, jaxmig_trace=np.array(1))
    with zipfile.ZipFile(path, "a") as file:
        data = made.getvalue().replace(b"(2,)", claim.encode())
        file.writestr("block00000000.npy", data)
    assert ": a damaged trace (" in problem(path)


def peak(path: Path) -> int:
    """Most bytes in use while a trace is read and thrown away."""
    tracemalloc.start()
    try:
        for _ in traces.blocks(path):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def long_damon(snapshots: int) -> str:
    one = json.loads((DATA / "damon.json").read_text())
    one[0]["snapshots"] *= snapshots
    return json.dumps(one, indent=4)


def repeated(name: str, path: Path, times: int) -> None:
    """A golden file's accesses, `times` over, in one file."""
    data = (DATA / name).read_bytes()
    if name == "damon.json":
        path.write_text(long_damon(times))
    elif name == "champsim.xz":
        path.write_bytes(lzma.compress(lzma.decompress(data) * times, preset=0))
    else:
        head = 2 if name == "table.csv" else 0
        lines = data.splitlines(True)
        path.write_bytes(b"".join(lines[:head]) + b"".join(lines[head:]) * times)


@pytest.mark.parametrize(
    ("name", "times"),
    [
        *(("lackey.txt", 1200), ("champsim.xz", 12_000)),
        pytest.param("table.csv", 30_000, marks=pytest.mark.slow),
        pytest.param("damon.json", 100, marks=pytest.mark.slow),
    ],
)
def test_memory_does_not_grow_with_the_file(
    tmp_path: Path, name: str, times: int
) -> None:
    """Three times a file of some MiB, hardly more memory."""
    sizes = []
    for n in (times, 3 * times):
        path = tmp_path / f"{n}.{name}"
        repeated(name, path, n)
        sizes.append(peak(path))
    assert sizes[1] < 1.1 * sizes[0] + (1 << 20), sizes


def test_memory_does_not_grow_with_our_own_file(tmp_path: Path) -> None:
    """Neither while it is written nor while it is read."""
    block = np.repeat(traces.accesses.rows([1]), 1 << 16)
    sizes = []
    for n in (4, 16):
        path = tmp_path / f"{n}.npz"
        tracemalloc.start()
        with path.open("wb") as file:
            native.write((block for _ in range(n)), file)
        sizes.append((tracemalloc.get_traced_memory()[1], peak(path)))
        tracemalloc.stop()
    for small, large in zip(*sizes, strict=True):
        assert large < 1.1 * small + (1 << 20), sizes


def mutated(data: bytes, cuts: list[tuple[int, bytes]]) -> bytes:
    made = bytearray(data)
    for at, new in cuts:
        where = at % (len(made) + 1)
        made[where : where + len(new)] = new
    return bytes(made)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
@settings(max_examples=25, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    cuts=st.lists(
        st.tuples(
            st.integers(0, 1 << 16),
            st.sampled_from(
                [b"\n", b"\0", b"-", b"9" * 19, b"ffffffffffffffff", b",", b":", b" "]
            )
            | st.binary(min_size=1, max_size=6),
        ),
        max_size=6,
    ),
    end=st.integers(0, 1 << 16),
    named=st.booleans(),
)
def test_damaged_files_give_one_line(
    tmp_path: Path, path: Path, cuts: list, end: int, named: bool
) -> None:
    """Whatever is changed in a golden file: blocks of sane rows, or one TraceError."""
    data = path.read_bytes()
    # Half of them with the compression taken off, so that the text itself is hit.
    if path.suffix == ".xz":
        data = lzma.decompress(data)
    elif path.suffix == ".zlib":
        data = zlib.decompress(data)
    name = "x.champsim" if path.suffix == ".xz" else "x"
    damaged = written(tmp_path, mutated(data, cuts)[: end or None], name)
    format = next(n for n, f in FORMATS.items() if f.title == title_of(path))
    said = ""
    try:
        for block in islice(traces.blocks(damaged, format if named else None), 50):
            assert block.dtype == ACCESS
            assert len(block)
    except TraceError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600


def title_of(path: Path) -> str:
    reading = Reading(str(path))
    next(iter(reading))
    return reading.title
