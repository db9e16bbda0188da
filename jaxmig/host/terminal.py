"""Text of files and names made safe to print: nothing in it can steer a terminal."""

from collections.abc import Iterable
from typing import Final

FORMATS: Final = ("simple", "grid", "github", "plain", "tsv")  # of tables
LONGEST: Final = 300  # characters of a message
SHOWN: Final = 40  # of its end, where it is cut


def printable(text: str) -> str:
    """`text` with every character that is not visible written as an escape.

    These are control characters, also those of eight bits and of writing direction,
    separators of lines, and bytes that were no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` is most likely a misspelling of, if there is one."""
    from difflib import get_close_matches

    # The search is quadratic, and no real slip is longer than this.
    near = get_close_matches(word[:64].lower(), list(words), n=1)
    return near[0] if near else None


def message(text: str) -> str:
    """One printable line of at most LONGEST characters, cut in its middle."""
    line = printable(" ".join(text.split("\n")))
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST - SHOWN - 1]}…{line[-SHOWN:]}"
