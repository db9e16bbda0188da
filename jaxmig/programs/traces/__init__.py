"""Traces of addresses that other tools recorded, read as blocks of accesses.

for block in traces.blocks("app.txt"):
    print(block["address"], block["store"])

Each format has a file; `formats.py` lists them and detects which one a trace has.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jaxmig.programs.traces import native, table
from jaxmig.programs.traces.accesses import (
    ACCESS,
    UNKNOWN,
    Rows,
    TraceError,
    gathered,
    of_users,
)
from jaxmig.programs.traces.formats import FORMATS, Format, detect
from jaxmig.programs.traces.source import Source, Tick

__all__ = [
    "ACCESS",
    "FORMATS",
    "UNKNOWN",
    "Format",
    "Reading",
    "Rows",
    "Source",
    "TraceError",
    "blocks",
    "native",
    "table",
]


class Reading:
    """A trace while it is read: iterate once over its blocks.

    Args:
      path: a file of any of FORMATS or jaxmig's .npz; - is standard input.
      format: its name in FORMATS, or None to detect it.
      tick: called with the bytes that were read since the last call.
    """

    def __init__(
        self, path: str, format: str | None = None, tick: Tick = lambda n: None
    ) -> None:
        self.path, self.tick = path, tick
        self.title = ""  # known once the first block was read
        self.notes: Counter[str] = Counter()  # records left out, by reason
        self.assumed: list[str] = []  # assumptions where the file has no data
        self._format = format

    def __iter__(self) -> Iterator[Rows]:
        """Blocks of at most some hundred thousand rows, none of them empty.

        Raises:
          TraceError: the file cannot be read, a line does not belong to its format, or
            there is no access in it.
        """
        found = False
        for block in gathered(of_users(b, self.notes) for b in self._blocks()):
            found = True
            yield block
        if not found:
            why = "".join(f"; {n:,} {what}" for what, n in self.notes.items())
            raise TraceError(f"{self.path}: no access in it{why}; {self._advice()}")

    def _advice(self) -> str:
        """The command that records a trace of this format with addresses."""
        formats = [f for f in FORMATS.values() if f.title == self.title]
        return f"record with {formats[0].recording}" if formats else "record it again"

    def _blocks(self) -> Iterator[Rows]:
        if self._format is None and self.path != "-" and native.is_one(self.path):
            self.title = "jaxmig's own"
            yield from native.read(self.path, self.tick)
            return
        with Source(self.path, self.tick) as source:
            self.notes, self.assumed = source.notes, source.assumed
            format = FORMATS[self._format] if self._format else detect(source)
            self.title = format.title
            yield from format.read(source)


def blocks(path: str | Path, format: str | None = None) -> Iterator[Rows]:
    """Blocks of accesses of a trace; see `Reading`.

    Raises:
      TraceError: as `Reading`; KeyError for an unknown format.
    """
    return iter(Reading(str(path), format))
