"""Recorded traces played: the program, its memory, the command, and its conversions."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jaxmig import cli
from jaxmig.calls.syscalls import pages_by_node
from jaxmig.calls.syscalls.space import View
from jaxmig.cli import progress
from jaxmig.programs import traces
from jaxmig.programs.traces import TraceError, accesses, native
from jaxmig.programs.workloads import replay, spool, trace
from jaxmig.sources import targets
from jaxmig.sources.targets import Setting
from jaxmig.time import machines
from processes import until

DATA = Path(__file__).parent / "data/traces"
PAGE = 4096


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")


def saved(path: Path, vpn: np.ndarray, **columns: object) -> str:
    """A trace file of these pages."""
    block = accesses.rows(vpn.astype(np.uint64) << np.uint64(12), **columns)
    with path.open("wb") as file:
        native.write(iter([block]), file)
    return str(path)


def test_lanes_pages_and_accesses(tmp_path: Path) -> None:
    """CPUs are lanes, pages are numbered by address, a huge page is one folio first."""
    vpn = np.array([9, 512, 7, 1023, 9, 600])
    path = saved(
        tmp_path / "t.npz", vpn, cpu=[3, 1, 3, 1, 3, 3], order=[0, 9, 0, 0, 0, 0],
        store=[True, False, False, True, False, False], time_ns=[0, 10, 20, 30, 40, 60],
    )  # fmt: skip
    t = trace.load(path)
    assert [(x.cpu, x.accesses) for x in t.lanes] == [(1, 2), (3, 4)]
    assert (t.huge, t.folios, t.base_pages, t.stores) == (1, 3, 514, 2)
    assert [x.tolist() for x in t.draw(0)(3)] == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]
    draw = t.draw(1)
    assert draw(2)[0].tolist() == [2, 1]
    assert draw(3)[0].tolist() == [2, 0, 2]
    assert t.gap_ns == (20 + 60) // 4
    assert replay.gap_of(trace.load(str(DATA / "lackey.txt"))) == replay.GAP_NS


def test_threads_are_lanes_where_no_cpu_is_known() -> None:
    t = trace.load(str(DATA / "perf-fault.txt"))
    assert all(x.cpu >= 0 for x in t.lanes)
    t = trace.load(str(DATA / "damon.json"))
    assert [(x.cpu, x.tid) for x in t.lanes] == [(-1, 0)]


def test_accesses_go_to_a_file_when_they_are_many(tmp_path: Path, monkeypatch) -> None:
    """Lanes stay in order whether memory or a file keeps them."""
    rng = np.random.default_rng(1)
    vpn, cpu = rng.integers(0, 999, 100_000), rng.integers(0, 5, 100_000)
    path = saved(tmp_path / "t.npz", vpn, cpu=cpu)
    kept = trace.load(path)
    monkeypatch.setattr(spool, "KEPT_BYTES", 1 << 12)
    filed = trace.load(path)
    for lane in range(5):
        expected = np.searchsorted(np.unique(vpn), vpn[cpu == lane])
        for t in (kept, filed):
            draw = t.draw(lane)
            got = [draw(n)[0] for n in (1, 4095, 5000)]
            np.testing.assert_array_equal(np.concatenate(got), expected[:9096])


def test_no_room_for_the_accesses_is_one_line(tmp_path: Path, monkeypatch) -> None:
    """A full disk, and more threads than a machine has CPUs."""
    path = saved(tmp_path / "t.npz", np.arange(5000), tid=np.arange(5000))
    assert "5000 threads whose process was not recorded" in trace.load(path).assumed[0]
    monkeypatch.setattr(spool, "MAX_LANES", 4000)
    with pytest.raises(TraceError, match="over 4000 threads; choose"):
        trace.load(path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool._File, "write", full)
    with pytest.raises(TraceError, match=r"no room .* \(No space left .* set TMPDIR"):
        trace.load(str(DATA / "lackey.txt"))


def test_one_process_must_be_chosen(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "t.npz", np.arange(6), pid=[1, 2, 1, 2, 1, 2], tid=[1, 2, 1, 2, 1, 9]
    )
    with pytest.raises(TraceError, match=r"several processes \(1, 2\); choose one"):
        trace.load(path)
    assert trace.load(path, pid=2).accesses == [2, 1]
    assert trace.load(path, pid=9).accesses == [1]
    assert trace.load(path, pid=1, skip=1, most=1).pages.tolist() == [2]
    with pytest.raises(TraceError, match="no access left"):
        trace.load(path, pid=3)


def test_the_known_program_misses_once_a_page() -> None:
    """26 accesses of four pages: four walks; all pages move, each kernel's way."""
    t, p = trace.load(str(DATA / "lackey.txt")), machines.load("xeon-2s")
    base = replay.run(t, p)
    assert base.totals.accesses.tolist() == [26]
    assert base.totals.walks.tolist() == [4]
    assert base.totals.wrong == base.totals.folios == base.totals.trips_ns == 0
    serial, batched = (replay.run(t, p, k, trips=3) for k in ("6.2", "6.3"))
    for r in (serial, batched):
        assert r.totals.folios == 12
        assert r.totals.accesses.sum() == 26
    assert serial.totals.trips_ns > batched.totals.trips_ns


