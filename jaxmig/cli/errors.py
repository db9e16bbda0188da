"""What ends a command: a line for stderr and an exit code."""

import argparse
import sys
from typing import NoReturn


class Failure(Exception):
    """What was asked cannot be done; the text says what, where and what to do."""


class Usage(Exception):
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
        one = " ".join(message.split())
        print(f"{self.prog}: {one}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)


def say(line: str) -> None:
    """A warning or an error on stderr."""
    print(line, file=sys.stderr, flush=True)
