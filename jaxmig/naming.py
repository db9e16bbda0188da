"""What a target may be called, told without reading it."""

import os
from typing import Literal

from jaxmig.refused import WrongUse


class TargetError(WrongUse, ValueError):
    """A target that cannot be used; one line that says what to write instead."""


def kind_of(text: str) -> Literal["workload", "trace", "process", "snapshot"]:
    """What `text` names; a file goes before a workload of the same name.

    Raises:
      TargetError: nothing; whether there is such a workload, those tell who play it.
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
    """What to say of a text that names nothing."""
    return TargetError(
        f"{text}: neither a PID nor a file nor a workload; give one like 4711, "
        "app.npz, trace:app.txt, memhog:1g or memhog:1g,thp"
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
