"""What outsiders rely on: commands, options and their defaults, streams, Python names."""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jaxmig
import numpy as np
import pytest
from jaxmig import cli, report
from jaxmig.cli import app, completion, progress as bars
from jaxmig.host import busy
from jaxmig.report.records import VMSTAT
from jaxmig.state import xla
from processes import LIMIT_S, until

ROOT = Path(__file__).parent.parent
COMMANDS = (
    *("migratepages", "run", "snapshot", "memhog", "migspeed", "pmbench"),
    *("sweep", "reproduce", "calibrate", "advise", "explain", "machines"),
)
# Options common to migratepages and run: a value that each takes, and what it becomes.
COMMON = {
    "--kernel": ("6.2,v4,6.10", ("6.2", "v4", "6.10")),
    "--machine": ("zen3-2s", "zen3-2s"),
    "--nodes": ("4", 4),
    "--cpus": ("8", 8),
    "--running": ("1-3,7", (1, 2, 3, 7)),
    "--lazy": ("2", (2,)),
    "--cpu": ("3", 3),
    "--batch": ("0", 0),
    "--copy": ("dma:4", "dma:4"),
    "--mode": ("async", "async"),
    "--caller": ("compaction", "compaction"),
    "--seed": ("5", 5),
    "--json": ("-", "-"),
    "--csv": ("x.csv", "x.csv"),
    "--table": ("github", "github"),
    "--trace": ("t.json", "t.json"),
    "--tracefs": ("t.txt", "t.txt"),
    "--plot": ("p.svg", "p.svg"),
}
BEGIN = {"migratepages": ["memhog:1m", "0", "1"], "run": ["a.toml"]}
EXTRA = {"stolen_ns", "compile_s", "time_ns_range"}
EXTRA |= {
    "time_ns_median",
    "time_ns_causes",
    "stall_ns",
}  # beside what the contract names


def parsers() -> dict[str, argparse.ArgumentParser]:
    actions = app.parser()._actions
    (commands,) = (a for a in actions if isinstance(a, argparse._SubParsersAction))
    return dict(commands.choices)


def test_every_command_is_there_and_its_help_opens_with_an_example() -> None:
    found = parsers()
    assert set(COMMANDS) <= set(found)
    for name, parser in found.items():
        assert parser.format_help().startswith(f"example:\n  jaxmig {name}"), name


@pytest.mark.parametrize("command", ["migratepages", "run"])
def test_common_options_take_what_they_say(command: str) -> None:
    given = [x for option, (text, _) in COMMON.items() for x in (option, text)]
    args = app.parser().parse_args([command, *BEGIN[command], *given])
    for option, (_, value) in COMMON.items():
        assert getattr(args, option[2:]) == value, option
    bare = app.parser().parse_args([command, *BEGIN[command]])
    # None leaves the default to profile, target or file.
    assert {getattr(bare, o[2:]) for o in COMMON} == {None, "simple"}
    assert bare.content is None
    for text, value in (("--content", True), ("--no-content", False)):
        args = app.parser().parse_args([command, *BEGIN[command], text])
        assert args.content is value
    help_text = " ".join(parsers()[command].format_help().split())
    for said in ("both (6.2 and 6.3, the default)", "(xeon-2s)", "no limit (512)"):
        assert said in help_text
    for said in ("that migrates (0)", "order of frames in memory (0)", "dma:N (cpu)"):
        assert said in help_text


def test_every_release_can_be_asked_for() -> None:
    named = ["6.1", "6.2", "v4", "6.3", "6.5", "6.6"]
    named += ["6.7", "6.8", "6.10", "6.12", "6.18"]
    assert set(named) <= set(jaxmig.RELEASES)
    args = ["migratepages", *BEGIN["migratepages"], "--kernel"]
    assert app.parser().parse_args([*args, ",".join(named)]).kernel == tuple(named)
    assert app.parser().parse_args([*args, "both"]).kernel == ("6.2", "6.3")


