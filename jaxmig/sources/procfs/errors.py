"""Errors of reading another process, each with one line of text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxmig.host.refused import Refused

PTRACE = "run as the same user, as root or with CAP_SYS_PTRACE"
SYS_ADMIN = "run as root or with CAP_SYS_ADMIN"
ELSEWHERE = (
    "no process file system here; take the snapshot on Linux and carry the .npz file "
    "over"
)


class ProcError(Refused):
    """A process could not be read; the text says what, where and what to do."""


class NotLinux(ProcError):
    """There is no /proc with processes in it (macOS, Windows, a bare chroot)."""


class NoSuchProcess(ProcError):
    """No process has this PID."""


class PermissionDenied(ProcError):
    """The kernel refuses access to a file; the text names the privilege needed."""


class KernelThread(ProcError):
    """The PID is a kernel thread: it has no address space of its own."""


class ProcessVanished(ProcError):
    """The process ended while it was being read, or is a zombie already."""


def process_dir(pid: int, root: str | Path = "/proc") -> Path:
    """Directory of `pid` below `root`.

    Raises:
      NotLinux: there is no proc file system.
      NoSuchProcess: the PID is unknown.
    """
    top = Path(root)
    if not top.is_dir() or (top == Path("/proc") and not (top / "self").exists()):
        raise NotLinux(f"{top}: {ELSEWHERE}")
    path = top / str(pid)
    if pid <= 0 or not path.is_dir():
        raise NoSuchProcess(
            f"PID {pid}: no such process in {top}; look it up with `pgrep -a NAME`"
        )
    return path


@contextmanager
def reading(path: Path, privilege: str = PTRACE) -> Iterator[None]:
    """Turn the OSErrors of reading `path` into this module's exceptions.

    To open maps, smaps, numa_maps or pagemap needs ptrace read access (else EACCES or
    EPERM).  After the process has exited a read gives ESRCH and an open ENOENT.

    Source: proc_mem_open() in fs/proc/base.c; fs/proc/task_mmu.c.
    """
    try:
        yield
    except PermissionError as error:
        raise PermissionDenied(f"{path}: permission denied; {privilege}") from error
    except (FileNotFoundError, ProcessLookupError) as error:
        if path.parent.is_dir() and not isinstance(error, ProcessLookupError):
            raise ProcError(f"{path}: this kernel has no such file") from error
        raise ProcessVanished(
            f"{path}: the process ended while it was being read; try again"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ProcError(f"{path}: cannot be read: {reason}") from error


def read_text(path: Path, privilege: str = PTRACE) -> str:
    """Text of a proc file; bytes of names that are no UTF-8 become surrogates.

    Raises:
      PermissionDenied, ProcessVanished, ProcError: it cannot be read.
    """
    with reading(path, privilege):
        return path.read_bytes().decode("utf-8", "surrogateescape")
