"""Records /bin/sleep's proc files beside this script. Linux, as root.

  python tests/data/procfs/record.py

pagemap, kpageflags and kpagecount are sparse files of up to 256 GiB apparent size, so
words.npz keeps only the words that are not zero, with their index in the file.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "sleep"
PAGE = 4096
PID = 4242  # the name under which the process is kept
TEXTS = ("maps", "smaps", "smaps_rollup", "numa_maps", "statm", "stat")


def words(path: Path, first: int, count: int) -> np.ndarray:
    """Words [first, first + count) of a binary proc file."""
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), count * 8, first * 8)
    return np.frombuffer(data, "<u8")


def pagemap(proc: Path, maps: str) -> tuple[np.ndarray, np.ndarray]:
    """Index and value of pagemap's words that are not zero."""
    index, value = [], []
    for line in maps.splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if end < 1 << 63:
            area = words(proc / "pagemap", start // PAGE, (end - start) // PAGE)
            index.append(np.flatnonzero(area) + start // PAGE)
            value.append(area[np.flatnonzero(area)])
    return np.concatenate(index), np.concatenate(value)


def main() -> None:
    """Holds the process still while its files are copied."""
    HERE.mkdir(exist_ok=True)
    child = subprocess.Popen(["/bin/sleep", "60"], env={}, cwd="/")
    try:
        time.sleep(0.3)
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        proc = Path("/proc") / str(child.pid)
        for name in TEXTS:
            text = (proc / name).read_text()
            if name == "stat":
                text = text.replace(f"{child.pid} ", f"{PID} ", 1)
            (HERE / name).write_text(text)
        index, value = pagemap(proc, (HERE / "maps").read_text())
        pfns = (value & np.uint64((1 << 55) - 1)).astype(np.int64)
        blocks = np.unique(pfns[pfns > 0] // 512)[:, None] * 512 + np.arange(512)
        blocks = blocks.ravel()
        flags, counts = (
            np.concatenate(
                [words(Path("/proc") / n, int(b), 512) for b in blocks[::512]]
            )
            for n in ("kpageflags", "kpagecount")
        )
        # Neighbours matter only where they tell how large a folio is.
        keep = np.isin(blocks, pfns) | ((flags >> np.uint64(15)) & np.uint64(3) != 0)
        np.savez_compressed(
            HERE / "words.npz", vpn=index, word=value, pfn=blocks[keep],
            kpageflags=flags[keep], kpagecount=counts[keep],
        )  # fmt: skip
    finally:
        child.kill()


if __name__ == "__main__":
    main()
