"""Files that are read whole, and files that appear whole or not at all."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest
from jaxmig import cli
from jaxmig.cli import output, runtime
from jaxmig.cli.errors import say
from jaxmig.host import files
from jaxmig.host.refused import Refused
from jaxmig.host.terminal import LONGEST, message, printable
from jaxmig.programs.traces import Reading, TraceError
from jaxmig.show.plots import style
from jaxmig.show.plots.style import PlotError
from jaxmig.sources import scenario, snapshot
from jaxmig.time import machines
from jaxmig.time.machines import ProfileError
from processes import LIMIT_S

REPO = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert list(tmp_path.rglob(".jaxmig-*")) == []
    assert files._DRAFTS == {}


def put(path: Path, data: bytes = b"new") -> None:
    with files.written(path) as file:
        file.write(data)


def refused(path: Path, words: str) -> None:
    with pytest.raises(files.FileError, match=words) as caught:
        put(path)
    assert "\n" not in str(caught.value)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    put(path, b"old")
    path.chmod(0o640)

    def half() -> None:
        with files.written(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"old"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert path.read_bytes() == b"old"
    put(path)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_modes_of_new_files(tmp_path: Path) -> None:
    """The umask decides; what is private is, even if it was not before."""
    old = os.umask(0o027)
    try:
        put(tmp_path / "x")
        put(tmp_path / "y")
        (tmp_path / "y").chmod(0o666)
        with files.written(tmp_path / "y", private=True) as file:
            file.write(b"pfns")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "y").stat().st_mode) == 0o600


def test_links_are_never_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for target in (victim, tmp_path / "nowhere"):
        link = tmp_path / "out"
        link.symlink_to(target)
        refused(link, "is a link to .*; name the file itself")
        link.unlink()
    # Planted under any name that a draft ever had.
    for name in (f".out.{os.getpid()}", ".jaxmig-aaaaaaaaaaaa-1.draft"):
        (tmp_path / name).symlink_to(victim)
    put(tmp_path / "out")
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "out").read_bytes() == b"new"
    (tmp_path / ".jaxmig-aaaaaaaaaaaa-1.draft").unlink()


def test_a_link_in_the_middle_of_the_work(tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_bytes(b"precious")

    def planted() -> None:
        with files.written(out) as file:
            file.write(b"new")
            out.symlink_to(victim)

    with pytest.raises(files.FileError, match="is a link"):
        planted()
    assert victim.read_bytes() == b"precious"


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    refused(tmp_path, "is a directory; name a file in it")
    refused(tmp_path / "no" / "x", "no such directory .*; create it first")
    refused(tmp_path / ("x" * 300), "File name too long|cannot be written")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_other_users_files_and_folders(tmp_path: Path) -> None:
    """A file that is not ours stays, even where its folder is everybody's."""
    tmp_path.chmod(0o777)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(parent.stat().st_mode | 0o055)
    (tmp_path / "theirs").write_bytes(b"old")
    (tmp_path / "closed").mkdir(mode=0o755)
    denied = "cannot be written: permission denied; choose another file"
    os.seteuid(65534)
    try:
        for name in ("theirs", "closed/x"):
            refused(tmp_path / name, denied)
        put(tmp_path / "ours")
    finally:
        os.seteuid(0)
    assert (tmp_path / "theirs").read_bytes() == b"old"


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        files.FileError, match="No space left on device; choose another"
    ):
        put(Path("/dev/full"), b"x" * 100_000)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "fsync", full)
    refused(tmp_path / "x", "cannot be written: No space left on device")
    assert (tmp_path / "x").read_bytes() == b"old"


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: writes end in their middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def drawn(path: Path) -> None:
    made = pytest.importorskip("matplotlib.figure").Figure()
    style.save(made, str(path))