SCENARIO = """
kernel = ["6.2", "6.3"]
[machine]
nodes = 2
cpus = 4
[[process]]
name = "p"
running = [1, 2, 3]
[[region]]
process = "p"
name = "heap"
size = "400k"
[[call]]
syscall = "migrate_pages"
process = "p"
from = "0"
to = "1"
[[call]]
syscall = "migrate_pages"
process = "p"
from = "0"
to = "9"
[[call]]
syscall = "move_pages"
process = "p"
pages = [["heap", 0], ["heap", 7], 0x1000]
nodes = [0, 0, 0]
[[call]]
syscall = "mbind"
process = "p"
pages = "heap"
nodes = "0"
flags = 2
[[call]]
syscall = "kernel"
process = "p"
from = "1"
to = "0"
mode = "async"
"""


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Documents of two files that play, with one that fails between them."""
    home = tmp_path_factory.mktemp("played")
    (home / "a.toml").write_text(SCENARIO)
    (home / "bad.toml").write_text('kernel = "6.9"\n')
    files = [str(home / f"{n}.toml") for n in ("a", "bad", "a")]
    out = home / "out.jsonl"
    assert cli.main(["run", *files, "--json", str(out)]) == 1
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_document_a_file_and_the_error_of_one(played: list[dict[str, Any]]) -> None:
    first, bad, second = played
    assert list(bad) == ["scenario", "error"]
    assert "\n" not in bad["error"]
    assert bad["scenario"].endswith("bad.toml")
    assert list(first) == ["jaxmig", "scenario", "machine", "calls", "asked"]
    assert first["jaxmig"] == jaxmig.__version__
    kernels = [(c["kernel"], c["syscall"]) for c in first["calls"]]
    calls = ["migrate_pages", "migrate_pages", "move_pages", "mbind", "kernel"]
    assert kernels == [(k, c) for k in ("6.2", "6.3") for c in calls]
    walls = ("wall_s", "compile_s")
    for a, b in zip(first["calls"], second["calls"], strict=True):
        assert {k: v for k, v in a.items() if k not in walls} == {
            k: v for k, v in b.items() if k not in walls
        }


@pytest.mark.parametrize(
    ("options", "cpus"),
    [
        ((), 32),
        (("--machine", "haswell-2s"), 20),
        (("--cpus", "64"), 64),
        (("--machine", "haswell-2s", "--cpus", "6"), 6),
    ],
)
def test_cpus_are_the_profile_s_unless_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    cpus: int,
) -> None:
    monkeypatch.setattr(jaxmig.player, "play", lambda *args, **how: [])
    path = tmp_path / "a.toml"
    path.write_text(SCENARIO.replace("cpus = 4\n", ""))
    assert cli.main(["run", str(path), *options, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"]["cpus"] == cpus


def test_records_have_the_fields_of_the_contract(played: list[dict[str, Any]]) -> None:
    names = ["kernel", "policy", "syscall", "ret", "errno", "vmstat", "ipis_per_cpu"]
    names += ["batches", "allocs", "copies_wasted", "nodes_after", "time_ns", "wall_s"]
    for r in played[0]["calls"]:
        assert set(names) | ({"status"} & set(r)) == set(r) - EXTRA
        assert ("status" in r) == (r["syscall"] == "move_pages")
        assert r["policy"] == {"6.2": "serial", "6.3": "batched"}[r["kernel"]]
        assert r["errno"] is None or (r["ret"], r["errno"][0]) == (-1, "E")
        assert tuple(r["vmstat"]) == VMSTAT
        assert len(r["ipis_per_cpu"]) == 4
        received = r["vmstat"]["nr_tlb_remote_flush_received"]
        assert sum(r["ipis_per_cpu"]) == received
        assert set(r["nodes_after"]) == {"0", "1"}
        times = dict(r["time_ns"])
        assert set(times) == {
            "total", "alloc", "unmap", "flush", "copy", "remap", "other"
        }  # fmt: skip
        assert all(type(ns) is int for ns in times.values())
        low, high = r["time_ns_range"]
        assert low <= times["total"] <= high
        assert times.pop("total") == sum(times.values())
        whole = [r["ret"], r["batches"], r["allocs"], *r["vmstat"].values()]
        assert {type(n) for n in whole + r["ipis_per_cpu"]} == {int}
        assert r["policy"] == "batched" or r["batches"] == 0
        assert type(r["wall_s"]) is float
    moved, _, pages, _, _ = played[0]["calls"][5:]
    assert moved["nodes_after"] == {"0": 0, "1": 100}
    assert pages["status"][:2] == [0, 0]
    assert pages["status"][2] < 0


def test_csv_is_the_records_flattened_with_dots(played: list[dict[str, Any]]) -> None:
    calls = played[0]["calls"]
    text = report.to_csv(calls)
    assert "vmstat.pgmigrate_success" in text.splitlines()[0].split(",")
    assert report.from_csv(text) == calls
    assert report.to_csv([]) == ""


def shell(command: str, **env: str) -> subprocess.CompletedProcess[str]:
    run = f"exec {sys.executable} -m jaxmig {command}"
    return subprocess.run(
        ["bash", "-c", run], cwd=ROOT, env=os.environ | env, text=True,
        capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    done = shell("machines > /dev/full")
    assert done.returncode == 1
    line = "jaxmig machines: standard output: No space left on device; "
    assert done.stderr == line + "choose another place\n"


def test_closed_streams_are_nobody_s_business() -> None:
    done = shell("machines >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_letters_that_a_stream_lacks_are_escaped() -> None:
    done = shell("migratepages $'\\xff.npz' 0 1", PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stderr.startswith("jaxmig migratepages: \\xff.npz: no such file")
    assert shell("machines xeon-8s", PYTHONIOENCODING="ascii").returncode == 0


def test_bash_completes_commands_options_and_choices() -> None:
    script = shell("--print-completion bash").stdout
    for words, expected in (
        (["jaxmig", "mig"], {"migratepages", "migspeed"}),
        (["jaxmig", "run", "--tr"], {"--trace", "--tracefs"}),
        (["jaxmig", "migratepages", "1", "0", "1", "--table", "gr"], {"grid"}),
    ):
        ask = f"""
        source /dev/stdin <<'END'\n{script}\nEND
        COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; COMPREPLY=()
        $(complete -p jaxmig | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        done = subprocess.run(
            ["bash", "-c", ask], capture_output=True, text=True, check=False
        )
        assert set(done.stdout.split()) >= expected, (words, done.stderr)
    assert completion.SHELLS == ("bash", "zsh", "fish")


def test_zsh_takes_the_script_as_it_is() -> None:
    script = shell("--print-completion zsh").stdout
    assert "{-?," not in script
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh")
    ask = f"""
    autoload -U compinit; compinit -u -D
    eval "$(cat <<'END'\n{script}\nEND
    )"
    print -r -- $_comps[jaxmig]
    """
    done = subprocess.run([zsh, "-f", "-c", ask], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("_shtab_jaxmig", "")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_show_the_time_left_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bars, "REDRAWN_S", 0.02)
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with bars.progress(2, "job") as tick:
            # Nobody ticks, and yet the bar is drawn.
            drawn = not shown or until(lambda s=stream: s.getvalue().count("\r") > 1)
            tick("first", 1, 2)
            drawn &= not shown or until(lambda s=stream: "25 %" in s.getvalue())
        text = stream.getvalue()
        assert drawn
        assert bool(text) == shown
        assert ("job: first:  25 %" in text) == shown
        assert (" left" in text) == shown


def test_a_bar_says_that_a_program_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bars, "REDRAWN_S", 0.02)
    monkeypatch.setattr(bars, "COMPILING_S", 0.0)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with bars.progress(2, "job"):
        with busy.compiling():
            assert until(lambda: "compiling" in stream.getvalue())
        assert busy.compiling_s() == 0
    assert xla.Program(lambda x: busy.compiling_s() + 0 * x)(np.zeros(3))[0] > 0


