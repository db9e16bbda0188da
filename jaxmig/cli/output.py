"""Files and standard output: checked before the work starts, written whole after it."""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from jaxmig.cli.errors import Failure, Usage
from jaxmig.host import files

OUTPUTS: Final = (
    *("json", "csv", "plot", "report", "tracefs", "folded", "speedscope", "output"),
)
_ODD: Final = "backslashreplace"  # for bytes of a name that are no letters


def protect(args: argparse.Namespace) -> None:
    """Keeps the files that a command line names, but not as outputs, from its outputs."""
    words = Counter(w.partition("=")[2] or w for w in args.typed)
    written = [getattr(args, n, None) for n in OUTPUTS]
    if args.command != "replay":
        written.append(getattr(args, "trace", None))
    words.subtract(w for w in written if isinstance(w, str))
    parts = [p for w, n in words.items() if n > 0 for p in (w, *w.split(","))]
    # A target may say its kind before the name, and a process behind it.
    files.protect(
        name
        for p in parts
        for name in (p, p.removeprefix("trace:"), p.rpartition(":")[0])
    )


def check(*names: str | None, private: bool = False) -> None:
    """Create and lock the files that will be written, before hours of work.

    Args:
      private: only the owner may read them.
    Raises:
      Failure: one cannot be written, or another process writes it.
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
    """Raise Failure for a file that cannot be written, without creating it."""
    with _named(name):
        files.check(Path(name))


def write(name: str, text: str) -> None:
    """Write `text` to a file, whole or not at all, or to standard output for "-"."""
    if name == "-":
        sys.stdout.write(text)
        return
    with drafted(name) as file:
        file.write(text.encode("utf-8", _ODD))


@contextlib.contextmanager
def drafted(name: str) -> Iterator[IO[bytes]]:
    """A file to write piece by piece, which gets its name only once it is whole.

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
