"""Records the reports beside this script: Linux, as root, with perf.

  python tests/data/perf/record.py

With one memory node nothing calls migrate_pages(2) in earnest; compaction calls the same
migrate_pages(). So memory is taken, every other page of it given back, and the node
compacted, again and again; only samples below migrate_pages() are kept. Recorded with
Linux 6.18.44 on two CPUs of a virtual machine: 174,315 pages moved.
"""

import mmap
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS, SIZE, PAGE = 6, 1500 << 20, 4096
BELOW = ("--parent", "^migrate_pages$", "-x", "--percentage", "relative", "-g", "none")
REPORTS = {"flat": "--no-children", "children": "--children"}


def moved() -> int:
    """Pages that this system has migrated."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(n) for k, n in map(str.split, lines) if k == "pgmigrate_success")


def compact() -> None:
    """What is profiled."""
    before = moved()
    for _ in range(ROUNDS):
        memory = mmap.mmap(-1, SIZE)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, SIZE, PAGE):
            memory[at] = 1
        for at in range(0, SIZE, 2 * PAGE):
            memory.madvise(mmap.MADV_DONTNEED, at, PAGE)
        Path("/proc/sys/vm/compact_memory").write_text("1")
        memory.close()
    print(moved() - before, "pages moved")


def main() -> None:
    """Record, then write both reports."""
    data = str(HERE / "perf.data")
    again = (sys.executable, __file__, "compact")
    record = ("perf", "record", "-q", "-g", "-e", "cpu-clock", "-F", "8000", "-o", data)
    subprocess.run([*record, "--", *again], check=True)
    for name, how in REPORTS.items():
        report = ("perf", "report", "--stdio", "-i", data, how, *BELOW)
        text = subprocess.run(report, check=True, capture_output=True, text=True).stdout
        lines = [line.rstrip() for line in text.rstrip().splitlines()]
        (HERE / f"{name}.txt").write_text("\n".join(lines) + "\n")
    Path(data).unlink()


if __name__ == "__main__":
    compact() if sys.argv[1:] else main()
