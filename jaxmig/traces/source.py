"""A trace's file: decompressed and cut into whole lines, a piece at a time.

gzip, xz and zlib (damo's json_compressed) are seen by their first bytes; zstd needs
Python 3.14 or a package.  No more than a piece is ever in memory.
"""

import gzip
import io
import lzma
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import IO, Final

from jaxmig.traces.accesses import TraceError

PIECE: Final = 1 << 20
HEAD: Final = 1 << 14  # bytes that tell the format
LONGEST: Final = 1 << 14  # bytes of a line
SHOWN: Final = 60  # characters of a bad line
ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
Tick = Callable[[int], None]
Match = tuple[bytes, ...]


class _Counted(io.RawIOBase):
    """A file that tells how many bytes were read of it."""

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
        return 0


class Source:
    """An open trace; `notes` counts what its reader left out, by reason.

    Args:
      path: a file, or - for standard input.
      tick: told how many bytes of the file were read, as they are.
    Raises:
      TraceError: the file cannot be opened, or its compression is unknown here.
    """

    def __init__(self, path: str, tick: Tick = lambda n: None) -> None:
        self.name = path
        self.notes: Counter[str] = Counter()
        try:
            file = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        except OSError as error:
            reason = error.strerror or str(error)
            raise TraceError(f"{path}: {reason}; name a trace file") from None
        self._file = file
        counted = io.BufferedReader(_Counted(file, tick), PIECE)
        self._stream = self._guarded(lambda: _decompressed(counted))
        self.head = b""
        self.head = self.read(HEAD)
        self._kept = self.head

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.name != "-":
            self._file.close()

    def read(self, size: int) -> bytes:
        """The next bytes, `size` of them but at the end. Raises TraceError."""
        kept = getattr(self, "_kept", b"")
        if kept:
            self._kept = kept[size:]
            if len(kept) >= size:
                return kept[:size]
        parts, have = [kept], len(kept)
        while have < size:
            data = self._guarded(lambda: self._stream.read(size - have))
            if not data:
                break
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def _guarded(self, action: Callable[[], "IO[bytes]"]) -> "IO[bytes]":  # or bytes
        try:
            return action()
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

    def matches(self, pattern: re.Pattern[bytes], advice: str) -> Iterator[list[Match]]:
        """Groups of each line, a piece at a time.

        Args:
          pattern: of a whole line, also of lines to be passed over; with (?m).
        Raises:
          TraceError: for the first line that does not match.
        """
        for number, text in self.lines():
            found = pattern.findall(text)
            if len(found) != text.count(b"\n") + 1:
                for i, line in enumerate(text.split(b"\n"), number):
                    if len(line) > LONGEST or not pattern.fullmatch(line):
                        raise self.error(i, line, advice)
            yield found

    def error(self, number: int, line: bytes, problem: str) -> TraceError:
        """The error of a line."""
        shown = line[:SHOWN].decode("utf-8", "backslashreplace")
        more = "..." if len(line) > SHOWN else ""
        return TraceError(f"{self.name}:{number}: {problem}: {shown!r}{more}")


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    magic = file.peek(6)[:6]
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if magic == b"\xfd7zXZ\0":
        return lzma.LZMAFile(file)
    if magic[:2] in ZLIB:
        return io.BufferedReader(_Inflated(file))
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return _zstd(file)
    return file


def _zstd(file: io.BufferedReader) -> IO[bytes]:
    try:
        from compression import zstd  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[no-redef]
        except ImportError:
            advice = "unpack it with zstd -d, or pip install backports.zstd"
            raise ValueError(f"zstd needs Python 3.14: {advice}") from None
    return zstd.ZstdFile(file)
