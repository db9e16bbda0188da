"""Completion of commands, options, values and file names in bash, zsh and fish.

eval "$(jaxmig --print-completion bash)"
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, Final

from jaxmig.cli.errors import Parser
from jaxmig.linux.releases import RELEASES
from jaxmig.time import machines

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


def script(top: argparse.ArgumentParser, shell: str) -> str:
    """The text that a shell evaluates; `top` knows all options of all commands."""
    import shtab

    _offer(top, shell)
    text = shtab.complete(top, shell)
    # shtab quotes no option; the ? of pmbench's -? would stand for files.
    if shell == "zsh":
        text = text.replace("{-?,", "{-\\?,")
    return text.replace("-s ? ", r"-s '?' ") if shell == "fish" else text


def _offer(parser: argparse.ArgumentParser, shell: str) -> None:
    """Give options whose type takes many values a short list of choices.

    Afterwards the parser would refuse other values, so it must not parse any more.
    """
    import shtab

    # In zsh's specifications a colon ends a value.
    engines = tuple(e.replace(":", r"\:") if shell == "zsh" else e for e in ENGINES)
    names = tuple(machines.names())
    offered = {"--kernel": KERNELS, "--machine": names, "--copy": engines}
    for action in _actions(parser):
        for option in action.option_strings:
            if option in offered:
                action.choices = offered[option]
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)


def add(top: Parser, whole: Callable[[], Parser]) -> None:
    """Add the option that prints the whole parser's script; shtab's own offers tcsh too."""

    class PrintCompletion(argparse.Action):
        """Print the script and exit."""

        def __call__(self, parser: Any, namespace: Any, values: Any, _: Any) -> None:
            del namespace
            print(script(whole(), values), flush=True)
            parser.exit()

    top.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help=f"the script that completes jaxmig in {', '.join(SHELLS)}",
    )
