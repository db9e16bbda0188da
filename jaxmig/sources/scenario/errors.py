"""The error of a scenario, one line of text, and the format of values in it."""

from collections.abc import Iterable

from jaxmig.host.refused import Refused
from jaxmig.host.terminal import nearest, printable
from jaxmig.sources.scenario.locate import Where, find_line

_WIDTH = 60
_TABLES = ("machine", "process", "region", "condition", "call")


class ScenarioError(Refused, ValueError):
    """A scenario that cannot be played; `str()` of it is always one line.

    Attributes:
      path: the file as the user named it.
      line: counted from 1; 0 for an error of the whole file.
      key: the key at fault, without its table: `size`, `free.1`, `running[2]`.
    """

    def __init__(
        self, message: str, *, path: str = "", line: int = 0, key: str = ""
    ) -> None:
        # One positional argument, so that the exception survives pickling.
        super().__init__(message)
        self.path = path
        self.line = line
        self.key = key


def error_at(
    path: str, line: int, key: str, value: str | None, problem: str
) -> ScenarioError:
    """The error for a key at a known line.

    Args:
      path: of the file.
      line: counted from 1.
      value: as it is shown; None to leave it out.
      problem: what is wrong and, after a semicolon, what to do.
    Returns:
      The error, to be raised.
    """
    head = key if value is None else f"{key} = {value}"
    message = f"{printable(path)}:{line}: {head}: {printable(problem)}"
    return ScenarioError(message, path=path, line=line, key=key)


def error_in(
    path: str, text: str, where: Where, value: str | None, problem: str
) -> ScenarioError:
    """The error for the value at `where`, whose line is looked up in `text`.

    Args:
      path: of the file.
      text: of the file.
      where: path of the value in the document.
      value: as it is shown; None to leave it out.
      problem: what is wrong and, after a semicolon, what to do.
    Returns:
      The error, to be raised.
    """
    return error_at(path, find_line(text, where), key_name(where), value, problem)


def key_name(where: Where) -> str:
    """The key without its table, which the line identifies."""
    parts = where
    if len(parts) > 1 and parts[0] in _TABLES:
        parts = parts[2:] if isinstance(parts[1], int) else parts[1:]
    if not parts:
        return f"[[{where[0]}]]"
    name = ""
    for part in parts:
        joint = f"[{part}]" if isinstance(part, int) else f".{part}"
        name += joint
    return clip(printable(name.removeprefix(".")))


def show(value: object, depth: int = 0) -> str:
    """A value much as TOML writes it, cut to a length that keeps one line readable."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > 64:
            # Python may refuse str() of such a number, and it would fill the screen.
            return f"(an integer of {value.bit_length()} bits)"
        case str():
            return clip(f'"{printable(value[:_WIDTH])}"')
        case list() if value and depth < 2:
            inside = ", ".join(show(item, depth + 1) for item in value[:8])
            return clip(f"[{inside}{', …' if len(value) > 8 else ''}]")
        case list():
            return "[…]" if value else "[]"
        case dict():
            return "{…}" if value else "{}"
        case _:
            return clip(printable(str(value)))


def suggest(word: str, words: Iterable[str]) -> str:
    """Advice about a misspelt word: the nearest of `words`, or all of them."""
    known = list(words)
    near = nearest(word, known)
    everything = clip(", ".join(known), 4 * _WIDTH)
    if near:
        return f'did you mean "{near}"? (known: {everything})'
    return f"use one of: {everything}"


def clip(text: str, width: int = _WIDTH) -> str:
    """`text`, with its end replaced by an ellipsis if it is longer than `width`."""
    return text if len(text) <= width else text[: width - 1] + "…"
