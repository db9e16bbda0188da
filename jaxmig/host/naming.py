"""The kind of a target, from its name alone."""

import contextlib
import os
from pathlib import Path
from typing import Final, Literal

from jaxmig.host.refused import WrongUse

COMM_BYTES: Final = 15


class TargetError(WrongUse, ValueError):
    """A target that cannot be used; one line that says what to write instead."""


def kind_of(text: str) -> Literal["workload", "trace", "process", "snapshot"]:
    """The kind of target that `text` names; a file precedes a workload of that name.

    Raises:
      TargetError: none of these kinds.  An unknown workload is not refused here.
    """
    exists = os.path.exists(text)
    name, colon, _ = text.partition(":")
    if colon and not exists:
        if name == "trace":
            return "trace"
        if name.isidentifier():
            return "workload"
    if _is_number(text):
        return "process"
    file, _, number = text.rpartition(":")
    if (
        exists
        or text.endswith(".npz")
        or (file.endswith(".npz") and _is_number(number))
    ):
        return "snapshot"
    raise nothing(text)


def nothing(text: str) -> TargetError:
    """The error for a text that names no target, or a process by its name."""
    if pids := pids_named(text):
        some = ", ".join(map(str, pids[:8])) + (", ..." if len(pids) > 8 else "")
        return TargetError(f"{text}: the name of a process; give its PID: {some}")
    return TargetError(
        f"{text}: neither a PID nor a file nor a workload; give one like 4711, "
        "app.npz, trace:app.txt, memhog:1g or memhog:1g,thp"
    )


def pids_named(name: str, root: str | Path = "/proc") -> list[int]:
    """PIDs of the processes of this name, ascending; none without a proc directory.

    Linux keeps the first 15 bytes of a name (TASK_COMM_LEN in include/linux/sched.h).
    """
    wanted = name.encode("utf-8", "surrogateescape")[:COMM_BYTES]
    found = []
    with contextlib.suppress(OSError):
        for pid in filter(_is_number, os.listdir(root)):
            with contextlib.suppress(OSError):  # they come and go
                comm = (Path(root) / pid / "comm").read_bytes()
                found += [int(pid)] if comm.removesuffix(b"\n") == wanted else []
    return sorted(found)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
