"""Files that are read whole, and files that are written whole or not at all.

A file is written under a temporary name in its folder, created anew (never through a
link) and locked, and renamed once it is whole.  The lock shows a second writer that the
first is at work.  A draft without a lock was left by a process that ended: the next
writer removes it.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import secrets
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final

MOST_TEXT: Final = 64 << 20  # bytes of a file that is read whole
BOMS: Final = (b"\xff\xfe", b"\xfe\xff")  # of UTF-16; that of UTF-8 is passed over
PREFIX: Final = ".jaxmig-"
SUFFIX: Final = ".draft"
TAG: Final = 12  # characters that stand for the name of the file
PRIVATE: Final = 0o600  # page frame numbers are root's to see
PUBLIC: Final = 0o666  # without the umask


class FileError(ValueError):
    """What is wrong with a file, and what to do; the message does not name the file."""


class BusyError(FileError):
    """Another process writes the file."""


def text(path: str | Path, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """The text of a file, without a byte order mark.

    Args:
      most: bytes of the longest file that is read.
      errors: "replace" for files with names that may be no text.
    Raises:
      FileError: it cannot be read, is longer than `most` bytes, or no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise FileError(getattr(error, "strerror", None) or str(error)) from None
    if len(data) > most:
        raise FileError(f"longer than {most:,} bytes")
    if data[:2] in BOMS:
        raise FileError("text of UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"line {line}: not UTF-8 text") from None


def toml(source: str) -> dict[str, Any]:
    """The document that TOML text describes.

    Raises:
      FileError: not TOML, nested too deeply, or a number of too many digits.
    """
    try:
        return tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise FileError(f"not TOML: {error}") from None
    except RecursionError:
        raise FileError("not TOML that is read here: nested too deeply") from None
    except ValueError:
        # Python refuses to read decimal numbers of thousands of digits.
        raise FileError("a number has too many digits") from None


@dataclasses.dataclass
class Draft:
    """A file that is to take the place of `target`; open and locked while it lives."""

    target: Path
    path: Path
    fd: int


_READ: Final[list[Path]] = []  # what the command reads, which it must not overwrite
_DRAFTS: Final[dict[str, Draft]] = {}  # of this process, by the target's absolute name


def protect(names: Iterable[str]) -> None:
    """From now on these files, as far as they are there, are no place to write to."""
    _READ.clear()
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            if Path(name).is_file():
                _READ.append(Path(name))


def claim(name: str | Path, private: bool = False) -> None:
    """Create and lock the draft of a file that will be written.

    Args:
      private: only its owner may read it.
    Raises:
      FileError: it cannot be written, is a link or one that the command reads, or is
        being written, also by us.
    """
    target = Path(name)
    if "\0" in str(name) or str(name).endswith("/"):
        raise FileError("is no name of a file; choose another")
    if _streams(target):
        return
    key = os.path.abspath(target)
    if key in _DRAFTS or any(_same(target, d.target) for d in _DRAFTS.values()):
        raise FileError("is named for two outputs; choose another name for one")
    try:
        check(target)
        _make(key, target, private)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"cannot be written: {reason}; choose another file") from None


@contextlib.contextmanager
def written(name: str | Path, private: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which gets its name only once it is whole.

    A pipe or a device is written directly.

    Raises:
      FileError: it cannot be written, is a link, or another process writes it.
    """
    target = Path(name)
    try:
        if _streams(target):
            with target.open("wb") as file:
                yield file
            return
        key = os.path.abspath(target)
        if key not in _DRAFTS:
            claim(target, private)
        draft = _DRAFTS[key]
        try:
            if private:
                os.fchmod(draft.fd, PRIVATE)
            with open(draft.fd, "wb", closefd=False) as file:
                yield file
                file.flush()
                os.fsync(draft.fd)
            check(target)
            os.replace(draft.path, target)
        finally:
            _drop(key)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"cannot be written: {reason}; choose another file") from None


def drop() -> None:
    """Removes what this process has not finished; nothing is protected any more."""
    _READ.clear()
    for key in list(_DRAFTS):
        _drop(key)


def _drop(key: str) -> None:
    draft = _DRAFTS.pop(key, None)
    if draft is not None:
        with contextlib.suppress(OSError):
            # After a rename the name is gone, or another process has created it anew.
            if os.path.samestat(os.fstat(draft.fd), os.lstat(draft.path)):
                draft.path.unlink()
        os.close(draft.fd)


def _streams(target: Path) -> bool:
    """Whether it is a pipe, a terminal or a device, also through a link."""
    try:
        mode = target.stat().st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def check(target: Path) -> None:
    """Raises FileError for a target whose place nothing may take."""
    if any(_same(target, path) for path in _READ):
        raise FileError("is read by the same command; choose another file")
    if target.is_symlink():
        raise FileError(f"is a link to {os.readlink(target)}; name the file itself")
    if target.is_dir():
        raise FileError("cannot be written: is a directory; name a file in it")
    if not target.parent.is_dir():
        missing = f"no such directory {target.parent}"
        raise FileError(f"cannot be written: {missing}; create it first")
    where = target if target.exists() else target.parent
    effective = os.access in os.supports_effective_ids
    if not os.access(where, os.W_OK, effective_ids=effective):
        raise FileError("cannot be written: permission denied; choose another file")


def _same(first: Path, second: Path) -> bool:
    """Whether two names are one file, or will be."""
    with contextlib.suppress(OSError):
        if first.exists() and second.exists():
            return first.samefile(second)
        return first.name == second.name and first.parent.samefile(second.parent)
    return False


def _make(key: str, target: Path, private: bool) -> None:
    folder = target.parent
    tag = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:TAG]
    path = folder / f"{PREFIX}{tag}-{secrets.token_hex(6)}{SUFFIX}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, PRIVATE if private else PUBLIC)
    _DRAFTS[key] = Draft(target, path, fd)  # a signal takes it away from now on
    try:
        # Only a process that looks for left drafts can hold the lock, for an instant.
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not private and target.exists():
            os.fchmod(fd, stat.S_IMODE(target.stat().st_mode))
        if tag in swept(folder, path):
            raise BusyError("another process writes it; wait, or choose another file")
    except BaseException:
        _drop(key)
        raise


def swept(folder: Path, mine: Path | None = None) -> set[str]:
    """Remove drafts whose process is gone; returns the tags of those being written."""
    return {
        entry.name.removeprefix(PREFIX)[:TAG]
        for entry in folder.glob(f"{PREFIX}*{SUFFIX}")
        if entry != mine and not _is_left(entry)
    }


def _is_left(entry: Path) -> bool:
    """Whether no process writes a draft; then it is removed, if it is this user's."""
    try:
        fd = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # a link, gone, or not ours to read: no draft of ours
    try:
        here = os.fstat(fd)
        if here.st_uid != os.geteuid() or not stat.S_ISREG(here.st_mode):
            return True
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(here, os.lstat(entry)):
            entry.unlink()
        return True
    except OSError:
        return False  # locked: it is being written
    finally:
        os.close(fd)
