"""The manual page, jaxmig(1), made from the parser so that both always agree.

jaxmig --print-man > jaxmig.1
"""

import argparse
from collections.abc import Callable, Iterator

from jaxmig import __version__
from jaxmig.cli.errors import Parser
from jaxmig.host.terminal import printable

EXITS = (
    ("0", "success"),
    ("1", "a failure of what was asked; one line on standard error says why"),
    ("2", "wrong usage"),
    ("130", "interrupted"),
)


def add(top: Parser, whole: Callable[[], Parser]) -> None:
    """Add the option that prints the whole parser's page."""

    class PrintManPage(argparse.Action):
        """Print the page and exit."""

        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            print("\n".join(page(whole())), flush=True)
            parser.exit()

    top.add_argument(
        "--print-man",
        action=PrintManPage,
        nargs=0,
        help="this manual page: man -l FILE",
    )


def page(top: argparse.ArgumentParser) -> Iterator[str]:
    """Lines of roff with the macros of man(7)."""
    yield f'.TH JAXMIG 1 "" "jaxmig {__version__}" "User Commands"'
    yield from (".SH NAME", r"jaxmig \- " + _text(top.description or ""))
    yield from (".SH SYNOPSIS", r".B jaxmig", ".I COMMAND ...")
    yield from (".SH OPTIONS", *_options(top))
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                yield from _command(name, parser)
    yield ".SH EXIT STATUS"
    for code, what in EXITS:
        yield from (".TP", f".B {code}", _text(what))


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f'.SH "JAXMIG {name.upper()}"'
    yield _text(parser.description or "")
    yield from (".PP", ".nf")
    yield from map(_text, getattr(parser, "example", "").splitlines())
    yield ".fi"
    yield from _options(parser)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        yield from (
            ".TP",
            rf"\fB{_text(formatter._format_action_invocation(action))}\fR",
        )
        yield _text(formatter._expand_help(action) if action.help else "")


def _text(raw: str) -> str:
    """Text in which roff finds no request and no escape."""
    plain = printable(raw).replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{plain}" if plain[:1] in (".", "'") else plain
