"""jaxmig's own file of a trace: an .npz whose arrays are blocks of rows, in order.

Each block is a member of the archive, so that neither writing nor reading holds more
than one of them.
"""

import lzma
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final

import numpy as np

from jaxmig.programs.traces.accesses import (
    ACCESS,
    KERNEL_START,
    LARGEST_ORDER,
    UNKNOWN,
    USER_END,
    Rows,
    TraceError,
)
from jaxmig.programs.traces.source import Tick

FORMAT_VERSION: Final = 1
MAGIC: Final = "jaxmig_trace"  # name of the array that holds the version
MOST: Final = 1 << 22  # rows of a block


def is_one(path: str) -> bool:
    """Whether a file is an .npz that holds a trace, of whatever version."""
    try:
        # zipfile looks for the end of a file, which a device may not have.
        if not os.path.isfile(path):
            return False
        with zipfile.ZipFile(path) as file:
            return f"{MAGIC}.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def read(path: str, tick: Tick = lambda n: None) -> Iterator[Rows]:
    """Blocks as they were written.

    Raises:
      TraceError: another version, a damaged file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_version(path, _array(file, MAGIC))
            # A block that is missing would be accesses that nobody misses.
            names = file.namelist()
            blocks = [f"{_name(i)}.npy" for i in range(len(names) - 1)]
            odd = {f"{MAGIC}.npy", *blocks} ^ set(names)
            if odd:
                raise ValueError(f"{min(odd)[:40]!r} is missing, or no block of it")
            for number in range(len(blocks)):
                block = _array(file, _name(number))
                _check(block, number)
                tick(file.NameToInfo[f"{_name(number)}.npy"].compress_size)
                yield block
    except TraceError:
        raise
    except (
        OSError, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError,
        MemoryError, OverflowError, SyntaxError, TypeError,  # an array's header
        lzma.LZMAError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
        text = f"{path}: a damaged trace ({reason}); convert it again"
        raise TraceError(text) from None


def _check(block: np.ndarray, number: int) -> None:
    """Raise ValueError for a block that `write` cannot have written."""
    if block.dtype != ACCESS or block.ndim != 1:
        raise ValueError(f"block {number} has other columns")
    address, order = block["address"], block["order"]
    wrong = {
        "address": (address >= USER_END) & (address < KERNEL_START),
        "order": (order < 0) | (order > LARGEST_ORDER),
    } | {name: block[name] < UNKNOWN for name in ("time_ns", "pid", "tid", "cpu")}
    for name, rows in wrong.items():
        if rows.any():
            i = int(rows.argmax())
            raise ValueError(f"block {number}, row {i}: {name} {block[name][i]}")


def _check_version(path: str, version: np.ndarray) -> None:
    if version.shape != () or version.dtype.kind not in "iu":
        raise ValueError("no version")
    if version != FORMAT_VERSION:
        advice = "update jaxmig" if version > FORMAT_VERSION else "convert it again"
        text = f"trace format {version}, this jaxmig reads {FORMAT_VERSION}; {advice}"
        raise TraceError(f"{path}: {text}")


def _array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    info = file.NameToInfo[f"{name}.npy"]
    # A forged member with more rows than a block could fill the memory.
    if info.file_size > MOST * ACCESS.itemsize + 4096:
        raise ValueError(f"{name} is too large")
    with file.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):
            raise ValueError(f"{name} is longer than it says")
        return array


def _name(number: int) -> str:
    return f"block{number:08d}"


def write(blocks: Iterator[Rows], to: IO[bytes]) -> int:
    """Write blocks as they come; returns the number of their accesses."""
    done = number = 0
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        _put(file, MAGIC, np.array(FORMAT_VERSION))
        for block in blocks:
            for at in range(0, len(block), MOST):
                _put(file, _name(number), block[at : at + MOST])
                number += 1
            done += len(block)
    return done


def _put(file: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # A fixed date: equal traces are equal files.
    info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    with file.open(info, "w") as member:
        np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
