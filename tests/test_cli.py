"""The commands as users run them: output, exit codes, one line for every mistake."""

import csv
import dataclasses
import html
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jaxmig import __version__, cli
from jaxmig.cli import runtime
from jaxmig.sources.targets import Setting, resolve
from jaxmig.state import xla
from jaxmig.time.machines import names
from jaxmig.tools import verify
from processes import LIMIT_S, told

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "data/procfs/snapshot-v1.npz"
# One shape for most tests, so that each kernel compiles once.
SMALL = ("migratepages", "memhog:1m", "0", "1", "--cpus", "4", "--running", "1-3")

SCENARIO = """
[machine]
nodes = 2
cpus = 4
[[process]]
name = "victim"
running = [1, 2, 3]
[[region]]
process = "victim"
name = "heap"
size = "400k"
[[call]]
syscall = "migrate_pages"
process = "victim"
from = "0"
to = "1"
[[call]]
syscall = "kernel"
process = "victim"
from = "1"
to = "0"
"""


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")


class Ran:
    """What a command left behind."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *args: str) -> None:
        self.code = cli.main(list(args))
        self.out, self.err = capsys.readouterr()

    def document(self) -> dict:
        return json.loads(self.out)


@pytest.mark.parametrize("name", names())
def test_a_call_on_any_machine_can_be_traced(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    ran = Ran(capsys, *SMALL, "--machine", name, "--trace", str(tmp_path / "t.json"))
    assert (ran.code, ran.err) == (0, "")
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]


def test_migratepages_compares_serial_and_batched(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = Ran(capsys, *SMALL)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith("Assumed: xeon-2s")
    assert "target on CPUs 1-3" in lines[0]
    assert "256 pages of 4 KiB" in lines[1]
    cells = {line[:23].strip(): line[23:].split() for line in lines}
    assert cells["IPIs"] == ["768", "3"]
    assert cells["pages moved"] == ["256", "256"]
    assert cells["IPI reduction"][-2:] == ["99.61", "%"]
    assert "every page holds what it held before" in ran.out
    assert "migrate_pages_batch" not in ran.out
    answer = ran.out.index("Linux 6.3 moves 256 pages in")
    assert ran.out.index("Target: ") < answer < ran.out.index("pages moved")
    assert (
        "1 flush request and 3 IPIs (1 on each of CPUs 1-3) instead of"
        " 256 flush requests and 768 IPIs." in ran.out
    )


def test_trees_are_shown_once_for_releases_that_have_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = Ran(capsys, *SMALL, "--tree", "--kernel", "6.2,6.3,6.18")
    assert ran.out.count("unmap_and_move\n") == 2
    assert "Modelled time of 6.3, 6.18 (batched):\n" in ran.out
    assert ran.out.count("Modelled time of ") == 2
    assert "modelled time, flush" in ran.out


def test_json_on_standard_output_is_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = Ran(capsys, *SMALL, "--json", "-")
    doc = ran.document()
    assert doc["jaxmig"] == __version__
    assert doc["target"]["pages"] == 256
    assert doc["machine"]["running"] == [1, 2, 3]
    serial, batched = doc["calls"]
    assert serial["kernel"] == "6.2"
    assert batched["ipis_per_cpu"] == [0, 1, 1, 1]
    assert batched["nodes_after"] == {"0": 0, "1": 256}
    assert batched["contents_wrong"] == 0
    assert set(batched["time_ns"]) > {"total", "flush"}
    page = (ROOT / "docs/reference/records.md").read_text()
    described = set(re.findall("`([a-z_]+)`", page.partition("## Rows")[0]))
    assert {*doc, *doc["asked"], *batched} <= described


def test_csv_has_the_same_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "out.csv"
    ran = Ran(capsys, *SMALL, "--csv", "-", "--json", str(tmp_path / "out.json"))
    Ran(capsys, *SMALL, "--csv", str(file))
    first, second = (list(csv.DictReader(io.StringIO(t))) for t in
                     (ran.out, file.read_text()))  # fmt: skip
    assert [r["vmstat.pgmigrate_success"] for r in first] == ["256", "256"]
    assert [r["kernel"] for r in second] == ["6.2", "6.3"]
    doc = json.loads((tmp_path / "out.json").read_text())
    assert len(doc["calls"]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "out.json"]


def test_memhog_runs_on_cpu_5_folded(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("migratepages", "memhog:1m", "0", "1", "--cpus", "4", "--kernel", "6.3")
    doc = Ran(capsys, *args, "--json", "-").document()
    assert doc["machine"]["running"] == [1]
    assert doc["calls"][0]["ipis_per_cpu"] == [0, 1, 0, 0]


def test_lazy_cpus_take_no_ipi(capsys: pytest.CaptureFixture[str]) -> None:
    args = (*SMALL[:-1], "1,2", "--lazy", "3", "--json", "-")
    serial, batched = Ran(capsys, *args).document()["calls"]
    assert serial["ipis_per_cpu"] == [0, 256, 256, 0]
    assert batched["ipis_per_cpu"] == [0, 1, 1, 0]


def test_batch_limit_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for limit, batches in (("64", 4), ("0", 1)):
        args = (*SMALL, "--kernel", "6.3", "--batch", limit, "--json", "-")
        assert Ran(capsys, *args).document()["calls"][0]["batches"] == batches


def test_metadata_alone_gives_the_same_counts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = Ran(capsys, *SMALL, "--json", "-").document()["calls"]
    bare = Ran(capsys, *SMALL, "--no-content", "--json", "-").document()["calls"]
    times = ("wall_s", "compile_s", "contents_wrong")
    for a, b in zip(full, bare, strict=True):
        assert {k: v for k, v in a.items() if k not in times} == {
            k: v for k, v in b.items() if k not in times
        }
    assert bare[0]["contents_wrong"] is None


def test_a_full_node_is_a_result_and_exits_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran = Ran(capsys, *SMALL, "--free", "1=512k", "--json", "-")
    assert ran.code == 1
    for call in ran.document()["calls"]:
        assert (call["ret"], call["errno"]) == (-1, "ENOMEM")
        assert call["nodes_after"] == {"0": 128, "1": 128}
    assert ran.err.count("\n") == 1
    assert "6.2, 6.3: migrate_pages: ENOMEM: node 1 is full; 128 pages" in ran.err


def test_several_nodes_go_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("migratepages", "memhog:1m", "all", "!0", "--kernel", "6.3")
    doc = Ran(capsys, *args, "--cpus", "4", "--json", "-").document()
    assert doc["calls"][0]["nodes_after"] == {"0": 0, "1": 256}
    stays = ("migratepages", "memhog:1m", "0,1", "1,0", "--kernel", "6.3")
    doc = Ran(capsys, *stays, "--cpus", "4", "--json", "-").document()
    assert doc["calls"][0]["nodes_after"] == {"0": 256, "1": 0}


def test_a_caller_brings_its_own_lists(capsys: pytest.CaptureFixture[str]) -> None:
    args = (*SMALL, "--kernel", "6.3", "--caller", "compaction", "--json", "-")
    call = Ran(capsys, *args).document()["calls"][0]
    assert (call["syscall"], call["batches"]) == ("kernel", 2)
    assert (call["caller"], call["lists"], call["reclaimed"]) == ("compaction", 2, 0)


def test_a_caller_may_pass_all_by(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("migratepages", "memhog:2m,thp", "0", "1", "--cpus", "4", "--kernel", "6.3")
    ran = Ran(capsys, *args, "--caller", "compaction", "--json", "-")
    assert ran.document()["calls"][0]["lists"] == 0
    assert "compaction lists no page on FROM" in ran.err
    older = Ran(capsys, *args, "--caller", "damon")
    assert (older.code, older.err.count("\n")) == (1, 1)
    assert "Linux 6.3 has no caller damon" in older.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("migratepages", "memhog:0", "0", "1"), 2, "memhog:0"),
        (("migratepages", "memhog:1m", "0", "5"), 2, "--nodes 6"),
        (("migratepages", "memhog:1m", "x", "1"), 2, "FROM: 'x'"),
        (("migratepages", "memhog:1m", "", "1"), 2, "FROM"),
        (("migratepages", "memhog:1m", "0"), 2, "TO"),
        (("migratepages", "4194304999", "0", "1"), 1, "no such process"),
        (("migratepages", "none.npz", "0", "1"), 1, "none.npz"),
        (("migratepages", __file__, "0", "1"), 1, "not a snapshot"),
        (("migratepages", "memhog:8192g", "0", "1"), 1, "GiB"),
        ((*SMALL, "--batch", "-1"), 2, "--batch"),
        ((*SMALL, "--kernel", "6.99"), 2, "6.18"),
        (
            (*SMALL, "--kernel", "6.9"),
            2,
            "only the callers of migrate_pages() were read",
        ),
        ((*SMALL, "--kernel", "7.0-6.3"), 2, "6.3-7.0"),
        ((*SMALL, "--machine", "pdp11"), 2, "xeon-2s"),
        ((*SMALL, "--machine", "none.toml"), 1, "none.toml"),
        ((*SMALL, "--copy", "dma:0"), 2, "dma:N"),
        ((*SMALL, "--machine", "zen4-vm", "--copy", "dma:4"), 1, "has cpu only"),
        ((*SMALL, "--lazy", "1"), 2, "CPU 1"),
        ((*SMALL, "--cpu", "9"), 2, "CPUs 0-3"),
        ((*SMALL, "--free", "7=1m"), 2, "node 7"),
        ((*SMALL, "--node-size", "512k"), 1, "--node-size"),
        ((*SMALL, "--json", "/no/such/dir/x"), 1, "/no/such/dir"),
        ((*SMALL, "--json", "-", "--csv", "-"), 2, "standard output"),
        ((*SMALL, "--table", "html"), 2, "--table"),
        (("migratepages", str(GOLDEN), "0", "1", "--pid", "9"), 1, "no PID 9"),
        (("snapshot",), 2, "-o"),
        (("snapshot", "-o", "x.npz"), 2, "--all"),
        (("snapshot", "1", "-o", "x.txt"), 2, ".npz"),
        (("snapshot", "4194304", "-o", "/no/such/dir/x.npz"), 1, "/no/such/dir"),
        (("machines", "pdp11"), 2, "xeon-2s"),
        (("run",), 2, "SCENARIO"),
        (("run", "none.toml"), 1, "none.toml"),
        (("fly",), 2, "fly"),
        ((), 2, "COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, words: str
) -> None:
    ran = Ran(capsys, *args)
    assert ran.code == code
    assert words in ran.err
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("jaxmig")


def test_every_command_has_help_that_opens_with_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for args in ((), ("migratepages",), ("run",), ("snapshot",), ("machines",)):
        ran = Ran(capsys, *args, "--help")
        assert ran.code == 0
        assert ran.out.startswith("example:\n  jaxmig")
    assert Ran(capsys, "--version").out == f"jaxmig {__version__}\n"


def test_machines_lists_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "machines")
    assert all(name in ran.out for name in names())
    assert "flush_first" in Ran(capsys, "machines", "xeon-2s").out
    doc = Ran(capsys, "machines", "--json", "-").document()
    assert [m["name"] for m in doc["machines"]] == names()


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "two-calls.toml"
    path.write_text(SCENARIO)
    return str(path)


def test_run_plays_call_by_call(
    capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    doc = Ran(capsys, "run", scenario, "--json", "-").document()
    assert doc["scenario"] == scenario
    made = [(c["kernel"], c["syscall"]) for c in doc["calls"]]
    assert made == [
        ("6.2", "migrate_pages"),
        ("6.2", "kernel"),
        ("6.3", "migrate_pages"),
        ("6.3", "kernel"),
    ]
    ran = Ran(capsys, "run", scenario)
    assert ran.out.startswith("Assumed: ")
    assert "Call 2: kernel, process victim" in ran.out


def test_run_goes_on_after_a_bad_file(
    capsys: pytest.CaptureFixture[str], scenario: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("colour = 1\n")
    out = tmp_path / "out.jsonl"
    args = ("run", str(bad), scenario, "--kernel", "6.3", "--json", str(out))
    ran = Ran(capsys, *args)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["scenario"] == str(bad)
    assert "colour" in first["error"]
    assert [c["kernel"] for c in second["calls"]] == ["6.3", "6.3"]


def test_run_writes_all_that_is_asked_for(
    capsys: pytest.CaptureFixture[str], scenario: str, tmp_path: Path
) -> None:
    """Of two files, rows, panels and sections name theirs; each call has its tree."""
    other, bad = tmp_path / "other.toml", tmp_path / "bad.toml"
    other.write_text(SCENARIO.replace("[1, 2, 3]", "[2]"))
    bad.write_text("colour = 1\n")
    table, plot, page = (tmp_path / f"x.{kind}" for kind in ("csv", "svg", "html"))
    words = ("--kernel", "6.3", "--tree", "--csv", str(table))
    words += ("--plot", str(plot), "--report", str(page))
    ran = Ran(capsys, "run", scenario, str(bad), str(other), *words)
    assert ran.code == 1
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    received = "vmstat.nr_tlb_remote_flush_received"
    assert [(r["scenario"], r[received]) for r in rows] == [
        *[(scenario, "3")] * 2, *[(str(other), "1")] * 2
    ]  # fmt: skip
    assert len(re.findall(r"migrate_pages_batch$", ran.out, re.M)) == 4
    for path in (scenario, str(other)):
        for i, call in enumerate(("migrate_pages", "kernel"), 1):
            title = f"{path}: Call {i}: {call}, process victim"
            assert title in page.read_text()
            assert title in plot.read_text()
    error = ran.err.strip().partition(": ")[2]
    assert error in html.unescape(page.read_text())


def test_a_page_of_a_scenario_assumes_what_the_table_does(
    capsys: pytest.CaptureFixture[str], scenario: str, tmp_path: Path
) -> None:
    page = tmp_path / "x.html"
    words = ("--kernel", "6.3", "--copy", "dma:4", "--report", str(page))
    ran = Ran(capsys, "run", scenario, *words)
    assert (ran.code, ran.err) == (0, "")
    said = [line for line in ran.out.splitlines() if line.startswith("Assumed: ")]
    assert len(said) == 2
    assert "between the rates published" in said[1]
    assert all(line in html.unescape(page.read_text()) for line in said)


def test_an_engine_that_no_machine_has_is_an_error_of_each_file(
    capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    ran = Ran(capsys, "run", scenario, "--machine", "zen4-vm", "--copy", "dma:3")
    assert (ran.code, ran.out) == (1, "")
    assert re.fullmatch(rf"jaxmig run: {scenario}: .*dma.*\n", ran.err)


def test_a_run_without_a_call_has_no_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(SCENARIO.partition("[[call]]")[0])
    words = ("--kernel", "6.3", "--plot", str(tmp_path / "x.svg"))
    ran = Ran(capsys, "run", str(path), *words)
    assert ran.code == 1
    assert "x.svg: no call was played, so there is nothing to draw" in ran.err
    assert list(tmp_path.iterdir()) == [path]


def test_run_options_replace_what_the_file_says(
    capsys: pytest.CaptureFixture[str], scenario: str
) -> None:
    only = ("run", scenario, "--kernel", "6.3", "--json", "-")
    call = Ran(capsys, *only, "--running", "2").document()["calls"][0]
    assert call["ipis_per_cpu"] == [0, 0, 1, 0]
    ran = Ran(capsys, *only, "--cpus", "2")
    assert ran.code == 1
    assert "see --cpus" in ran.err


def test_a_scenario_too_few_nodes_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "node1.toml"
    path.write_text(SCENARIO.replace('"400k"', '"400k"\nnode = 1'))
    ran = Ran(capsys, "run", str(path), "--nodes", "1")
    assert ran.code == 1
    assert "node 1" in ran.err


def test_module_and_pipe(tmp_path: Path) -> None:
    command = f"{sys.executable} -m jaxmig machines xeon-2s | head -1"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "number" in done.stdout
    assert done.stderr == ""


def test_nothing_of_jax_reaches_stderr(tmp_path: Path) -> None:
    """Also with a cache, which the second run uses."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX")}
    env["XDG_CACHE_HOME"] = str(tmp_path)
    args = [sys.executable, "-m", "jaxmig", *SMALL, "--kernel", "6.2"]
    for _ in range(2):
        done = subprocess.run(
            args, cwd=ROOT, env=env, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert (done.returncode, done.stderr) == (0, "")
    (kept,) = (tmp_path / "jaxmig").iterdir()
    assert "jaxlib" in kept.name
    assert bool(list(kept.iterdir())) == xla.CAN_KEEP


# Tells when a module begins to be imported.
ON_IMPORT = """
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            tell()
sys.meta_path.insert(0, Finder())
"""
# Tells when a program begins to be compiled.
ON_COMPILATION = """
from jaxmig.state import xla
real = xla.Program._compile
def compile(self, *args):
    tell()
    return real(self, *args)
xla.Program._compile = compile
"""


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    "module", ["jaxmig.cli.app", "jax", "jax.numpy", "jaxmig.tools.job"]
)
def test_ctrl_c_while_jax_is_imported_is_one_line_and_130(module: str) -> None:
    with told(ON_IMPORT.format(module=module), *SMALL) as child:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=LIMIT_S)
    assert (child.returncode, err.strip()) == (130, "jaxmig: interrupted")


