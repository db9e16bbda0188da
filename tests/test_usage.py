"""Wrong usage: one line that names the command and what was meant; completion; manual."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from jaxmig import cli
from jaxmig.cli import app, completion, manpage
from jaxmig.host.naming import pids_named
from jaxmig.sources import targets

PARSERS = app.parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
SMALL = ("migratepages", "memhog:1m", "0", "1")


def told(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """The code and the one line on stderr."""
    code = cli.main(args)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return code, err


def options(command: str) -> list[str]:
    known = PARSERS[command]._option_string_actions
    return [o for o in known if o.startswith("--") and len(o) > 5]


@pytest.mark.parametrize("command", PARSERS)
def test_a_slip_in_any_option_names_the_command_and_the_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where arguments are missing: those are not what is wrong."""
    for option in options(command):
        slip = f"{option[:3]}{option[4:]}x=1"
        code, line = told(capsys, command, slip)
        assert code == 2
        assert line.startswith(
            f"jaxmig {command}: {slip[:-2]}: no such option; did you"
        )
        assert f"see `jaxmig {command} --help`" in line
    assert len(options(command)) > 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("migratpages", "x"), 2, "did you mean migratepages?"),
        ((*SMALL, "--mode", "snyc"), 2, "did you mean sync?"),
        ((*SMALL, "--machine", "xeon2s"), 2, "did you mean xeon-2s?"),
        ((*SMALL, "2"), 2, "jaxmig migratepages: '2': one argument too many"),
        ((*SMALL, "-x"), 2, "jaxmig migratepages: '-x': one argument too many"),
        (("migratepages", "memhog:64t", "0", "1"), 2, "at most 8192g"),
        (("migratepages", "memhog:8193g", "0", "1"), 2, "at most 8192g"),
        (("migratepages", "none.npz", "0", "1"), 1, "none.npz: no such file; take"),
        (("migratepages", "trace:none", "0", "1"), 1, "none: No such file"),
        (("run", "none.toml"), 1, "run: none.toml: No such file or directory; give"),
        (("replay", "none"), 1, "replay: none: No such file"),
        (("run", "empty"), 1, "empty: the file is empty; add"),
        (("migratepages", "empty", "0", "1"), 1, "empty: the file is empty; take"),
        (("migratepages", "trace:empty", "0", "1"), 1, "empty: the file is empty"),
        (("replay", "empty"), 1, "empty: the file is empty; record"),
        (("replay", "empty", "--format", "csv"), 1, "empty: the file is empty"),
        (
            ("calibrate", "empty", "--pages", "1", "--elapsed", "1s"),
            1,
            "the file is empty",
        ),
        (("replay", "code.txt"), 1, "`perf record -d` and print addr: perf script -F"),
        (
            ("replay", "bare.txt"),
            1,
            "1 events without an address; record with perf mem",
        ),
    ],
)
def test_what_is_not_there_or_not_meant_is_said_with_a_remedy(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    sample = "app 12/12 [001] 1.000000: 1 cycles: 401000 main+0x10 (/bin/app)\n"
    (tmp_path / "code.txt").write_text(sample)
    (tmp_path / "bare.txt").write_text("app 12/12 [001] 1.000000: cycles: \n")
    got, line = told(capsys, *args)
    assert (got, words in line) == (code, True), line


def advised(line: str) -> set[str]:
    """The options that a line names as the command's own, outside of whole commands."""
    return set(re.findall(r"--[a-z][a-z-]+", re.sub("`[^`]*`", "", line)))


@pytest.mark.parametrize(
    ("args", "code", "remedy"),
    [
        ((*SMALL[:3], "7"), 2, "give --nodes 8 or another node"),
        (("advise", "memhog:1m", "0", "7", "--p99", "1us"), 2, "give --nodes 8 or"),
        (("sweep", "memhog:1m", "0", "7"), 2, "nodes 0-1; name another"),
        (("sweep", "memhog:1m", "7", "0"), 2, "nodes 0-1; name another"),
        (("memhog", "4m", "membind", "7"), 1, "nodes 0-1; name another"),
        (("memhog", "4m", "interleave", "0,2"), 1, "nodes 0-1; name another"),
        (("migratepages", "trace:odd", "0", "1"), 1, "`jaxmig replay --format`"),
        (("pmbench", "1", "--trace", "odd"), 1, "`jaxmig replay --format`"),
        (("replay", "odd"), 1, "`jaxmig replay --format`"),
    ],
)
def test_a_remedy_is_one_that_the_command_has(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    code: int,
    remedy: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").write_text("hello\nworld\n")
    got, line = told(capsys, *args)
    assert (got, remedy in line) == (code, True), line
    assert advised(line) <= set(options(args[0]))


ENGINE_USERS = {
    "migratepages": SMALL[1:],
    "sweep": ("memhog:1m",),
    "run": ("none.toml",),
    "replay": ("none",),
    "memhog": ("4m",),
    "pmbench": ("1",),
}


def test_a_copy_engine_of_no_kind_is_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert [c for c in PARSERS if "--copy" in options(c)] == sorted(
        ENGINE_USERS, key=list(PARSERS).index
    )
    for command, more in ENGINE_USERS.items():
        for engine in ("foo", "dma:0", "dma", "cpu:2", "threads:x", ""):
            code, line = told(capsys, command, *more, "--copy", engine)
            assert code == 2
            assert f"--copy: {engine!r}: use cpu, threads:N or dma:N" in line
    code, line = told(capsys, "sweep", "memhog:1m", "--copy", "cpu,dma:4,foo")
    assert (code, "--copy: 'foo'" in line) == (2, True)


def test_the_name_of_a_process_suggests_its_pids(tmp_path: Path) -> None:
    for pid, name in ((7, "redis-server"), (9, "redis-server"), (10, "redis")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    (tmp_path / "11").mkdir()  # ended meanwhile
    assert pids_named("redis-server", tmp_path) == [7, 9]
    assert pids_named("none", tmp_path) == []
    assert pids_named("none", tmp_path / "none") == []
    long = tmp_path / "12"
    long.mkdir()
    (long / "comm").write_text("a-name-of-more-\n")
    assert pids_named("a-name-of-more-than-15", tmp_path) == [12]
    mine = Path("/proc/self/comm")
    if mine.exists():
        before, name = mine.read_text(), f"one-of-{os.getpid()}"
        # A name that no other program here has, which the message might list instead.
        mine.write_text(name)
        try:
            with pytest.raises(
                targets.TargetError, match=f"give its PID.*{os.getpid()}"
            ):
                targets.resolve(name)
        finally:
            mine.write_text(before)


def test_shells_complete_values() -> None:
    for option, value in (
        ("--kernel", "6.18"),
        ("--machine", "xeon-2s"),
        ("--copy", "dma"),
        ("--mode", "sync_light"),
        ("--caller", "compaction"),
    ):
        for shell in completion.SHELLS:
            text = completion.script(app.parser(), shell)
            about = option[2:] if shell != "bash" else f"_{option[2:]}_choices"
            lines = [x for x in text.splitlines() if about in x and value in x]
            assert lines, (option, shell)
    # A shell's choices bind nobody else.
    assert app.parser().parse_args([*SMALL, "--copy", "dma:2"]).copy == "dma:2"


def test_the_manual_has_every_command_and_option() -> None:
    page = "\n".join(manpage.page(app.parser()))
    for command, parser in PARSERS.items():
        head = f'.SH "JAXMIG {command.upper()}"'
        part = page.split(head)[1].split("\n.SH ")[0].replace(r"\-", "-")
        for option in parser._option_string_actions:
            assert option in part, (command, option)
        assert parser.example.splitlines()[0].strip().split("\\")[0] in part
    assert not [x for x in page.splitlines() if x.startswith("'")]
    man = shutil.which("man")
    if man:
        done = subprocess.run(
            [man, "--warnings", "-l", "-"], input=page, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
