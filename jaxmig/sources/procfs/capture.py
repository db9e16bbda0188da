"""Selects the processes to read, and leaves out those that cannot be read."""

import os
from collections.abc import Callable, Sequence

from jaxmig.sources.procfs.address_space import read_address_space
from jaxmig.sources.procfs.errors import (
    PTRACE,
    KernelThread,
    NoSuchProcess,
    NotLinux,
    PermissionDenied,
    ProcError,
    ProcessVanished,
)
from jaxmig.sources.procfs.join import Columns, Sources, join
from jaxmig.sources.procfs.process import list_pids, read_process, require_user_process


def system_page_size() -> int:
    """Bytes of a base page. Raises NotLinux where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError) as error:
        raise NotLinux("this system does not tell its page size") from error


def capture(pids: Sequence[int], sources: Sources) -> Columns:
    """Columns of these processes.

    Raises:
      ProcError: one of them cannot be read; or a subclass that says why.
    """
    spaces, raw = [], []
    for pid in pids:
        path = require_user_process(pid, sources.root)
        spaces.append(read_address_space(path, sources.base_page))
        raw.append(read_process(path, pid, sources.base_page))
    return join(spaces, raw, sources)


def capture_all(
    sources: Sources, tick: Callable[[int], None] = lambda n: None
) -> Columns:
    """Columns of every process but this one, without those that cannot be read.

    Args:
      tick: called with 1 after each process.
    Raises:
      NotLinux: there is no proc directory.
      PermissionDenied: no process may be read.
    """
    spaces, raw, odd, denied = [], [], [], 0
    for pid in list_pids(sources.root):
        tick(1)
        if sources.live and pid == os.getpid():
            continue  # its own page table grows while it reads
        try:
            path = require_user_process(pid, sources.root)
            space = read_address_space(path, sources.base_page)
            about = read_process(path, pid, sources.base_page)
        except PermissionDenied:
            denied += 1
            continue
        except (KernelThread, NoSuchProcess, ProcessVanished):
            continue
        except ProcError as error:
            odd.append(f"left out: {error}")
            continue
        spaces.append(space)
        raw.append(about)
    if not spaces:
        raise PermissionDenied(f"{sources.root}: no process may be read; {PTRACE}")
    columns = join(spaces, raw, sources)
    columns.missing += odd
    if denied:
        columns.missing.append(f"processes that may not be read: {denied} ({PTRACE})")
    return columns