def test_nothing_to_move_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["migratepages", "memhog:64k", "0", "0"]) == 0
    assert "nothing moved" in capsys.readouterr().err


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_is_one_line_and_130() -> None:
    # Far more is left than the first compilation: every release is played.
    args = (*SMALL, "--kernel", "all")
    with told(ON_COMPILATION, *args, JAXMIG_NO_CACHE="1") as child:
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=LIMIT_S)
    assert (child.returncode, err.strip()) == (130, "jaxmig: interrupted")


def test_the_cache_is_keyed_by_version_and_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert runtime.cache_directory().is_relative_to(Path.home() / ".cache/jaxmig")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_directory().parent == tmp_path / "jaxmig"


def test_a_single_changed_word_or_lost_page_is_found() -> None:
    m, _ = resolve("memhog:1m").build(Setting())
    before = verify.frames(m)
    assert verify.mismatches(m, before) == 0
    word = int(before[7])
    other = dataclasses.replace(m, memory=m.memory.at[word, 1023].add(np.uint32(1)))
    assert verify.mismatches(other, before) == 1
    lost = dataclasses.replace(m, pte=m.pte.at[3, 1].set(0))
    assert verify.mismatches(lost, before) == 1
    swapped = m.pte.at[0, 0].set(m.pte[1, 0]).at[1, 0].set(m.pte[0, 0])
    assert verify.mismatches(dataclasses.replace(m, pte=swapped), before) == 2


def test_huge_pages_are_verified_page_by_page() -> None:
    m, _ = resolve("memhog:4m,thp").build(Setting())
    before = verify.frames(m)
    assert len(set(before.tolist())) == 1024
    tail = int(before[700])
    other = dataclasses.replace(m, memory=m.memory.at[tail, 0].add(np.uint32(1)))
    assert verify.mismatches(other, before) == 1
