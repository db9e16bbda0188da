"""Tables of arrays to and from .npz, without pickle.

Strings become one uint8 array of UTF-8, each ended by a zero byte; a nested table's
fields get its name and a dot before theirs.
"""

import dataclasses
import os
import typing
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxmig.procfs.columns import Table

T = TypeVar("T", bound=Table)
COMPRESS_BELOW = 1 << 26  # bytes; above, zlib would take longer than the reading


class SnapshotError(Exception):
    """A snapshot file cannot be used: what is wrong, where, and what to do."""


def flatten(table: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays of a table by dotted field name."""
    arrays: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(table):
        value, name = getattr(table, field.name), prefix + field.name
        if isinstance(value, Table):
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
    """The table that `flatten` took apart.

    Raises KeyError for a missing field, ValueError for one of another type.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        hint, name = hints[field.name], prefix + field.name
        if isinstance(hint, type) and issubclass(hint, Table):
            values[field.name] = rebuild(hint, arrays, name + ".")
            continue
        array = arrays[name]
        values[field.name] = _value(hint, array, name)
    return cls(**values)


def _value(hint: Any, array: np.ndarray, name: str) -> Any:
    if hint is int:
        if array.shape != () or array.dtype.kind not in "iu":
            raise ValueError(f"{name} is not a number")
        return int(array)
    if typing.get_origin(hint) is tuple:
        if array.dtype != np.uint8 or array.ndim != 1:
            raise ValueError(f"{name} is not text")
        text = array.tobytes().decode("utf-8", "surrogateescape")
        return tuple(text.split("\0")[:-1])
    wanted = _dtype(hint)
    if array.dtype != wanted:
        raise ValueError(f"{name} holds {array.dtype}, not {wanted}")
    return array


def _dtype(hint: Any) -> np.dtype:
    """Of NDArray[T]; an alias of its own since numpy 2.5, ndarray[..., dtype[T]] before."""
    while not (isinstance(hint, type) and issubclass(hint, np.generic)):
        hint = typing.get_args(hint)[-1]
    return np.dtype(hint)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes `path` whole or not at all. Raises SnapshotError."""
    size = sum(array.nbytes for array in arrays.values())
    save = np.savez_compressed if size < COMPRESS_BELOW else np.savez
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            save(file, **dict(arrays))  # type: ignore[arg-type]
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True) if draft.parent.is_dir() else None
        raise SnapshotError(
            f"{path}: cannot be written: {error.strerror}; choose another file"
        ) from error


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz. Raises SnapshotError for anything else."""
    try:
        # Opened here: numpy leaves a file open that only begins like an archive.
        with path.open("rb") as raw:
            file = np.load(raw, allow_pickle=False)
            if not hasattr(file, "files"):
                raise ValueError("a single array")
            return {name: file[name] for name in file.files}
    except OSError as error:
        if error.strerror:
            raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error
        raise _garbage(path) from error
    except (ValueError, KeyError, EOFError, TypeError, MemoryError) as error:
        raise _garbage(path) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _garbage(path) from error
    except (SyntaxError, RuntimeError, OverflowError) as error:  # in an array's header
        raise _garbage(path) from error


def _garbage(path: Path) -> SnapshotError:
    return SnapshotError(
        f"{path}: not a snapshot, or cut short; take it again with "
        f"`jaxmig snapshot PID -o {path.name}`"
    )
