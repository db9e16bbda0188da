"""Errors that end a command with one line on stderr and an exit code."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxmig.host.refused import Refused, WrongUse
from jaxmig.host.terminal import message as one_line, nearest


class Failure(Refused):
    """The command cannot be carried out; the text says what, where and what to do."""


class Usage(WrongUse):
    """The command line contradicts itself; exit code 2."""


class Parser(argparse.ArgumentParser):
    """A parser whose help opens with an example and whose complaints are one line."""

    example = ""
    # By an option of other commands, what this command has instead.
    instead: Mapping[str, str] = {}

    def format_help(self) -> str:
        """The example, then argparse's help."""
        head = f"example:\n{self.example}\n" if self.example else ""
        return head + super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with 2."""
        say(f"{self.prog}: {' '.join(message.split())}; see `{self.prog} --help`")
        raise SystemExit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse all arguments; an unknown option is an error that names it.

        It is reported before missing arguments, which often follow from it.
        """
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            self._refuse_unknown(given)
        found, rest = super().parse_known_args(given, namespace)
        if rest:
            self._refuse_unknown(rest)
            self.error(f"{rest[0]!r}: one argument too many")
        return found, rest

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        known = self._option_string_actions
        for text in given[: given.index("--")] if "--" in given else given:
            name = text.partition("=")[0]
            # argparse accepts the beginning of an option's name for the option.
            if name.startswith("--") and not any(o.startswith(name) for o in known):
                other = self.instead.get(name)
                near = f": {other}" if other else did_you_mean(name, known)
                self.error(f"{name}: no such option{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a value that is not among an argument's choices."""
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            line = f"{value!r}: use {', '.join(known)}{did_you_mean(str(value), known)}"
            raise argparse.ArgumentError(action, line)


def did_you_mean(word: str, known: Any) -> str:
    """The end of an error about a word that is none of `known`: the nearest of them."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def say(line: str) -> None:
    """Print a warning or an error on stderr, as one printable line."""
    print(one_line(line), file=sys.stderr, flush=True)
