"""Targets of a migration: a live process, a snapshot, a trace or a workload.

    4711                      a process, its page table read from /proc
    app.npz  all.npz:4711     a snapshot that `jaxmig snapshot` took, or one process of it
    trace:app.txt             the pages that a recorded trace touches
    memhog:1g  memhog:1g,thp  memory written once, in 4 KiB or 2 MiB pages
    pmbench:setsize=128m,jobs=4

A Target has the nodes that it needs and the CPUs on which it runs before it is built as a
Machine.
"""

import os
from collections.abc import Callable

from jaxmig.host.naming import TargetError, kind_of, nothing
from jaxmig.sources import snapshot
from jaxmig.sources.snapshot import SnapshotError
from jaxmig.sources.targets.recorded import of_trace
from jaxmig.sources.targets.snapshots import of_snapshot
from jaxmig.sources.targets.target import Setting, Target, WhatIf
from jaxmig.sources.targets.workloads import WORKLOADS, memhog, pmbench

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


def resolve(
    text: str, pid: int | None = None, tick: Callable[[int], None] = lambda n: None
) -> Target:
    """The target that `text` names.

    Args:
      pid: the process to take from a snapshot or trace that has several.
      tick: called with the bytes of a trace that were read since the last call.
    Raises:
      TargetError: no such kind of target, or bad arguments.
      ProcError, SnapshotError, TraceError: the process or file cannot be read.
    """
    kind, arguments = kind_of(text), text.partition(":")[2]
    if kind == "workload":
        known = WORKLOADS.get(text.partition(":")[0])
        if known is None:
            raise nothing(text)
        return known(text, arguments.split(","))
    if kind == "trace":
        return of_trace(text, arguments, pid, tick)
    if kind == "process":
        return of_snapshot(text, snapshot.take(int(text)))
    if os.path.exists(text):
        return of_snapshot(text, snapshot.load(text), pid)
    if text.endswith(".npz"):
        advice = f"take one with `jaxmig snapshot PID -o {text}`"
        raise SnapshotError(f"{text}: no such file; {advice}")
    if pid is not None:
        raise TargetError(f"{text}: names its process; leave out --pid")
    file, _, number = text.rpartition(":")
    return of_snapshot(text, snapshot.load(file), int(number))


def file_of(text: str) -> str:
    """The file that a target is read from, "" if there is none."""
    names = [text, text.removeprefix("trace:")]
    file = text.rpartition(":")[0]
    names += [file] if file.endswith(".npz") else []
    return next((name for name in names if os.path.isfile(name)), "")
