"""Rows on disk: whole lines, appended one by one, and continued after an interruption.

The first line has the names of the columns.  The last cells of each row identify its
sweep, so that a file of another sweep is never continued.  Each line is one write: a
process that is killed leaves whole lines and at most one torn line, which is cut off.
"""

import collections
import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final

from jaxmig.host import files
from jaxmig.tools.sweep import rows

_SWEEP: Final = b"jaxmig sweep"
BLOCK: Final = 1 << 24  # bytes of rows that become Parquet at a time
LONGEST: Final = 1 << 14  # bytes of a line; a row has some 500


class JournalError(ValueError):
    """A file that cannot be written or continued; one line that says what to do."""


class Journal:
    """An open file of rows.

    Attributes:
      done: rows that the file already had.
    """

    def __init__(
        self, path: Path, stamp: str, keys: Callable[[int], str], resume: bool
    ) -> None:
        """Open or create the file.

        Args:
          path: of the file.
          stamp: of the sweep, which each row must have.
          keys: from the number of a row to the text that it must begin with.
          resume: continue an existing file; otherwise it must not exist.
        Raises:
          JournalError: it exists, is in use, or belongs to another sweep.
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
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise JournalError(f"{self.path}: is no file; choose another")
        heading, whole = rows.heading().encode(), 0
        with open(self._fd, "rb", closefd=False) as file:
            first = file.readline(LONGEST)
            if not heading.startswith(first):  # a torn heading is accepted
                raise JournalError(f"{self.path}: is no file of this version's sweeps; "
                                   "choose another, or --overwrite")  # fmt: skip
            if first == heading:
                whole = len(first) + self._check(file, stamp, keys)
        os.ftruncate(self._fd, whole)
        if not whole:
            self.add(rows.heading())

    def _check(self, file: IO[bytes], stamp: str, keys: Callable[[int], str]) -> int:
        """Count the rows after the heading; returns their bytes."""
        size = 0
        for i, data in enumerate(_whole(file)):
            line = data.decode("utf-8", "replace")
            if not line.endswith(f",{stamp}\n"):
                raise JournalError(_other(self.path, line, stamp))
            if not line.startswith(keys(i)):
                raise JournalError(
                    f"{self.path}: line {i + 2} is not the row that belongs there; "
                    "use --overwrite"
                )
            with _line_of(self.path, i + 2):
                rows.check(line)
            self.done, size = i + 1, size + len(data)
        return size


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
      JournalError: it cannot be read, or is no file of rows.
    """
    try:
        with path.open("rb") as file:
            if file.readline(LONGEST) != rows.heading().encode():
                raise JournalError(f"{path}: is no file of a sweep; choose another")
            return [_row(path, i, data) for i, data in enumerate(_whole(file))]
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None


def _row(path: Path, i: int, data: bytes) -> rows.Row:
    with _line_of(path, i + 2):
        return rows.check(data.decode("utf-8", "replace"))


def _whole(file: IO[bytes]) -> Iterator[bytes]:
    """Lines with their newlines, one by one; no other character ends a line."""
    while (line := file.readline(LONGEST)).endswith(b"\n") or len(line) == LONGEST:
        yield line


@contextlib.contextmanager
def _line_of(path: Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise JournalError(f"{path}: line {number} is damaged ({error}); use --overwrite, "
                           "or cut the file before it")  from None  # fmt: skip


def part(path: Path, process: int, processes: int) -> Path:
    """The file for the rows of one of several processes."""
    return path.with_name(f"{path.name}.part-{process}-of-{processes}")


def merge(path: Path, parts: Sequence[Path], owners: Sequence[int]) -> bool:
    """Merge finished parts into the whole file; False if some part is unfinished.

    Every process tries this at its end, and the last one succeeds.  If two are last, both
    write the same bytes, and the file is renamed into place as a whole.

    Args:
      owners: the part that has each row, in the order of the rows.
    """
    with contextlib.ExitStack() as stack:
        try:
            streams = [stack.enter_context(p.open("rb")) for p in parts]
        except FileNotFoundError:
            return path.exists()
        counts = collections.Counter(owners)
        if [_count(file) for file in streams] != [counts[i] for i in range(len(parts))]:
            return False
        try:
            with _written(path) as made:
                made.write(rows.heading().encode())
                numbers = [0] * len(parts)
                for i in owners:
                    data = streams[i].readline(LONGEST)
                    _row(parts[i], numbers[i], data)
                    made.write(data)
                    numbers[i] += 1
        except files.BusyError:
            return True  # another process is as far, and writes the same
    for p in parts:
        p.unlink(missing_ok=True)
    return True


def _count(file: IO[bytes]) -> int:
    """Rows of a part, or -1 if a line is torn; leaves the file at its first row."""
    lines = -1
    while line := file.readline(LONGEST):
        if not line.endswith(b"\n"):
            return -1
        lines += 1
    file.seek(0)
    file.readline(LONGEST)
    return lines


def to_parquet(source: Path, path: Path, stamp: str) -> None:
    """Turn the rows of `source` into a Parquet file, whole or not at all.

    Raises:
      JournalError: pyarrow is not installed.
    """
    check_parquet()
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    # Releases are text: 6.10 must not become 6.1.
    words, whole = pa.string(), pa.int64()
    types = {name: words if name in rows.WORDS else whole for name in rows.COLUMNS}
    # The sweep is identified in the metadata too, as it may have no rows.
    schema = pa.schema([(n, types[n]) for n in rows.COLUMNS], {_SWEEP: stamp})
    options = pc.ConvertOptions(column_types=types)
    blocks = pc.ReadOptions(block_size=BLOCK, use_threads=False)
    with (
        _written(path) as file,
        pq.ParquetWriter(file, schema) as made,
        pc.open_csv(source, blocks, convert_options=options) as table,
    ):
        for batch in table:
            made.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
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
    """Raise JournalError if Parquet cannot be written, before hours of work."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise JournalError(
            "Parquet needs pyarrow; pip install pyarrow, or name a .csv file"
        ) from None


@contextlib.contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name only once it is whole."""
    try:
        with files.written(path) as file:
            yield file
    except files.BusyError:
        raise
    except files.FileError as error:
        raise JournalError(f"{path}: {error}") from None
