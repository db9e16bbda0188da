"""Signals at random moments: no draft is left, and a sweep goes on byte for byte."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jaxmig import files

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
TIMES = 20
SWEEP = "sweep memhog:1m 0 1 --batch 1:64:2x --cpus 2:16:2x -o x.csv --resume"
COMMANDS = {
    "migratepages": "migratepages memhog:4m 0 1 --json x.json --trace x.trace --plot x.svg",
    "snapshot": f"snapshot {os.getpid()} -o x.npz",
    "sweep": SWEEP,
    "replay": "replay ../trace.csv -o x.npz",
    "report": "migratepages memhog:64k 0 1 --csv x.csv --folded x.folded",
}


def run(words: str, folder: Path) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(REPO), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxmig", *words.split()]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, cwd=folder, stdout=quiet, stderr=quiet)


def drafts(folder: Path) -> list[str]:
    return [p.name for p in folder.glob(".jaxmig-*")]


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("number", SIGNALS)
def test_no_draft_is_left(tmp_path: Path, name: str, number: int) -> None:
    lines = "".join(f"{4096 * i}\n" for i in range(300_000))
    (tmp_path / "trace.csv").write_text("address\n" + lines)
    folder = tmp_path / "out"
    folder.mkdir()
    for _ in range(2):  # the second time nothing is compiled
        (folder / "x.csv").unlink(missing_ok=True)
        start = time.monotonic()
        assert run(COMMANDS[name], folder).wait() == 0
        took = time.monotonic() - start
    whole = (folder / "x.csv").read_bytes() if name == "sweep" else b""
    hit, r = 0, random.Random(f"{name} {number}")
    for _ in range(TIMES):
        if name != "sweep":
            for path in folder.iterdir():
                path.unlink()
        elif whole:
            (folder / "x.csv").unlink(missing_ok=True)
        process = run(COMMANDS[name], folder)
        time.sleep(r.uniform(0.3, 1.0) * took)
        process.send_signal(number)
        hit += process.wait() not in (0, 1)
        if number == signal.SIGKILL:
            files.swept(folder)  # as every command does at its start
        assert drafts(folder) == []
        if name == "sweep":
            assert whole.startswith(
                (folder / "x.csv").read_bytes().rpartition(b"\n")[0]
            )
    assert hit > TIMES // 4
    if name == "sweep":
        assert run(SWEEP, folder).wait() == 0
        assert (folder / "x.csv").read_bytes() == whole
