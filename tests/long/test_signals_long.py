"""Twenty signals at random moments of each command that writes files.

No draft is left, what was there before is whole, and the same command makes the same bytes
afterwards; a sweep goes on where it ended.
"""

import contextlib
import multiprocessing
import os
import random
import re
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from jaxmig import cli
from jaxmig.sources import snapshot

pytestmark = pytest.mark.slow

# How a command ends; before it has its handlers SIGTERM ends it itself.
ENDS = {
    signal.SIGINT: (130,),
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGKILL: (-signal.SIGKILL,),
}
WALL = re.compile(rb"\d+\.\d{9,}(e-\d+)?")
HITS, MOST = 20, 60  # signals that met a command; tries
COMMANDS = {
    "migratepages": "migratepages memhog:1m 0 1 --json x.json --trace x.trace --csv x.csv",
    "snapshot": f"snapshot {os.getpid()} -o x.npz",
    "sweep": "sweep memhog:1m 0 1 --batch 1:64:2x --cpus 2:16:2x -o x.csv --resume",
    "replay": "replay ../trace.csv -o x.npz",
    "report": "run ../scenario.toml --plot x.svg --folded x.folded --report x.html",
    "page": "migratepages memhog:1m 0 1 --report x.html --speedscope x.json",
}
SCENARIO = """
[[process]]
name = "app"
running = [1]
[[region]]
process = "app"
name = "heap"
size = "64k"
[[call]]
syscall = "kernel"
process = "app"
from = "0"
to = "1"
"""


# Forked from a process that has imported everything: most of a start is that.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["jaxmig.cli.app"])


def start(words: str, folder: Path, said: Path) -> BaseProcess:
    process = FORKS.Process(target=command, args=(words.split(), folder, said))
    process.start()
    return process


def command(words: list[str], folder: Path, said: Path) -> None:
    """`jaxmig` in its own process."""
    out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(out, stream)
    os.chdir(folder)
    sys.argv = ["jaxmig", *words]
    sys.exit(cli.main())


def ended(process: BaseProcess) -> int | None:
    """Its exit code; -N for a signal that it did not see."""
    process.join()
    return process.exitcode


def outputs(folder: Path, name: str) -> dict[str, bytes]:
    """Every file that is no draft, without how long the work took.

    Of a snapshot that it is one: its process lives.
    """
    found = {p.name: p for p in folder.iterdir() if not p.name.startswith(".jaxmig-")}
    if name == "snapshot":
        return {p.name: snapshot.load(p).processes.comm[0].encode()
                for p in found.values()}  # fmt: skip
    timed = (".json", ".csv") if name == "migratepages" else ()
    return {n: WALL.sub(b"", p.read_bytes()) if n.endswith(timed) else p.read_bytes()
            for n, p in found.items()}  # fmt: skip


def drafts(folder: Path) -> list[str]:
    return [p.name for p in folder.glob(".jaxmig-*")]


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", ENDS)
def test_no_draft_is_left(tmp_path: Path, name: str, number: signal.Signals) -> None:
    lines = "".join(f"{4096 * i}\n" for i in range(300_000))
    (tmp_path / "trace.csv").write_text("address\n" + lines)
    (tmp_path / "scenario.toml").write_text(SCENARIO)
    folder, said = tmp_path / "out", tmp_path / "said"
    folder.mkdir()
    for _ in range(2):  # the second time nothing is compiled
        (folder / "x.csv").unlink(missing_ok=True)
        began = time.monotonic()
        assert ended(start(COMMANDS[name], folder, said)) == 0
        took = time.monotonic() - began
    whole = outputs(folder, name)
    assert whole
    hits, r = 0, random.Random(f"{name} {number}")
    for _ in range(MOST):
        if name == "sweep" and outputs(folder, name) == whole:
            (folder / "x.csv").unlink()
        before = said.stat().st_size
        process = start(COMMANDS[name], folder, said)
        time.sleep(r.uniform(0.1, 0.95) * took)
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, number)
        code = ended(process)
        # A fork that has not come to the command yet: Python ends it, and nothing is said.
        early = code == 1 and number == signal.SIGINT and said.stat().st_size == before
        assert code in (0, *ENDS[number]) or early
        hits += code != 0 and not early
        # A killed one cannot clean up; the next start does.
        assert number == signal.SIGKILL or drafts(folder) == []
        there = outputs(folder, name)
        if name == "sweep":
            # Interrupted before its first row, it has no file yet; rows are whole.
            rows = there.get("x.csv", b"").rpartition(b"\n")[0]
            assert whole["x.csv"].startswith(rows)
        else:
            assert there == whole
        if hits == HITS:
            break
    assert hits == HITS
    assert ended(start(COMMANDS[name], folder, said)) == 0
    assert drafts(folder) == []
    assert outputs(folder, name) == whole
    assert b"Traceback" not in said.read_bytes()
