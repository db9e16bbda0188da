"""damo's JSON, snapshot by snapshot: the file may be larger than memory.

    [{..., "target_id": 0, "snapshots": [{"start_time": ..., "regions": [...]}, ...]}]

Only one snapshot is decoded at a time; the text between snapshots is searched for the
two names and skipped otherwise.

Source: DamonRecord.to_kvpairs() and DamonRegion.to_kvpairs() of damo 3.4.3.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from jaxmig.programs.traces.accesses import TraceError
from jaxmig.programs.traces.source import Source

KEY: Final = re.compile(r'"(target_id|snapshots)"[ \t\r\n]*:[ \t\r\n]*')
NUMBER: Final = re.compile(r"(\d{1,20})(?=[ \t\r\n,}])")
PLAIN: Final = re.compile(r"-?[0-9]{1,20}")
GAP: Final = re.compile(r"[ \t\r\n,]*")
OVERLAP: Final = 64  # characters in which a key and its colon lie
PIECE: Final = 1 << 18
LARGEST: Final = 1 << 27  # characters of a snapshot
# Line, target, end of the aggregation in ns, regions: start, end, samples.
Snapshot = tuple[int, int, int, list[tuple[int, int, int]]]


class _Text:
    """A window on the file's text; what lies before `at` is dropped."""

    def __init__(self, source: Source) -> None:
        self._source, self.text, self.at, self.ended = source, "", 0, False
        self._dropped = 0  # newlines
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def more(self) -> bool:
        """Whether there was more text to add."""
        data = b"" if self.ended else self._source.read(max(PIECE, len(self.text)))
        self.ended = not data
        self._dropped += self.text.count("\n", 0, self.at)
        self.text = self.text[self.at :] + self._decode(data, self.ended)
        self.at = 0
        return not self.ended

    def line(self, at: int) -> int:
        """The line of a place in the window."""
        return self._dropped + self.text.count("\n", 0, at) + 1

    def error(self, problem: str, at: int) -> TraceError:
        """The error at a place in the window."""
        advice = "write it by `damo record --output_type json`"
        return TraceError(f"{self._source.name}:{self.line(at)}: {problem}; {advice}")


def snapshots(source: Source) -> Iterator[Snapshot]:
    """The snapshots in the order of the file.

    Raises:
      TraceError: no JSON, or not damo's.
    """
    text, target = _Text(source), 0
    while True:
        found = KEY.search(text.text, text.at)
        # A value at the window's end may be incomplete.
        if found is None or (found.end() + OVERLAP > len(text.text) and not text.ended):
            text.at = (
                max(len(text.text) - OVERLAP, text.at) if not found else found.start()
            )
            if not text.more() and found is None:
                return
            continue
        text.at = found.end()
        if found[1] == "snapshots":
            for line, snapshot in _elements(text):
                yield _snapshot(text, target, snapshot, line)
        elif number := NUMBER.match(text.text, text.at):
            target = int(number[1])


def _elements(text: _Text) -> Iterator[tuple[int, Any]]:
    """The elements of the array at `text.at`, each with where it begins."""
    if text.text[text.at : text.at + 1] != "[":
        raise text.error("snapshots is no list", text.at)
    text.at += 1
    decoder = json.JSONDecoder()
    while True:
        gap = GAP.match(text.text, text.at)
        text.at = gap.end() if gap else text.at
        if text.text[text.at : text.at + 1] == "]":
            return
        try:
            value, end = decoder.raw_decode(text.text, text.at)
        except (ValueError, RecursionError) as error:
            # Too many digits for int(), or nested too deeply: more text would not help.
            if not isinstance(error, json.JSONDecodeError):
                raise text.error("numbers or nesting beyond reason", text.at) from None
            large = len(text.text) - text.at > LARGEST
            far = error.pos - text.at
            if not large and text.more():
                continue
            where = text.at + far
            problem = "cut" if where >= len(text.text) else "no JSON"
            raise text.error("too large" if large else problem, where) from None
        yield text.at, value
        text.at = end


def _snapshot(text: _Text, target: int, value: Any, at: int) -> Snapshot:
    try:
        regions = [
            (_number(r["start"]), _number(r["end"]), _samples(r["nr_accesses"]))
            for r in value["regions"]
        ]
        return text.line(at), target, _number(value["end_time"]), regions
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"no snapshot of damo ({type(error).__name__}: {error})"
        raise text.error(problem, at) from None


def _samples(value: Any) -> int:
    """Samples that found an access; a plain number before damo 2."""
    return _number(value["samples"] if isinstance(value, dict) else value)


def _number(value: Any) -> int:
    """damo writes numbers also as text, with commas."""
    if isinstance(value, str):
        value = value.replace(",", "")
        # int() takes digits of any script, blanks and underscores too.
        if not PLAIN.fullmatch(value):
            raise ValueError(f"{value[:40]!r} is no number")
    elif not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r:.40} is no whole number")
    made = int(value)
    if not -1 <= made < 2**63:
        raise ValueError(f"{str(made)[:40]} does not fit")
    return made
