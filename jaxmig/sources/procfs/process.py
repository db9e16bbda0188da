"""Names, threads and page counts of a process, from /proc/PID.

Source: do_task_stat() and proc_pid_statm() in fs/proc/array.c, Linux 6.1.
"""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from jaxmig.sources.procfs.columns import I32, I64, ArrayTable
from jaxmig.sources.procfs.errors import (
    ELSEWHERE,
    KernelThread,
    NotLinux,
    ProcError,
    ProcessVanished,
    process_dir,
    read_text,
)

PF_KTHREAD = 0x00200000  # include/linux/sched.h, field 9 of stat
FLAGS, STATE, PROCESSOR = 9, 3, 39  # fields of stat, counted from 1
STATM = ("size", "resident", "shared", "text", "lib", "data", "dt")  # pages


@dataclasses.dataclass(frozen=True, eq=False)
class Processes(ArrayTable):
    """A row for each process; `thread_*` have a row for each thread."""

    pid: I32
    rss: I64  # pages, smaps_rollup; -1 if not readable
    statm: I64  # [processes, 7] pages, in the order of STATM; -1 if not readable
    thread_process: I32  # row of this table
    tid: I32
    thread_cpu: I32  # the CPU it ran on last
    comm: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pid)

    def running(self, process: int = 0) -> list[int]:
        """CPUs on which the threads of a process last ran, ascending."""
        mine = self.thread_cpu[self.thread_process == process]
        return sorted(set(mine.tolist()))


@dataclasses.dataclass(frozen=True)
class RawProcess:
    """One process as read, before it becomes a row."""

    pid: int
    comm: str
    rss: int
    statm: tuple[int, ...]
    threads: tuple[tuple[int, int], ...]  # (tid, cpu)


def stat_fields(text: str) -> list[str]:
    """Fields of a stat line with field 1 at index 1.

    The name in brackets may contain blanks and brackets: the last bracket ends it.
    """
    head, _, tail = text.rpartition(")")
    number, _, name = head.partition("(")
    return ["", number.strip(), name, *tail.split()]


def list_pids(root: str | Path = "/proc") -> list[int]:
    """PIDs of all processes, ascending. Raises NotLinux without a proc directory."""
    try:
        names = os.listdir(root)
    except OSError as error:
        raise NotLinux(f"{root}: {ELSEWHERE}") from error
    return sorted(int(name) for name in names if name.isdigit())


def require_user_process(pid: int, root: str | Path = "/proc") -> Path:
    """Directory of a process that has an address space.

    Raises:
      NoSuchProcess: the PID is unknown.
      KernelThread: it has no address space.
      ProcessVanished: it is a zombie.
    """
    path = process_dir(pid, root)
    fields = stat_fields(read_text(path / "stat"))
    if len(fields) <= FLAGS or not _is_count(fields[FLAGS]):
        raise ProcError(f"{path / 'stat'}: not a stat line")
    if int(fields[FLAGS]) & PF_KTHREAD:
        raise KernelThread(
            f"PID {pid} ({fields[2]}): a kernel thread has no pages of its own"
        )
    if fields[STATE] in "ZX":
        raise ProcessVanished(f"PID {pid} ({fields[2]}): the process has ended already")
    return path


def read_process(path: Path, pid: int, base_page: int) -> RawProcess:
    """Name, counts and threads. Raises ProcessVanished; other gaps become -1."""
    comm = stat_fields(read_text(path / "stat"))[2]
    threads = []
    for tid in list_pids(path / "task"):
        try:
            fields = stat_fields(read_text(path / "task" / str(tid) / "stat"))
        except ProcError:
            continue  # threads come and go
        if len(fields) > PROCESSOR and _is_count(fields[PROCESSOR], 9):
            threads.append((tid, int(fields[PROCESSOR])))
    rss = _rollup_rss(path, base_page)
    return RawProcess(pid, comm, rss, _statm(path), tuple(threads))


def _rollup_rss(path: Path, base_page: int) -> int:
    try:
        text = read_text(path / "smaps_rollup")
    except ProcError:
        return -1
    found = re.search(r"^Rss: *([0-9]{1,15}) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 // base_page if found else -1


def _statm(path: Path) -> tuple[int, ...]:
    try:
        words = read_text(path / "statm").split()
    except ProcError:
        words = []
    known = len(words) == len(STATM) and all(map(_is_count, words))
    return tuple(map(int, words)) if known else (-1,) * len(STATM)


def _is_count(word: str, digits: int = 15) -> bool:
    """Whether `word` is a number as Linux writes one, of at most `digits` digits."""
    return word.isascii() and word.isdigit() and len(word) <= digits


def process_table(raw: list[RawProcess]) -> Processes:
    """Columns from processes as read."""
    threads = [(row, *pair) for row, p in enumerate(raw) for pair in p.threads]
    columns = np.array(threads, np.int32).reshape(-1, 3)
    return Processes(
        pid=np.array([p.pid for p in raw], np.int32),
        rss=np.array([p.rss for p in raw], np.int64),
        statm=np.array([p.statm for p in raw], np.int64).reshape(-1, len(STATM)),
        thread_process=columns[:, 0].copy(),
        tid=columns[:, 1].copy(),
        thread_cpu=columns[:, 2].copy(),
        comm=tuple(p.comm for p in raw),
    )