def test_tables_fit_the_terminal_and_bold_follows_no_color() -> None:
    stream = Terminal()
    assert report.wants_color(stream, {})
    assert not report.wants_color(stream, {"NO_COLOR": "1"})
    assert not report.wants_color(io.StringIO(), {})
    heads = ["", *(f"column {i}" for i in range(9))]
    for width in (60, 80, 120, 200):
        text = report.table(heads, [["row", *"123456789"]], "grid", width)
        assert max(map(len, text.splitlines())) <= width
        assert all(f"column {i}" in text for i in range(9))


def test_python_has_everything_that_commands_do() -> None:
    """One name of each line of the table in the package's docstring."""
    for names in (
        "targets.resolve job.run scenario.load player.play snapshot.take sweep.play",
        "snapshot.take_all snapshot.load sweep.Sweep advise.advise calibrate.fit",
        "calibrate.from_perf calibrate.from_vmstat calibrate.measure reproduce.rows",
        "workloads.pmbench.run workloads.memhog.run workloads.migspeed.call_ns",
        "explain.explain machines.names machines.load report.document report.to_csv",
        "plots.migration plots.sweep plots.save report.perfetto.trace",
        "report.tracefs.text report.folded.folded syscalls.move_pages callers.call",
    ):
        for dotted in names.split():
            found: Any = jaxmig
            for name in dotted.split("."):
                found = getattr(found, name)
            assert callable(found), dotted
    assert set(jaxmig.__all__) <= set(dir(jaxmig))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = jaxmig.nonsense


