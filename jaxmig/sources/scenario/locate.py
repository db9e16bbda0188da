"""The line of a key in TOML text.

tomllib checks the text but keeps no positions, so an error makes a second scan of the
text for the place.  tomllib has accepted the syntax, so the scan only has to distinguish
keys from values: it knows strings, brackets and comments, but no numbers or dates.
"""

import re
import tomllib
from contextlib import suppress
from itertools import count

# A path into the document: ("region", 2, "size") is the size of the third region.
Where = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*""")
# A long string may end in two quotes of its own before the three that close it.  The
# last alternative is any bare value; a date may be parted from its time by a space.
_ATOM = re.compile(
    r'"""(?:\\.|[^\\])*?""""{0,2}'
    r"|'''.*?''''{0,2}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|[^\s,\]}#]+(?: [0-9][0-9:.+\-Zz]*)?",
    re.DOTALL,
)


def find_line(text: str, where: Where) -> int:
    """The line, counted from 1, of `where` or of the nearest table that encloses it."""
    scan = _TextScan(text.replace("\r\n", "\n"), where)
    # In text that is not TOML, the place found so far is the best answer.
    with suppress(IndexError, RecursionError, ValueError):
        scan.document()
    return scan.line


class _TextScan:
    """One walk over the text that remembers the longest prefix of `wanted` it met."""

    def __init__(self, text: str, wanted: Where) -> None:
        self.text = text
        self.wanted = wanted
        self.pos = 0
        self.line = 1
        self.depth = 0
        self.arrays: dict[Where, int] = {}  # tables seen so far in each array of tables

    def document(self) -> None:
        table: Where = ()
        while self._skip(_BLANK) < len(self.text) and self.depth < len(self.wanted):
            if self.text[self.pos] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _note(self, where: Where, pos: int) -> None:
        # The first one counts: later lines only reopen a table already found.
        if len(where) > self.depth and where == self.wanted[: len(where)]:
            self.depth = len(where)
            self.line = self.text.count("\n", 0, pos) + 1

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.pos)
        if found is None:
            raise ValueError("not TOML")
        self.pos = found.end()
        return self.pos

    def _header(self) -> Where:
        start = self.pos
        is_array = self.text.startswith("[[", start)
        self.pos += 2 if is_array else 1
        keys = self._keys()
        self.pos += 2 if is_array else 1
        where: Where = ()
        for key in keys[:-1]:
            where = self._latest((*where, key))
        where = (*where, keys[-1])
        self._note(where, start)
        if is_array:
            self.arrays[where] = self.arrays.get(where, 0) + 1
        where = self._latest(where)
        self._note(where, start)
        return where

    def _latest(self, where: Where) -> Where:
        """`where`, or its last table so far if it is an array of tables."""
        if where in self.arrays:
            return (*where, self.arrays[where] - 1)
        return where

    def _keys(self) -> list[str]:
        keys = []
        while True:
            start = self.pos
            self._skip(_KEY)
            raw = self.text[start : self.pos].strip(" \t")
            # tomllib decodes the escapes of a quoted key.
            keys.append(next(iter(tomllib.loads(f"{raw} = 0"))))
            if not self.text.startswith(".", self.pos):
                return keys
            self.pos += 1

    def _pair(self, where: Where) -> None:
        start = self.pos
        for key in self._keys():
            where = (*where, key)
            self._note(where, start)
        self.pos = self.text.index("=", self.pos) + 1
        self._value(where)

    def _value(self, where: Where) -> None:
        opening = self.text[self._skip(_BLANK)]
        if opening == "[":
            self._array(where)
        elif opening == "{":
            self._inline_table(where)
        else:
            self._skip(_ATOM)

    def _array(self, where: Where) -> None:
        self.pos += 1
        for index in count():
            if self.text[self._skip(_BLANK)] == "]":
                break
            self._note((*where, index), self.pos)
            self._value((*where, index))
            if self.text[self._skip(_BLANK)] == ",":
                self.pos += 1
        self.pos += 1

    def _inline_table(self, where: Where) -> None:
        self.pos += 1
        while self.text[self._skip(_BLANK)] != "}":
            if self.text[self.pos] == ",":
                self.pos += 1
            else:
                self._pair(where)
        self.pos += 1
