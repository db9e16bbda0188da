"""Completion of commands, options and file names in bash and zsh.

eval "$(jaxmig --print-completion bash)"
"""

import argparse
from typing import Final

import shtab

from jaxmig.cli.errors import Parser

SHELLS: Final = ("bash", "zsh")
# Arguments whose value names a file, by metavar.
FILES: Final = ("FILE", "FILE.npz", "FILE.toml", "SCENARIO.toml", "TARGET", "TRACE")


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
    text = shtab.complete(parser, shell)
    # shtab quotes no option; zsh would look for files that pmbench's -? matches.
    return text.replace("{-?,", "{-\\?,") if shell == "zsh" else text


def add(top: Parser) -> None:
    """The option that prints the script."""
    top.add_argument(
        "--print-completion",
        action=_Print,
        choices=SHELLS,
        metavar="SHELL",
        help=f"the script that completes jaxmig in {' or '.join(SHELLS)}",
    )


def files(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Let arguments that name files complete to them."""
    for parser in commands.choices.values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