def test_import_brings_no_more_than_the_engine() -> None:
    code = (
        "import jax, sys; before = set(sys.modules); import jaxmig;"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before};"
        "late = [m for m in ('tools', 'cli', 'show') if f'jaxmig.{m}' in sys.modules];"
        "print(sorted(new & {'matplotlib', 'tqdm', 'tabulate', 'pyarrow'}), late);"
        "jaxmig.sweep.play"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr


def test_one_job_is_what_migratepages_does(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["migratepages", "memhog:1m", "0", "1", "--cpus", "4", "--json", "-"]
    assert cli.main([*args, "--running", "1-3", "--kernel", "6.3"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["calls"]
    (outcome,) = jaxmig.job.run(
        jaxmig.targets.resolve("memhog:1m"),
        jaxmig.targets.Setting(cpus=4, running=(1, 2, 3)),
        jaxmig.machines.load("xeon-2s"),
        ["6.3"],
        jaxmig.job.Call(frozenset({0}), frozenset({1})),
    )
    walls = ("wall_s", "compile_s")
    assert {k: v for k, v in outcome.record.items() if k not in walls} == {
        k: v for k, v in told.items() if k not in walls
    }


BENCH = """
import sys
sys.path.insert(0, "bench")
import throughput
sys.argv = ["throughput.py", *"--pages 300 --cpus 4 --repeat 2 --json".split()]
sys.argv += "--content 4096 --kernel 6.2 --order sequential".split()
assert throughput.main() == 0
throughput.wrong = lambda *args: "a page holds something else"
sys.exit(throughput.main())
"""


@pytest.mark.slow
def test_the_benchmark_prints_one_line_and_fails_on_a_mismatch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BENCH], cwd=ROOT, capture_output=True, text=True,
        timeout=LIMIT_S, check=False,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    made = json.loads(line)
    keys = ["pages", "content_bytes", "kernel", "cpus", "wall_s", "wall_min_s"]
    keys += ["pages_per_s", "gib_per_s", "first_call_s", "peak_rss_bytes"]
    assert list(made)[: len(keys)] == keys
    asked = {"pages": 300, "content_bytes": 4096, "kernel": "6.2", "cpus": 4}
    assert made.items() >= asked.items()
    assert 0 < made["wall_min_s"] <= made["wall_s"] <= made["first_call_s"]
    assert made["pages_per_s"] == 300 / made["wall_s"]
    assert done.returncode == 1
    assert done.stderr.endswith("throughput: a page holds something else\n")
