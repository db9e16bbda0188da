"""Directories that look like /proc, made of saved or invented words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SLEEP = Path(__file__).parent / "data/procfs/sleep"
SLEEP_PID = 4242
SLEEP_RSS = 391  # pages, of its smaps_rollup
STAT = "{pid} ({comm}) S 1 1 1 0 -1 {flags}" + " 0" * 29 + " {cpu} 0 0\n"
PRESENT, SWAPPED, FILE, EXCLUSIVE = 1 << 63, 1 << 62, 1 << 61, 1 << 56
# Bits of kpageflags that ordinary pages carry.
ANON = 1 << 3 | 1 << 5 | 1 << 12 | 1 << 14  # uptodate, lru, anon, swapbacked
CACHE = 1 << 3 | 1 << 5  # uptodate, lru
HEAD, TAIL, ZERO, HUGETLB = 1 << 15, 1 << 16, 1 << 24, 1 << 17


def write_words(path: Path, index: np.ndarray, value: np.ndarray) -> None:
    """A sparse file of 64-bit words, value[i] at word index[i]."""
    with path.open("wb") as file:
        for at, word in zip(index.tolist(), value.tolist(), strict=True):
            file.seek(at * 8)
            file.write(int(word).to_bytes(8, "little"))


def write_process(root: Path, pid: int, comm: str = "x", cpu: int = 0) -> Path:
    """PID's directory with stat and one thread."""
    proc = root / str(pid)
    (proc / "task" / str(pid)).mkdir(parents=True)
    text = STAT.format(pid=pid, comm=comm, flags=0, cpu=cpu)
    (proc / "stat").write_text(text)
    (proc / "task" / str(pid) / "stat").write_text(text)
    return proc


def sleep_root(root: Path) -> Path:
    """The recorded /bin/sleep as PID 4242 below `root`."""
    proc = root / str(SLEEP_PID)
    task = proc / "task" / str(SLEEP_PID)
    task.mkdir(parents=True)
    for name in ("maps", "smaps", "smaps_rollup", "numa_maps", "statm", "stat"):
        (proc / name).write_bytes((SLEEP / name).read_bytes())
    (task / "stat").write_bytes((SLEEP / "stat").read_bytes())
    with np.load(SLEEP / "words.npz") as words:
        write_words(proc / "pagemap", words["vpn"], words["word"])
        write_words(root / "kpageflags", words["pfn"], words["kpageflags"])
        write_words(root / "kpagecount", words["pfn"], words["kpagecount"])
    return root


@dataclass
class Area:
    """An invented area; `words` maps a page of it to its pagemap word."""

    start: int  # page
    pages: int
    words: Mapping[int, int] = field(default_factory=dict)
    perms: str = "rw-p"
    path: str = ""
    inode: int = 0
    vm_flags: str = "rd wr mr mw me ac"
    numa: str = "default"
    counts: Mapping[str, int] = field(default_factory=dict)  # smaps, in pages

    def header(self) -> str:
        start, end = self.start << 12, (self.start + self.pages) << 12
        return f"{start:x}-{end:x} {self.perms} 0 08:01 {self.inode} {self.path}\n"

    def details(self) -> str:
        rows = "".join(f"{key}: {n * 4} kB\n" for key, n in self.counts.items())
        page = 2048 if "ht" in self.vm_flags.split() else 4
        rows += f"KernelPageSize: {page} kB\n"
        return rows + f"VmFlags: {self.vm_flags}\n"


def invent(
    root: Path,
    pid: int,
    areas: list[Area],
    kpageflags: Mapping[int, int] | None = None,
    rss: int | None = None,
) -> Path:
    """A process of invented areas; kpageflags for all processes of `root`."""
    proc = write_process(root, pid)
    (proc / "maps").write_text("".join(a.header() for a in areas))
    (proc / "smaps").write_text("".join(a.header() + a.details() for a in areas))
    lines = "".join(f"{a.start << 12:x} {a.numa}\n" for a in areas)
    (proc / "numa_maps").write_text(lines)
    if rss is not None:
        (proc / "smaps_rollup").write_text(f"x [rollup]\nRss: {rss * 4} kB\n")
    words = {a.start + i: w for a in areas for i, w in a.words.items()}
    index = np.array(sorted(words), np.int64)
    value = np.array([words[i] for i in sorted(words)], np.uint64)
    write_words(proc / "pagemap", index, value)
    if kpageflags is not None:
        pfns = np.array(sorted(kpageflags), np.int64)
        flags = np.array([kpageflags[i] for i in sorted(kpageflags)], np.uint64)
        write_words(root / "kpageflags", pfns, flags)
        write_words(root / "kpagecount", pfns, np.ones(len(pfns), np.uint64))
    return root
