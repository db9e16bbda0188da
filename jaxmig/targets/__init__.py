"""What to migrate: a live process, a snapshot, a trace or a workload, as a Machine.

    4711                      a process, its page table read from /proc
    app.npz  all.npz:4711     a snapshot that `jaxmig snapshot` took, a process of several
    trace:app.txt             the pages that a recorded trace touches
    memhog:1g  memhog:1g,thp  memory written once, in 4 KiB or 2 MiB pages
    pmbench:setsize=128m,jobs=4

A Target knows how many nodes it needs and where it runs before anything is built.
"""

import os
from collections.abc import Callable
from typing import Final

from jaxmig import snapshot
from jaxmig.procfs import pids_named
from jaxmig.snapshot import SnapshotError
from jaxmig.targets.recorded import of_trace
from jaxmig.targets.snapshots import of_snapshot
from jaxmig.targets.target import Setting, Target, TargetError, WhatIf
from jaxmig.targets.workloads import WORKLOADS, memhog, pmbench

__all__ = [
    "WORKLOADS",
    "Setting",
    "Target",
    "TargetError",
    "WhatIf",
    "file_of",
    "memhog",
    "of_snapshot",
    "of_trace",
    "pmbench",
    "resolve",
]
TRACE: Final = "trace:"


def resolve(
    text: str, pid: int | None = None, tick: Callable[[int], None] = lambda n: None
) -> Target:
    """The target that `text` names.

    Args:
      pid: which process of a snapshot or trace that holds several.
      tick: told how many bytes of a trace were read.
    Raises:
      TargetError: no such kind of target, or bad arguments.
      ProcError, SnapshotError, TraceError: the process or file cannot be read.
    """
    name, colon, arguments = text.partition(":")
    exists = os.path.exists(text)
    if colon and name in WORKLOADS and not exists:
        return WORKLOADS[name](text, arguments.split(","))
    if text.startswith(TRACE) and not exists:
        return of_trace(text, arguments, pid, tick)
    if text.isascii() and text.isdigit():
        return of_snapshot(text, snapshot.take(int(text)))
    if exists:
        return of_snapshot(text, snapshot.load(text), pid)
    file, colon, number = text.rpartition(":")
    if colon and number.isascii() and number.isdigit() and file.endswith(".npz"):
        if pid is not None:
            raise TargetError(f"{text}: names its process; leave out --pid")
        return of_snapshot(text, snapshot.load(file), int(number))
    if text.endswith(".npz"):
        advice = f"take one with `jaxmig snapshot PID -o {text}`"
        raise SnapshotError(f"{text}: no such file; {advice}")
    if pids := pids_named(text):
        some = ", ".join(map(str, pids[:8])) + (", ..." if len(pids) > 8 else "")
        raise TargetError(f"{text}: the name of a process; give its PID: {some}")
    raise TargetError(
        f"{text}: neither a PID nor a file nor a workload; give one like 4711, "
        "app.npz, trace:app.txt, memhog:1g or memhog:1g,thp"
    )


def file_of(text: str) -> str:
    """The file that a target is read from, or nothing if there is none."""
    names = [text, text.removeprefix(TRACE)]
    file = text.rpartition(":")[0]
    names += [file] if file.endswith(".npz") else []
    return next((name for name in names if os.path.isfile(name)), "")
