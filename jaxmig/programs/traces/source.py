"""A trace's file: decompressed and cut into whole lines, a piece at a time.

gzip, xz and zlib (damo's json_compressed) are recognised by their first bytes; zstd needs
Python 3.14 or a package.  No more than a piece is ever in memory.  Several streams in a
row are one file, as for gzip and xz themselves; other bytes after the last are an error.
"""

import contextlib
import gzip
import importlib
import io
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Any, Final, cast

from jaxmig.programs.traces.accesses import KERNEL_START, USER_END, TraceError

PIECE: Final = 1 << 20
HEAD: Final = 1 << 14  # bytes from which the format is detected
LONGEST: Final = 1 << 14  # bytes of a line
SHOWN: Final = 60  # characters of a bad line
XZ: Final = b"\xfd7zXZ\0"
XZ_PADDING: Final = 4  # bytes: zeros between streams come in fours
XZ_MEMORY: Final = 1 << 28  # bytes that a dictionary may take; xz -9 takes 64 MiB
BOM: Final = b"\xef\xbb\xbf"
WIDE: Final = (b"\xff\xfe", b"\xfe\xff")  # UTF-16
ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
Tick = Callable[[int], None]
Match = tuple[bytes, ...]


class _Counted(io.RawIOBase):
    """A file that reports the bytes that are read from it."""

    def __init__(self, file: IO[bytes], tick: Tick) -> None:
        self._file, self._tick = file, tick

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._tick(len(data))
        return len(data)


class _Inflated(io.RawIOBase):
    """A zlib stream, a piece at a time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inflate, self._rest = file, zlib.decompressobj(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            rest = self._rest or self._file.read(1 << 16)
            if not rest:
                raise EOFError("it ends too early")
            data = self._inflate.decompress(rest, len(buffer))
            self._rest = self._inflate.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)
        if self._inflate.unused_data or self._file.read(1):
            raise EOFError("there is more behind its end")
        return 0


class _Xz(io.RawIOBase):
    """The streams of an xz file with the padding between them, a piece at a time.

    lzma.LZMAFile takes padding for the end of the file, and would lose what follows.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._rest = file, b""
        self._stream: lzma.LZMADecompressor | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while stream := self._open():
            rest = b""
            if stream.needs_input:
                rest = self._rest or self._file.read(1 << 16)
                self._rest = b""
                if not rest:
                    raise EOFError("it ends too early")
            data = stream.decompress(rest, len(buffer))
            if stream.eof:
                self._rest, self._stream = stream.unused_data, None
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _open(self) -> lzma.LZMADecompressor | None:
        """The stream that is being read, or the next one; None after the last."""
        if self._stream is None:
            padding = 0
            while not self._rest.lstrip(b"\0"):
                padding += len(self._rest)
                self._rest = self._file.read(1 << 16)
                if not self._rest:
                    self._check_padding(padding)
                    return None
            data = self._rest.lstrip(b"\0")
            self._check_padding(padding + len(self._rest) - len(data))
            self._rest = data
            self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        return self._stream

    def _check_padding(self, zeros: int) -> None:
        if zeros % XZ_PADDING:
            raise EOFError(f"{zeros} zeros behind a stream of xz, which come in fours")


