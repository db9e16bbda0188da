"""Completion of commands, options and file names in bash and zsh.

eval "$(jaxmig --print-completion bash)"
"""

import argparse
from collections.abc import Callable
from typing import Any, Final

from jaxmig.cli.errors import Parser

SHELLS: Final = ("bash", "zsh")
# Arguments whose value names a file, by metavar.
FILES: Final = ("FILE", "FILE.npz", "FILE.toml", "SCENARIO.toml", "TARGET", "TRACE")


def script(top: argparse.ArgumentParser, shell: str) -> str:
    """The text that a shell evaluates; `top` knows all options of all commands."""
    import shtab

    (commands,) = (a for a in top._actions if isinstance(a.choices, dict))
    for parser in dict(commands.choices or {}).values():
        for action in parser._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE
    text = shtab.complete(top, shell)
    # shtab quotes no option; zsh would look for files that pmbench's -? matches.
    return text.replace("{-?,", "{-\\?,") if shell == "zsh" else text


def add(top: Parser, whole: Callable[[], Parser]) -> None:
    """The option that prints the script of the whole parser; shtab's offers tcsh too."""

    class Print(argparse.Action):
        """Writes the script and leaves."""

        def __call__(self, parser: Any, namespace: Any, values: Any, _: Any) -> None:
            del namespace
            print(script(whole(), values), flush=True)
            parser.exit()

    top.add_argument(
        "--print-completion",
        action=Print,
        choices=SHELLS,
        metavar="SHELL",
        help=f"the script that completes jaxmig in {' or '.join(SHELLS)}",
    )
