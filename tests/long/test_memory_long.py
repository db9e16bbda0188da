"""What lasts an hour takes the memory of its first minute: a sweep, and a replay."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
MIB = 1 << 20
# 4,096 pages, each accessed 16,000 times.
TRACE = (
    "kdamond.0 7 [000] 1.000001: damon:damon_aggregated: target_id=0 nr_regions=1 "
    f"4096-{4096 + (1 << 24)}: 16000 0\n"
)


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(REPO), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "jaxmig", *words]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(command, env=env, cwd=folder, stdout=said, stderr=said)


def resident(process: subprocess.Popen[bytes]) -> int:
    """Bytes of memory that a process has now."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) << 10


def test_a_sweep_of_many_rows(tmp_path: Path) -> None:
    """From 4,000 rows to 30,000, all of one release: rows go to the disk, none stays."""
    grid = "sweep memhog:64k 0 1 --batch 1:512:1 --cpus 2:64:1 --kernel 6.3 -o x.csv"
    process, path, seen = start(tmp_path, *grid.split()), tmp_path / "x.csv", []
    try:
        for rows in (4_000, 30_000):
            while not path.exists() or path.read_bytes().count(b"\n") <= rows:
                assert process.poll() is None, (tmp_path / "said").read_text()
                time.sleep(0.2)
            seen.append(resident(process))
    finally:
        process.kill()
        process.wait()
    assert seen[1] < seen[0] + 16 * MIB


def test_a_replay_of_many_accesses(tmp_path: Path) -> None:
    """Ten and forty million accesses to the same pages: their peaks are alike."""
    peaks = []
    for millions in (10, 40):
        (tmp_path / "t").write_text(TRACE)
        number = str(millions * 1_000_000)
        process = start(tmp_path, "replay", "t", "--accesses", number)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = (tmp_path / "said").read_text()
        assert process.returncode == 0, said
        assert f"{millions},000,000 loads" in said
        peaks.append(usage.ru_maxrss << 10)
    # The accesses alone would be 300 MB more.
    assert peaks[1] < peaks[0] + 64 * MIB
