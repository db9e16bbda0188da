"""Files and standard output: checked before the work starts, written whole after it."""

import os
import stat
import sys
from pathlib import Path

from jaxmig.cli.errors import Failure, Usage

_ODD = "backslashreplace"  # for bytes of a name that are no letters


def check(*names: str | None) -> None:
    """Raises Failure for a file that could not be written, before hours of work.

    Raises Usage if standard output is asked for twice.
    """
    if sum(name == "-" for name in names) > 1:
        raise Usage("--json - and --csv - both claim standard output")
    for name in names:
        if name is None or name == "-":
            continue
        path = Path(name)
        if not name:
            raise Failure("a file name is empty; name a file, or - where that is said")
        if path.is_dir():
            raise Failure(f"{name}: is a directory; name a file in it")
        if not path.parent.is_dir():
            raise Failure(f"{name}: no such directory {path.parent}; create it first")
        where = path if path.exists() else path.parent
        if not os.access(where, os.W_OK):
            raise Failure(f"{name}: cannot be written; choose another file")


def write(name: str, text: str) -> None:
    """`text` to a file, whole or not at all, or to standard output for "-"."""
    if name == "-":
        sys.stdout.write(text)
        return
    path = Path(name)
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.write_text(text, "utf-8", _ODD)  # a pipe or a device stays what it is
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, "utf-8", _ODD)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        line = f"{name}: cannot be written: {reason}; choose another file"
        raise Failure(line) from error


def alone(*names: str | None) -> bool:
    """Whether standard output belongs to JSON or CSV."""
    return "-" in names
