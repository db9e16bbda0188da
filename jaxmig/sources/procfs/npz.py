"""Tables of arrays to and from .npz, without pickle.

Strings become one uint8 array of UTF-8, each ended by a zero byte; a nested table's
fields get its name and a dot before theirs.
"""

import dataclasses
import math
import struct
import tokenize
import typing
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxmig.host import files
from jaxmig.host.refused import Refused
from jaxmig.sources.procfs import schema
from jaxmig.sources.procfs.columns import ArrayTable

T = TypeVar("T", bound=ArrayTable)
MOST_BYTES = 1 << 40  # of all fields: a machine of 64 TiB in base pages
# Exceptions of zipfile, zlib and numpy for a damaged file.
DAMAGE = (
    *(ValueError, KeyError, EOFError, TypeError, MemoryError, SyntaxError),
    *(RuntimeError, OverflowError, IndexError, RecursionError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
COMPRESS_BELOW = 1 << 26  # bytes; above, zlib would take longer than the reading


class SnapshotError(Refused):
    """A snapshot file cannot be used: what is wrong, where, and what to do."""


def flatten(table: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays of a table by dotted field name."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(table):
        value, name = getattr(table, field.name), prefix + field.name
        if isinstance(value, ArrayTable):
            arrays |= flatten(value, name + ".")
        elif isinstance(value, tuple):
            text = "".join(one + "\0" for one in value)
            arrays[name] = np.frombuffer(
                text.encode("utf-8", "surrogateescape"), np.uint8
            )
        else:
            arrays[name] = np.asarray(value)
    return arrays


def rebuild(cls: type[T], arrays: Mapping[str, np.ndarray], prefix: str = "") -> T:
    """The table that `flatten` has flattened, from arrays that `schema` has checked."""
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint, name = hints[field.name], prefix + field.name
        if isinstance(hint, type) and issubclass(hint, ArrayTable):
            values[field.name] = rebuild(hint, arrays, name + ".")
        elif hint is int:
            values[field.name] = int(arrays[name])
        elif typing.get_origin(hint) is tuple:
            text = arrays[name].tobytes().decode("utf-8", "surrogateescape")
            values[field.name] = tuple(text.split("\0")[:-1])
        else:
            values[field.name] = arrays[name]
    return cls(**values)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write `path`, whole or not at all, readable by its owner. Raises SnapshotError."""
    size = sum(array.nbytes for array in arrays.values())
    save = np.savez_compressed if size < COMPRESS_BELOW else np.savez
    try:
        with files.written(path, private=True) as file:
            save(file, **dict(arrays))  # type: ignore[arg-type]
    except files.FileError as error:
        raise SnapshotError(f"{path}: {error}") from error


def read(path: Path, magic: str) -> dict[str, np.ndarray]:
    """The array `magic` and the fields of a snapshot file; other members are ignored.

    The header of each array is read and its type, dimensions and size are checked before
    any of its data is decompressed.

    Raises:
      SnapshotError: no .npz, no snapshot, a truncated file, or an array that its field
        cannot have.
    """
    try:
        # zipfile looks for the end of a file, which a device may not have.
        if path.exists() and not path.is_file() and not path.is_dir():
            raise _garbage(path)
        if path.is_file() and not path.stat().st_size:
            raise SnapshotError(f"{path}: the file is empty; {_again(path)}")
        with path.open("rb") as raw, zipfile.ZipFile(raw) as file:
            return _members(path, file, magic)
    except OSError as error:
        if error.strerror:
            raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error
        raise _garbage(path) from error
    except SnapshotError:
        raise
    except DAMAGE as error:
        raise _garbage(path) from error


def _members(path: Path, file: zipfile.ZipFile, magic: str) -> dict[str, np.ndarray]:
    names = file.namelist()
    if f"{magic}.npy" not in names:
        raise SnapshotError(f"{path}: an .npz file, but not a snapshot of jaxmig")
    if len(set(names)) < len(names):
        raise damaged(path, "a field is there twice")
    sizes = sum(info.file_size for info in file.infolist())
    if sizes > MOST_BYTES:
        raise damaged(path, f"its fields claim {sizes:,} bytes")
    arrays = {magic: _array(path, file, magic, magic)}
    for name in schema.FIELDS:
        if f"{name}.npy" in names:
            arrays[name] = _array(path, file, name, magic)
    return arrays


def _array(path: Path, file: zipfile.ZipFile, name: str, magic: str) -> np.ndarray:
    info = file.NameToInfo[f"{name}.npy"]
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise damaged(path, f"{name} is packed as no snapshot is")
    with file.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise _garbage(path)
        shape, _, dtype = HEADERS[version](member)
        if dtype.hasobject:
            raise _garbage(path)
        head = member.tell()
        try:
            if name != magic:
                schema.check_shape(name, dtype, shape)
        except ValueError as error:
            raise damaged(path, str(error)) from None
        if head + math.prod(shape) * dtype.itemsize != info.file_size:
            raise damaged(path, f"{name} is not as long as it says")
    with file.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def damaged(path: Path, problem: str) -> SnapshotError:
    """The error for a snapshot whose fields are not valid."""
    return SnapshotError(f"{path}: a damaged snapshot ({problem}); take it again")


def _garbage(path: Path) -> SnapshotError:
    return SnapshotError(f"{path}: not a snapshot, or cut short; {_again(path)}")


def _again(path: Path) -> str:
    return f"take it again with `jaxmig snapshot PID -o {path.name}`"
