"""Files and standard output: checked before the work starts, written whole after it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from jaxmig import files
from jaxmig.cli.errors import Failure, Usage

_ODD: Final = "backslashreplace"  # for bytes of a name that are no letters


def check(*names: str | None, private: bool = False) -> None:
    """Takes the files that will be written, before hours of work.

    Args:
      private: only the owner may read them.
    Raises:
      Failure: one that could not be written, or that another process writes.
      Usage: one, or standard output, is named twice.
    """
    if sum(name == "-" for name in names) > 1:
        raise Usage("--json - and --csv - both claim standard output")
    for name in names:
        if name is None or name == "-":
            continue
        if not name:
            raise Failure("a file name is empty; name a file, or - where that is said")
        with _named(name):
            files.claim(name, private)


def able(name: str) -> None:
    """Raises Failure for a file that could not be written; whose it is, others say."""
    with _named(name):
        files.check(Path(name))


def write(name: str, text: str) -> None:
    """`text` to a file, whole or not at all, or to standard output for "-"."""
    if name == "-":
        sys.stdout.write(text)
        return
    with drafted(name) as file:
        file.write(text.encode("utf-8", _ODD))


@contextlib.contextmanager
def drafted(name: str) -> Iterator[IO[bytes]]:
    """A file to write piece by piece, there under its name only once it is whole.

    Raises:
      Failure: it cannot be written.
    """
    with _named(name), files.written(name) as file:
        yield file


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except files.FileError as error:
        raise Failure(f"{name}: {error}") from None


def alone(*names: str | None) -> bool:
    """Whether standard output belongs to JSON or CSV."""
    return "-" in names