class Source:
    """An open trace.

    `notes` counts the records that its reader left out, by reason; `assumed` has what its
    reader assumed where the file has no data.

    Args:
      path: a file, or - for standard input.
      tick: called with the bytes read since the last call, compressed ones if it is.
    Raises:
      TraceError: the file cannot be opened, or its compression is unknown here.
    """

    def __init__(self, path: str, tick: Tick = lambda n: None) -> None:
        self.name = path
        self.notes: Counter[str] = Counter()
        self.assumed: list[str] = []
        try:
            file = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TraceError(f"{path}: {reason}; name a trace file") from None
        self._file, self._kept = file, b""
        raw = cast(io.RawIOBase, _Counted(file, tick))
        try:
            with self._reading():
                self._stream = _decompressed(io.BufferedReader(raw, PIECE), path)
            self.head = self.read(HEAD)
            if not self.head:
                raise TraceError(f"{path}: the file is empty; record it again")
            if self.head[:2] in WIDE:
                raise TraceError(f"{path}: text of UTF-16; save it as UTF-8")
        except TraceError:
            self.close()
            raise
        self._kept = self.head = self.head.removeprefix(BOM)

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, unless it is standard input."""
        if self.name != "-":
            self._file.close()

    def read(self, size: int) -> bytes:
        """The next bytes, `size` of them but at the end. Raises TraceError."""
        kept, self._kept = self._kept[:size], self._kept[size:]
        parts, left = [kept], size - len(kept)
        while left > 0:
            with self._reading():
                data = self._stream.read(left)
            if not data:
                break
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except TraceError:
            raise
        except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
            reason = str(error) or type(error).__name__
            text = f"{self.name}: damaged or cut: {reason}; record it again"
            raise TraceError(text) from None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Whole lines without the last newline, and the number of the first one.

        Raises:
          TraceError: a line longer than LONGEST.
        """
        number, rest = 1, b""
        while piece := self.read(PIECE):
            text = rest + piece
            cut = text.rfind(b"\n") + 1
            text, rest = text[:cut], text[cut:]
            if text:
                yield number, text[:-1].replace(b"\r\n", b"\n").removesuffix(b"\r")
                number += text.count(b"\n")
            if len(rest) > LONGEST:
                raise self.error(number, rest, "a line too long to be one of a trace")
        if rest:
            yield number, rest.removesuffix(b"\r")

    def matches(
        self, pattern: re.Pattern[bytes], advice: str
    ) -> Iterator[tuple[int, list[Match]]]:
        """Pieces of the file: the number of the first line, and the groups of all lines.

        Args:
          pattern: as for `found`.
          advice: what to do about a line that does not match.
        Raises:
          TraceError: for the first such line.
        """
        for number, text in self.lines():
            yield number, self.found(number, text, pattern, lambda line: advice)

    def found(
        self,
        number: int,
        text: bytes,
        pattern: re.Pattern[bytes],
        wrong: Callable[[bytes], str],
    ) -> list[Match]:
        """Groups of each line of `text`.

        Args:
          number: of the first line, counted from 1.
          text: whole lines.
          pattern: matches a whole line, also one to be skipped; with (?m).  Its time must
            be linear in the line's length.
          wrong: what is wrong with a line that does not match.
        Returns:
          The groups, for each line that was matched.
        Raises:
          TraceError: for the first such line.
        """
        made: list[Match] = pattern.findall(text)
        if len(made) != text.count(b"\n") + 1:
            for i, line in enumerate(text.split(b"\n"), number):
                if len(line) > LONGEST or not pattern.fullmatch(line):
                    raise self.error(i, line, wrong(line))
        return made

    def check(self, address: Any, line: Callable[[int], int]) -> None:
        """Refuse addresses that are not canonical on a 64-bit CPU.

        Args:
          address: uint64[rows].
          line: from a row to the number of its line.
        Raises:
          TraceError: for the first one.
        """
        wrong = (address >= USER_END) & (address < KERNEL_START)
        if wrong.any():
            i = int(wrong.argmax())
            problem = f"{int(address[i]):#x} is an address of no 64-bit CPU"
            advice = "check the file, or say its format to `jaxmig replay --format`"
            raise TraceError(f"{self.name}:{line(i)}: {problem}; {advice}")

    def error(self, number: int, line: bytes, problem: str) -> TraceError:
        """The error of a line."""
        shown = line[:SHOWN].decode("utf-8", "backslashreplace")
        more = "..." if len(line) > SHOWN else ""
        return TraceError(f"{self.name}:{number}: {problem}: {shown!r}{more}")


def _decompressed(file: io.BufferedReader, name: str) -> IO[bytes]:
    magic = file.peek(6)[:6]
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=file))
    if magic == XZ:
        return io.BufferedReader(cast(io.RawIOBase, _Xz(file)))
    if magic[:2] in ZLIB:
        return io.BufferedReader(cast(io.RawIOBase, _Inflated(file)))
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(file, name)
    return file


def _zstd(file: io.BufferedReader, name: str) -> IO[bytes]:
    for module in ("compression.zstd", "backports.zstd"):  # Python 3.14, or a package
        with contextlib.suppress(ImportError):
            return cast(IO[bytes], importlib.import_module(module).ZstdFile(file))
    advice = "unpack it with zstd -d, or pip install backports.zstd"
    raise TraceError(f"{name}: zstd needs Python 3.14; {advice}")
