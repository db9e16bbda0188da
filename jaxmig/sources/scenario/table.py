"""One table of a scenario file, read key by key with the type of each checked.

Every getter either returns a value of its type or raises a `ScenarioError` that names the
key, so that the parsers need no checks of their own.
"""

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jaxmig.sources.scenario.errors import (
    ScenarioError,
    error_in,
    nearest,
    show,
    suggest,
)
from jaxmig.sources.scenario.locate import Where
from jaxmig.sources.scenario.words import BASE_PAGE, is_node_string, size_of

_TYPES: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
    datetime.datetime: "a date",
    datetime.date: "a date",
    datetime.time: "a time",
}


@dataclass(frozen=True)
class TomlTable:
    """The `values` of the table at `where` in the document; the root has an empty path."""

    path: str
    source: str
    where: Where
    values: dict[str, object]

    @property
    def title(self) -> str:
        """The table's header as in a file."""
        if not self.where:
            return "the file"
        return f"[[{self.where[0]}]]" if len(self.where) > 1 else f"[{self.where[0]}]"

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def _value(self, key: str, *at: int | str) -> object:
        value: Any = self.values[key]
        for part in at:
            value = value[part]
        return value

    def error(self, key: str, problem: str, *at: int | str) -> ScenarioError:
        """The error for `key`, or for the element `at` these indices of its value."""
        shown = show(self._value(key, *at)) if key in self.values else "(missing)"
        where = (*self.where, key, *at)
        return error_in(self.path, self.source, where, shown, problem)

    def only(self, keys: Collection[str], elsewhere: dict[str, str]) -> None:
        """Refuse keys other than `keys`; `elsewhere` has the tables of other keys."""
        for key in self.values:
            if key in keys:
                continue
            remedy = suggest(key, keys)
            # A misspelt key is likelier than a key in the wrong table.
            if key in elsewhere and nearest(key, keys) is None:
                remedy = f"it belongs in {elsewhere[key]}"
            raise self.error(key, f"unknown key in {self.title}; {remedy}")

    def need(self, *keys: str) -> None:
        """Refuse a table that lacks one of `keys`."""
        for key in keys:
            if key not in self.values:
                raise self.error(key, f"{self.title} must say its {key}; add {key} = …")

    def wrong(self, key: str, wanted: str, *at: int) -> ScenarioError:
        """The error for a value that has not the `wanted` type."""
        found = _TYPES[type(self._value(key, *at))]
        return self.error(key, f"this is {found}; write {wanted}", *at)

    def text(self, key: str, default: str = "") -> str:
        """A string that is not empty."""
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string in quotes")
        # With the default "" the caller handles a missing key.
        if key in self.values and not value:
            raise self.error(key, f"this is empty; give a {key}")
        if not value.isprintable():
            raise self.error(key, "this has control characters; leave them out")
        return value

    def word(self, key: str, words: Collection[str], default: str = "") -> str:
        """One of `words`."""
        value = self.text(key, default)
        if key in self.values and value not in words:
            raise self.error(key, f"unknown {key}; {suggest(value, words)}")
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def integer(self, key: str, default: int, low: int, high: int, what: str) -> int:
        """An integer.

        Args:
          default: for a missing key.
          low, high: its limits, both allowed.
          what: the problem with a number outside, for the error.
        Returns:
          The value.
        Raises:
          ScenarioError: no integer, or outside the limits.
        """
        if key not in self.values:
            return default
        value = self.as_integer(self.values[key], key)
        if not low <= value <= high:
            raise self.error(key, f"{what}; give a number from {low} to {high}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Any integer of 64 bits, or None for a missing key."""
        return self.as_integer(self.values[key], key) if key in self else None

    def node_string(self, key: str) -> str | None:
        """A set of nodes in libnuma's notation, or None for a missing key."""
        if key not in self.values:
            return None
        value = self.values[key]
        if not isinstance(value, str):
            raise self.wrong(key, 'nodes as a string: "0", "0,1", "0-3", "all" or "!0"')
        if not is_node_string(value):
            remedy = 'write "0", "0,1", "0-3", "all" or "!0"'
            raise self.error(key, f"libnuma reads no nodes in this; {remedy}")
        return value

    def array(self, key: str, wanted: str) -> list[object]:
        """The elements of an array; an empty list for a missing key."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, wanted)
        return value

    def as_integer(self, value: object, key: str, *at: int) -> int:
        """`value`, found at `key`, as an integer of 64 bits."""
        # bool is a subclass of int in Python, though not in TOML.
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(key, "a whole number without quotes", *at)
        # Addresses are unsigned and everything else is signed: both are accepted.
        if not -(1 << 63) <= value < 1 << 64:
            problem = "this does not fit in 64 bits; give a smaller number"
            raise self.error(key, problem, *at)
        return value

    def as_size(self, value: object, key: str, *at: int | str) -> int:
        """`value`, found at `key`, as bytes: a number of whole base pages, or 0."""
        size = value if isinstance(value, int) else None
        if isinstance(value, str):
            size = size_of(value)
        # A number of bytes is accepted like text, but `true` is not one byte.
        if size is None or isinstance(value, bool):
            problem = 'this is no size; write bytes, or "4000k", "1536m", "2g"'
            raise self.error(key, problem, *at)
        if size < 0:
            raise self.error(key, "a size cannot be negative; give 0 or more", *at)
        if size % BASE_PAGE:
            problem = "this is no whole number of base pages; give a multiple of 4k"
            raise self.error(key, problem, *at)
        return size