def test_each_thread_does_all_its_accesses_once(tmp_path: Path) -> None:
    """Lanes of different lengths, under a migration that ends before or after them."""
    counts = [5, 20_000, 700]
    cpu = np.repeat([0, 1, 2], counts)
    vpn = np.arange(len(cpu)) % 300
    t = trace.load(saved(tmp_path / "t.npz", vpn, cpu=cpu))
    p = machines.load("xeon-2s")
    for kernel in (None, "6.2", "6.3"):
        r = replay.run(t, p, kernel)
        assert r.totals.accesses.tolist() == counts
        assert r.totals.folios == (300 if kernel else 0)
    serial, batched = (replay.run(t, p, k) for k in ("6.2", "6.3"))
    assert batched.totals.ipis.sum() < serial.totals.ipis.sum() / 20


def test_the_far_node_is_slower() -> None:
    """Without a migration only the CPU's node decides; --migrate 1:0 begins far away."""
    t, p = trace.load(str(DATA / "lackey.txt")), machines.load("xeon-2s")
    near, far = (replay.run(t, p, source=n).ran_ns[0] for n in (0, 1))
    extra = round(p["access.memory_remote"]) - round(p["access.memory_local"])
    assert far - near == 26 * extra


def test_the_command_says_it_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(DATA / "lackey.txt")
    assert cli.main(["replay", file, "--migrate", "0:1", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    doc = json.loads(out)
    assert doc["trace"]["format"] == traces.FORMATS["lackey"].title
    assert (doc["trace"]["accesses"], doc["trace"]["stores"]) == (26, 14)
    assert (doc["trace"]["pages"], doc["trace"]["threads"]) == (4, [0])
    kernels = [(r["kernel"], r["policy"]) for r in doc["runs"]]
    assert kernels == [(None, None), ("6.2", "serial"), ("6.3", "batched")]
    for r in doc["runs"]:
        assert r["accesses"] == r["tlb_hits"] + r["tlb_misses"] == 26
        assert sum(r["ipis_per_cpu"]) == r["ipis"]
    for r in doc["runs"][1:]:
        assert r["pages_moved"] == doc["trace"]["pages"]
        assert r["wait_p50_ns"] <= r["wait_p99_ns"] <= r["wait_max_ns"]
    assert doc["runs"][0]["slower"] == doc["runs"][0]["ipis"] == 0
    # What it is slower by is split into moving, and memory that is far away since.
    p, alone = machines.load("xeon-2s"), doc["runs"][0]["program_ns"]
    extra = round(p["access.memory_remote"]) - round(p["access.memory_local"])
    for r in doc["runs"]:
        moving, after = r["slower_by_moving_ns"], r["slower_after_ns"]
        assert moving + after == r["program_ns"] - alone
        assert 0 <= after <= 26 * extra
        assert moving >= r["wait_ns"] + r["ipi_ns"]  # of its only thread
    assert doc["runs"][0]["slower_by_moving_ns"] == 0


def test_the_command_prints_a_table_and_what_it_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = str(DATA / "perf-mem.txt")
    assert cli.main(["replay", file, "--pid", "4714", "--table", "tsv"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Assumed: xeon-2s (x86, 2 nodes, 32 CPUs); target on CPUs ")
    assert "; batch limit 512 pages; copy cpu; contents not carried; " in out
    assert "; 5 ns between two accesses of a thread\n" in out
    assert "perf script, 1 loads and 0 stores by 1 CPU on 1 pages of 2 MiB" in out
    assert "none\t" in out
    assert "left out 1 events without an address" in err
    args = ["replay", str(DATA / "lackey.txt"), "--csv", "-", "--kernel", "6.3"]
    assert cli.main([*args, "--migrate", "1:0", "--trips", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["kernel"], r["pages_moved"]) for r in rows] == [("", "0"), ("6.3", "8")]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nothing.txt"], 1, "nothing.txt: No such file"),
        (["-"], 2, "convert it first"),
        (["T", "--migrate", "0:2"], 2, "write 0:1 or 1:0"),
        (["T", "--kernel", "6.3"], 2, "need --migrate"),
        (["T", "--format", "odd"], 2, "use perf"),
        (["T", "--format", "view"], 1, "lackey.txt:1: no record of the view tool"),
        (["T", "-o", "out.txt"], 2, "its name ends in .npz or .csv"),
        (["T", "-o", "no/out.npz"], 1, "no such directory"),
        (["T", "-o", "out.npz", "--migrate", "0:1"], 2, "only converts"),
        (["T", "--skip", "26"], 1, "no access left"),
        (["T", "--gap", "9999999"], 2, "--gap"),
        (["T", "--copy", "dma:3", "--machine", "arm64-2n128c"], 1, "dma"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    args: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(DATA / "lackey.txt")
    assert cli.main(["replay", *(file if a == "T" else a for a in args)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["npz", "csv"])
def test_the_command_converts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, end: str
) -> None:
    out = tmp_path / f"out.{end}"
    args = ["replay", str(DATA / "perf.txt"), "-o", str(out)]
    assert cli.main([*args, "--skip", "3", "--accesses", "40"]) == 0
    assert f"{out}: 40 accesses from perf script" in capsys.readouterr().out
    expected = np.concatenate(list(traces.blocks(DATA / "perf.txt")))[3:43]
    np.testing.assert_array_equal(np.concatenate(list(traces.blocks(out))), expected)


def test_standard_input_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO((DATA / "lackey.txt").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    out = tmp_path / "out.npz"
    assert cli.main(["replay", "-", "-o", str(out)]) == 0
    assert not data.closed
    expected = np.concatenate(list(traces.blocks(DATA / "lackey.txt")))
    np.testing.assert_array_equal(np.concatenate(list(traces.blocks(out))), expected)


@pytest.mark.usefixtures("heeded")
def test_an_interrupt_leaves_no_half_file(tmp_path: Path) -> None:
    """A conversion that waits for more input ends at once, and its draft is gone."""
    out = tmp_path / "out.npz"
    go = [sys.executable, "-m", "jaxmig", "replay", "-", "-o", str(out)]
    child = subprocess.Popen(
        go, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(b" L 1000,8\n" * 500_000)
    child.stdin.flush()
    assert until(lambda: list(tmp_path.iterdir()))
    assert [p.name.startswith(".jaxmig-") for p in tmp_path.iterdir()] == [True]
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert not list(tmp_path.iterdir())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_long_reading_shows_how_much_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, from half a second on; of a pipe the amount alone."""
    for total, words in ((100, "50 %|"), (0, "50.0")):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with progress.amount(total, "reading") as done:
            time.sleep(0.6)
            done(50)
            shown = sys.stderr.getvalue()
        assert "reading: " in shown
        assert words in shown
        assert ("left" in shown) == bool(total)


def test_help_says_how_each_format_is_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["replay", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("example:")
    for f in traces.FORMATS.values():
        assert f.title in out
        for part in f.recording.split("; "):
            assert part in out


def test_a_trace_is_a_target(tmp_path: Path) -> None:
    """Its different pages on the node asked for, at their addresses, on its CPUs."""
    vpn = np.array([9, 512, 10, 1023, 5000])
    path = saved(tmp_path / "t.npz", vpn, cpu=[3, 1, 3, 1, 3], order=[0, 9, 0, 0, 0])
    t = targets.resolve(f"trace:{path}")
    assert (t.pages, t.running, t.own_sizes) == (515, (1, 3), True)
    m, space = t.build(Setting(running=(1, 3), content=False, node=1))
    assert pages_by_node(View.of(m), space, 2) == [0, 515]
    assert [(a.start, a.pages) for a in space.areas] == [(9, 2), (512, 512), (5000, 1)]
    assert [a.first_pmd >= 0 for a in space.areas] == [False, True, False]


def test_many_areas_are_joined_over_the_narrow_gaps(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(targets.recorded, "MAX_AREAS", 3)
    path = saved(tmp_path / "t.npz", np.array([1, 3, 100, 102, 900, 902]))
    _, space = targets.resolve(f"trace:{path}").build(Setting(content=False))
    assert [(a.start, a.pages) for a in space.areas] == [(1, 2), (100, 2), (900, 2)]


@pytest.mark.parametrize(
    "command", ["migratepages", "sweep", pytest.param("advise", marks=pytest.mark.slow)]
)
def test_commands_take_a_trace(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    target = f"trace:{DATA / 'tracefs.txt'}"
    more = {
        "migratepages": ["0", "1", "--kernel", "6.3", "--json", "-", "--cpus", "4"],
        "sweep": ["--cpus", "4", "--kernel", "6.3"],
        "advise": ["--p99", "1s", "--kernel", "6.3", "--json", "-", "--cpus", "4"],
    }
    assert cli.main([command, target, *more[command]]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("Assumed: ") if command == "sweep" else err == ""
    if command == "migratepages":
        assert json.loads(out)["calls"][0]["nodes_after"] == {"0": 0, "1": 65}
        assert cli.main([command, f"{target}x", "0", "1"]) == 1
        assert "No such file" in capsys.readouterr().err
    if command == "sweep":
        assert cli.main([command, target, "--thp", "50"]) == 2
        assert "not known of it; take a snapshot" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_of_a_process_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Reading four times as many accesses takes hardly more memory of a process."""
    code = (
        "import re, sys\n"
        "from jaxmig.programs.workloads import spool, trace\n"
        "spool.KEPT_BYTES = 1 << 20\n"
        "t = trace.load(sys.argv[1])\n"
        "draw = t.draw(0)\n"
        "for _ in range(t.accesses[0] // 8192): draw(8192)\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) >> 10)\n"
    )
    peaks = []
    for mib in (6, 24):
        path = tmp_path / f"{mib}.txt"
        path.write_bytes(b" L 1000,8\n L 200f0,4\n S 3000,8\n" * (mib << 15))
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            check=True, capture_output=True, text=True, env=os.environ,
        )  # fmt: skip
        peaks.append(int(done.stdout))
    # What the larger file has more is 18 MiB of text and 18 MiB of accesses.
    assert peaks[1] < peaks[0] + 6, peaks
