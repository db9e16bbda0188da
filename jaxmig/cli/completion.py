"""Completion of commands, options, values and file names in bash, zsh and fish.

eval "$(jaxmig --print-completion bash)"
"""

import argparse
from collections.abc import Iterator
from typing import Final

import shtab

from jaxmig import machines
from jaxmig.cli.errors import Parser
from jaxmig.releases import RELEASES

SHELLS: Final = ("bash", "zsh", "fish")
# Arguments whose value names a file, by metavar.
FILES: Final = (
    "FILE",
    "FILE.npz",
    "FILE.html",
    "A.json",
    "B.json",
    "FILE.toml",
    "SCENARIO.toml",
    "TARGET",
    "TRACE",
)


# Values of options that take more than these: lists, counts, files.
KERNELS: Final = ("both", "all", "latest", *RELEASES)
ENGINES: Final = ("cpu", "threads:4", "dma:4")


class _Print(argparse.Action):
    """Writes the completion script and leaves; shtab's own option offers tcsh too."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del namespace, option_string
        print(script(parser, str(values)), flush=True)
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text that a shell evaluates."""
    _offer(parser, shell)
    text = shtab.complete(parser, shell)
    # shtab quotes no option; zsh would look for files that pmbench's -? matches.
    return text.replace("{-?,", "{-\\?,") if shell == "zsh" else text


def _offer(parser: argparse.ArgumentParser, shell: str) -> None:
    """Values to choose from, where an option has a type that takes others, too.

    The parser is of no use afterwards: it would refuse those others.
    """
    # In zsh's specifications a colon ends a value.
    engines = tuple(e.replace(":", r"\:") if shell == "zsh" else e for e in ENGINES)
    names = tuple(machines.names())
    offered = {"--kernel": KERNELS, "--machine": names, "--copy": engines}
    for action in _actions(parser):
        for option in action.option_strings:
            if option in offered:
                action.choices = offered[option]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)


def add(top: Parser) -> None:
    """The option that prints the script."""
    top.add_argument(
        "--print-completion",
        action=_Print,
        choices=SHELLS,
        metavar="SHELL",
        help=f"the script that completes jaxmig in {', '.join(SHELLS)}",
    )


def files(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Let arguments that name files complete to them."""
    for parser in commands.choices.values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
