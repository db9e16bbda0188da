"""Rows on disk: whole lines, appended one by one, and taken up again where they end.

The first line names the columns; the last cell of each row names its sweep, so that
rows of another one are never continued.  A line goes to the system in one write: a
process that is killed leaves whole lines and at most one torn one, which is cut off.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from jaxmig import files
from jaxmig.sweep import rows

_SWEEP: Final = b"jaxmig sweep"


class JournalError(ValueError):
    """A file that cannot be written or continued; one line that says what to do."""


class Journal:
    """An open file of rows.

    Attributes:
      done: rows that it already had.
    """

    def __init__(
        self, path: Path, stamp: str, keys: Callable[[int], str], resume: bool
    ) -> None:
        """Open or create the file.

        Args:
          stamp: what each row must end with.
          keys: what row number i must begin with.
          resume: go on where it ends; otherwise it must not exist.
        Raises:
          JournalError: it exists, is in use, or was written for something else.
        """
        self.path, self.done = path, 0
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        files.swept(path.parent)
        try:
            self._fd = os.open(path, flags | (0 if resume else os.O_EXCL), 0o666)
        except FileExistsError:
            advice = "go on with --resume, begin again with --overwrite"
            raise JournalError(f"{path}: exists; {advice}") from None
        except OSError as error:
            link = path.is_symlink()
            reason = "is a link; name the file itself" if link else error.strerror
            raise JournalError(f"{path}: {reason}; choose another") from None
        try:
            self._begin(stamp, keys)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def add(self, line: str) -> None:
        """Append one line, newline included."""
        data = line.encode()
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(None, "disk full")
        except OSError as error:
            line = f"{self.path}: {error.strerror}; make room, then use --resume"
            raise JournalError(line) from None

    def _begin(self, stamp: str, keys: Callable[[int], str]) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalError(f"{self.path}: another process writes it") from None
        with open(self._fd, "rb", closefd=False) as file:
            data = file.read()
        whole = data.rfind(b"\n") + 1
        lines = _lines(data[:whole].decode("utf-8", "replace"))
        heading = rows.heading()
        # A torn heading is ours too.
        if lines[:1] != [heading] and (lines or not heading.encode().startswith(data)):
            raise JournalError(f"{self.path}: is no file of this version's sweeps; "
                               "choose another, or --overwrite")  # fmt: skip
        for i, line in enumerate(lines[1:]):
            if not line.endswith(f",{stamp}\n"):
                raise JournalError(_other(self.path, line, stamp))
            if not line.startswith(keys(i)):
                raise JournalError(
                    f"{self.path}: line {i + 2} is not the row that belongs there; "
                    "use --overwrite"
                )
            with _line_of(self.path, i + 2):
                rows.check(line)
        os.ftruncate(self._fd, whole)
        if not lines:
            self.add(heading)
        self.done = max(len(lines) - 1, 0)


def _other(path: Path, line: str, stamp: str) -> str:
    theirs = line.rstrip("\n").rpartition(",")[2]
    version, mine = theirs.partition("-")[0], stamp.partition("-")[0]
    if version != mine:
        return (
            f"{path}: was written by jaxmig {version}, this is {mine}; --overwrite it"
        )
    return (
        f"{path}: was written for the options of sweep {theirs}, these are of "
        f"{stamp}; give the same options, or --overwrite"
    )


def read(path: Path) -> list[rows.Row]:
    """The rows of a finished or unfinished file.

    Raises:
      JournalError: it cannot be read or holds something else.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise JournalError(f"{path}: {error}") from None
    if not text.startswith(rows.heading()):
        raise JournalError(f"{path}: is no file of a sweep; choose another")
    made = []
    for i, line in enumerate(text.split("\n")[1:-1]):
        with _line_of(path, i + 2):
            made.append(rows.check(line))
    return made


@contextlib.contextmanager
def _line_of(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise JournalError(f"{path}: line {number} is damaged ({error}); use --overwrite, "
                           "or cut the file before it")  from None  # fmt: skip


def part(path: Path, process: int, processes: int) -> Path:
    """Where one of several processes writes its rows."""
    return path.with_name(f"{path.name}.part-{process}-of-{processes}")


def merge(path: Path, parts: Sequence[Path], owners: Sequence[int]) -> bool:
    """Make the whole file of finished parts; False if one of them is not finished yet.

    Every process tries this at its end, and whoever is last succeeds; if two are, both
    write the same bytes, and the file appears at once.

    Args:
      owners: which part holds each row, in the order of the rows.
    """
    try:
        texts = [_lines(p.read_text("utf-8"))[1:] for p in parts]
    except FileNotFoundError:
        return path.exists()
    counts = [0] * len(parts)
    for owner in owners:
        counts[owner] += 1
    complete = all(t[-1:] == [] or t[-1].endswith("\n") for t in texts)
    if [len(t) for t in texts] != counts or not complete:
        return False
    for p, text in zip(parts, texts, strict=True):
        for i, line in enumerate(text):
            with _line_of(p, i + 2):
                rows.check(line)
    streams = [iter(t) for t in texts]
    try:
        with _written(path) as file:
            whole = rows.heading() + "".join(next(streams[o]) for o in owners)
            file.write(whole.encode())
    except files.BusyError:
        return True  # another process is as far, and writes the same
    for p in parts:
        p.unlink(missing_ok=True)
    return True


def to_parquet(source: Path, path: Path, stamp: str) -> None:
    """Turn the rows of `source` into a Parquet file, whole or not at all.

    Raises:
      JournalError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    # Releases look like numbers: 6.10 must not become 6.1.
    words, whole = pa.string(), pa.int64()
    types = {name: words if name in rows.WORDS else whole for name in rows.COLUMNS}
    table = pc.read_csv(source, convert_options=pc.ConvertOptions(column_types=types))
    # Which sweep this is stands in the metadata too: a sweep may have no rows.
    table = table.replace_schema_metadata({_SWEEP: stamp})
    with _written(path) as file:
        pq.write_table(table, file)
    source.unlink(missing_ok=True)


def is_parquet_of(path: Path, stamp: str) -> bool:
    """Whether a Parquet file holds the rows of this sweep."""
    check_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return about.get(_SWEEP) == stamp.encode()


def check_parquet() -> None:
    """Raises JournalError where Parquet cannot be written, before hours of work."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise JournalError(
            "Parquet needs pyarrow; pip install pyarrow, or name a .csv file"
        ) from None


def _lines(text: str) -> list[str]:
    """Lines with their ends; nothing but a newline ends one."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name once it is whole."""
    try:
        with files.written(path) as file:
            yield file
    except files.BusyError:
        raise
    except files.FileError as error:
        raise JournalError(f"{path}: {error}") from None
