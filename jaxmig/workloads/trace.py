"""A trace of addresses from a file: loads and stores of one or more CPUs.

A line is `[CPU] R|W|L|S|M ADDRESS[,SIZE]`, as valgrind's lackey and pin's pinatrace
write it; M reads and writes.  Instructions (`I`) and lines that begin with # or == are
skipped.  Addresses are hexadecimal, with or without 0x.

Source: the manual of valgrind's lackey; pinatrace.cpp of Intel Pin.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Final

import numpy as np

from jaxmig.machine import PAGE_BYTES

LINE: Final = re.compile(
    r"^\s*(?:[0-9a-fx]+:\s+)?(?:(?P<cpu>\d+)\s+)?(?P<kind>[RWLSM])\s+"
    r"(?:0x)?(?P<address>[0-9a-fA-F]+)(?:,\d+)?\s*$"
)
SKIP: Final = re.compile(r"^\s*(?:#|==|I\s|$)")


class TraceError(ValueError):
    """A line that is none of a trace; says which."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """Accesses by CPU, pages numbered from 0 in order of address."""

    ops: tuple[np.ndarray, ...]  # int64[n, (page, word, store)] each
    pages: np.ndarray  # page frame address of each page number

    @property
    def folios(self) -> int:
        """Different pages."""
        return len(self.pages)


def read(lines: Iterable[str], name: str = "trace") -> Trace:
    """The trace in `lines`.

    Raises:
      TraceError: a line of another form, or no access at all.
    """
    rows: list[tuple[int, int, int]] = []
    for number, line in enumerate(lines, 1):
        if SKIP.match(line):
            continue
        found = LINE.match(line)
        if found is None:
            raise TraceError(f"{name}:{number}: not an access; write `R 7f00,4`")
        cpu, address = int(found["cpu"] or 0), int(found["address"], 16)
        kinds = (0, 1) if found["kind"] == "M" else (int(found["kind"] in "WS"),)
        rows += [(cpu, address, store) for store in kinds]
    if not rows:
        raise TraceError(f"{name}: no access in it")
    cpu, address, store = np.asarray(rows, np.int64).T
    pages, page = np.unique(address // PAGE_BYTES, return_inverse=True)
    word = address % PAGE_BYTES // 4
    ops = np.stack([page, word, store], 1)
    return Trace(tuple(ops[cpu == c] for c in np.unique(cpu)), pages)


def load(path: str) -> Trace:
    """The trace in a file.

    Raises:
      TraceError: the file cannot be read, or holds no trace.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            return read(lines, path)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise TraceError(f"{path}: {reason}; give a text file") from error