TAKEN = snapshot.load(REPO / "tests/data/procfs/snapshot-v1.npz")
WRITERS: dict[str, Callable[[Path], None]] = {
    "x": lambda path: put(path, b"x" * 100_000),
    "x.json": lambda path: output.write(str(path), "x" * 100_000),
    "x.npz": TAKEN.save,
    "x.svg": drawn,
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_room_in_the_middle_of_a_file(tmp_path: Path, name: str) -> None:
    """Of every kind: the old one stays, and the line says what to do."""
    path = tmp_path / name
    path.write_bytes(b"old")
    with room(1000), pytest.raises(Exception, match="File too large; choose") as told:
        WRITERS[name](path)
    assert isinstance(told.value, (Refused, files.FileError, PlotError))
    assert "\n" not in str(told.value)
    assert path.read_bytes() == b"old"
    WRITERS[name](path)
    assert path.read_bytes() != b"old"


def test_pipes_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    put(Path("/dev/null"))
    (tmp_path / "null").symlink_to("/dev/null")
    put(tmp_path / "null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_the_second_writer_is_told(tmp_path: Path) -> None:
    """Whatever the format: the draft of the first is locked."""
    path, started = tmp_path / "x", tmp_path / "started"
    code = (
        "import sys, time\nfrom jaxmig.host import files\n"
        f"files.claim({str(path)!r})\nopen({str(started)!r}, 'w').close()\n"
        "sys.stdin.read()\n"
    )
    env = os.environ | {"PYTHONPATH": str(REPO)}
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, env=env
    )
    try:
        while not started.exists():
            time.sleep(0.01)
            assert first.poll() is None
        refused(path, "another process writes it; wait, or choose another file")
        put(tmp_path / "y")  # another file in the same folder is nobody's
        left = [p.name for p in tmp_path.glob(".jaxmig-*")]
        assert len(left) == 1
    finally:
        first.kill()
        first.communicate()
    # Killed, it could not clean up; the next start does.
    assert [p.name for p in tmp_path.glob(".jaxmig-*")] == left
    put(tmp_path / "z")
    assert list(tmp_path.glob(".jaxmig-*")) == []


def test_only_our_own_drafts_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / f"{files.PREFIX}b{files.SUFFIX}"
    folder.mkdir()
    (tmp_path / ".jaxmig-other").touch()
    put(tmp_path / "x")
    assert folder.is_dir()
    folder.rmdir()
    (tmp_path / ".jaxmig-other").unlink()


def test_one_file_for_two_outputs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "folder"
    other.symlink_to(tmp_path)
    for twin in (tmp_path / "x", other / "x", tmp_path / "." / "x"):
        words = ["--json", str(tmp_path / "x"), "--csv", str(twin)]
        assert cli.main(["migratepages", "memhog:4k", "0", "1", *words]) == 1
        assert "is named for two outputs" in capsys.readouterr().err
    (tmp_path / "x").touch()
    os.link(tmp_path / "x", tmp_path / "hard")
    words = ["--json", str(tmp_path / "x"), "--tracefs", str(tmp_path / "hard")]
    assert cli.main(["migratepages", "memhog:4k", "0", "1", *words]) == 1
    assert "is named for two outputs" in capsys.readouterr().err


SCENE = '[[process]]\nname = "a"\n[[call]]\nsyscall = "kernel"\nprocess = "a"\n'
OVER = {
    "a scenario": "run x --json x",
    "under another name": "run x --json ./x",
    "a page": "run x --report=x.html",
    "a snapshot": "migratepages x 0 1 --csv x",
    "its process": "migratepages x:12 0 1 --csv x",
    "a trace": "sweep trace:x.csv --cpus 2 -o x.csv --overwrite",
    "in place": "replay x.csv -o x.csv",
    "a profile": "migratepages memhog:4k 0 1 --machine x.toml --json x.toml",
}


@pytest.mark.parametrize("name", OVER)
def test_what_a_command_reads_it_does_not_overwrite(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for there in ("x", "x.csv"):
        (tmp_path / there).write_text(SCENE)
    os.link("x", "x.html")
    os.link("x", "x.toml")
    assert cli.main(OVER[name].split()) == 1
    assert "is read by the same command; choose another" in capsys.readouterr().err
    assert (tmp_path / "x").read_text() == (tmp_path / "x.csv").read_text() == SCENE
    put(tmp_path / "x")  # for this command alone


def test_names_that_are_no_files(tmp_path: Path) -> None:
    for odd in (f"{tmp_path}/x/", f"{tmp_path}/a\0b"):
        with pytest.raises(files.FileError, match="is no name of a file"):
            files.claim(odd)


ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(("number", "code"), ENDS)
def test_a_signal_leaves_no_draft(tmp_path: Path, number: int, code: int) -> None:
    """The draft is there from the start on; the command waits for its input."""
    trace, out = tmp_path / "trace", tmp_path / "x.npz"
    os.mkfifo(trace)
    words = ["replay", str(trace), "-o", str(out)]
    env = os.environ | {"PYTHONPATH": str(REPO), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxmig", *words]
    run = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        while not list(tmp_path.glob(".jaxmig-*")):
            time.sleep(0.01)
            assert run.poll() is None
        with trace.open("wb") as file:  # it reads, and will not see an end
            run.send_signal(number)
            said = run.communicate(timeout=LIMIT_S)[1]
            file.close()
    finally:
        run.kill()
        run.wait()
    assert run.returncode == code
    assert len(said.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["trace"]


def test_a_cache_that_others_may_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever writes there would say what this process runs."""
    said: dict[str, object] = {}
    monkeypatch.setattr(jax.config, "update", said.__setitem__)
    monkeypatch.setattr(runtime.xla, "compile_loops_whole", lambda: None)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("JAXMIG_NO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = runtime.cache_directory()
    old = os.umask(0o002)  # of a group of one's own, as many distributions have it
    runtime.prepare()
    os.umask(old)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert said["jax_compilation_cache_dir"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    assert capsys.readouterr().err == ""
    tmp_path.chmod(0o777)
    runtime.prepare()
    assert said["jax_compilation_cache_dir"] is None
    assert f"others may replace it; chmod o-w {tmp_path}" in capsys.readouterr().err
    tmp_path.chmod(0o1777)  # as /tmp is
    runtime.prepare()
    assert said["jax_compilation_cache_dir"] == str(folder)
    for place in (folder, folder.parent):
        for mode, back in ((0o777, 0o700), (0o720, 0o700)):
            place.chmod(mode)
            runtime.prepare()
            assert said["jax_compilation_cache_dir"] is None
            words = "compiled programs are not kept: others may write there; chmod go-w"
            assert capsys.readouterr().err == f"{folder}: {words}\n"
            place.chmod(back)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    runtime.prepare()
    assert "are not kept: it is another user's" in capsys.readouterr().err
    folder.rmdir()
    folder.write_bytes(b"")
    runtime.prepare()
    assert "are not kept: File exists" in capsys.readouterr().err
    assert said["jax_compilation_cache_dir"] is None


# Reading.

NESTED = {"toml": "x = " + "[" * 3000, "array": "a = { b = " + "[" * 500}
DIGITS = "x = " + "9" * 5000
PROFILE = (REPO / "jaxmig/time/machines/xeon-2s.toml").read_text()
BASE = 'title = "x"\nbase = "xeon-2s"\n'
COST = BASE + '[cost]\nalloc = { value = %s, unit = "ns", source = "x" }\n'
PROFILES = {
    "deep": (NESTED["toml"], "nested too deeply"),
    "deep in a table": (NESTED["array"], "nested too deeply|not TOML"),
    "digits": (DIGITS, "a number has too many digits"),
    "1e300": (COST % "1e300", r"cost.alloc.value: 1e\+300: give at most 1,000,000,000"),
    "1e18": (COST % 10**18, "cost.alloc.value: 1e[+]18: give at most"),
    "400 digits": (COST % 10**400, "cost.alloc.value: a number of 1329 bits: give at"),
    "nan": (COST % "nan", "cost.alloc.value: nan: give a finite number"),
    "inf": (COST % "inf", "cost.alloc.value: inf: give a finite number"),
    "true": (COST % "true", "cost.alloc.value: missing or not a number"),
    "escape": (
        COST.replace('"x"', r'"\u001b[31m"') % 1,
        "has control characters",
    ),
    "key": ('"\\u001b]0;x" = 1\n', r"\\x1b\]0;x: unknown key"),
    "cpus": (PROFILE.replace("cpus = ", "cpus = 9000000000", 1), "cpus.*|not TOML"),
    "workers": (
        'title="x"\nbase="xeon-2s"\n[engine.threads.small]\nunit="GB/s"\nsource="x"\nbaseline=1\n'
        'copy_share=0.5\nrates={"²"=1}\n',
        "rates: write { 1 =",
    ),
    "UTF-16": ("x".encode("utf-16"), "text of UTF-16; save it as UTF-8"),
    "latin": (b"\nx = '\xe9'", "line 2: not UTF-8 text"),
    "empty name": ("", "title: missing|arch"),
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, words = PROFILES[name]
    path = tmp_path / "x.toml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(ProfileError, match=words) as caught:
        machines.load(path)
    assert "\n" not in str(caught.value)
    assert len(message(str(caught.value))) <= LONGEST


def test_a_byte_order_mark_is_passed_over_everywhere(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    path = tmp_path / "m.toml"
    path.write_bytes(mark + PROFILE.encode())
    assert machines.load(path).title == machines.load("xeon-2s").title
    text = '[[process]]\nname = "a"\n[[call]]\nsyscall = "kernel"\nprocess = "a"\n'
    path.write_bytes(mark + (text + 'from = "0"\nto = "1"\n').encode())
    assert scenario.load(path).processes[0].name == "a"
    path.write_bytes(mark + b"address\n4096\n")
    assert len(next(iter(Reading(str(path))))) == 1


def test_endless_files_are_refused() -> None:
    with pytest.raises(files.FileError, match="longer than 67,108,864 bytes"):
        files.text("/dev/zero")
    with pytest.raises(scenario.ScenarioError, match="longer than 64 MiB"):
        scenario.load("/dev/zero")
    with pytest.raises(TraceError, match="recognised"):
        list(Reading("/dev/zero"))
    with pytest.raises(snapshot.SnapshotError, match="not a snapshot"):
        snapshot.load("/dev/zero")
    with pytest.raises(TraceError, match="too long to be one of a trace"):
        list(Reading("/dev/zero", "perf"))


# What is shown.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain — text", "plain — text"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\tb\x7f\x9b", r"a\tb\x7f\x9b"),
        ("\u202eabc\u2028", r"\u202eabc\u2028"),
        ("\udcff", r"\xff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert message(text) == shown


def test_messages_are_one_line_of_300_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("jaxmig: " + "x\n" * 1000 + "the advice")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) == LONGEST + 1
    assert said.endswith("the advice\n")
    assert cli.main(["migratepages", "nothing\x1b[2J:\n", "0", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_locks_are_held_by_files_not_by_names(tmp_path: Path) -> None:
    files.claim(tmp_path / "x")
    (draft,) = tmp_path.glob(".jaxmig-*")
    with draft.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    files.drop()
    assert list(tmp_path.iterdir()) == []
