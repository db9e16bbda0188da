"""What ends a command: a line for stderr and an exit code."""

import argparse
import sys
from typing import NoReturn

from jaxmig.refused import Refused, WrongUse
from jaxmig.terminal import message as one_line


class Failure(Refused):
    """What was asked cannot be done; the text says what, where and what to do."""


class Usage(WrongUse):
    """The command line contradicts itself; exit code 2."""


class Parser(argparse.ArgumentParser):
    """A parser whose help opens with an example and whose complaints are one line."""

    example = ""

    def format_help(self) -> str:
        """The example, then what argparse says."""
        head = f"example:\n{self.example}\n" if self.example else ""
        return head + super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with 2."""
        say(f"{self.prog}: {' '.join(message.split())}; see `{self.prog} --help`")
        raise SystemExit(2)


def say(line: str) -> None:
    """A warning or an error on stderr: one line, whatever is in it."""
    print(one_line(line), file=sys.stderr, flush=True)
