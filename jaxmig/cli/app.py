"""From the arguments to a command, and from errors to an exit code.

0: success.  1: the command failed.  2: wrong usage.  130: interrupted.  129: the terminal
was closed.  143: terminated.
"""

import argparse
import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from jaxmig import __version__
from jaxmig.cli import completion, manpage, output
from jaxmig.cli.errors import Parser, say
from jaxmig.host import files
from jaxmig.host.refused import Refused, WrongUse

# Each has its options in `jaxmig.cli.parsers` and its work in `jaxmig.cli`.
COMMANDS: Final = {
    "migratepages": "migrate a target's pages between nodes, serial and batched side "
    "by side",
    "run": "play scenario files: a machine, its pages, and the calls that move them",
    "snapshot": "save the page table of live processes, read from /proc",
    "sweep": "migrate a target in many configurations, a row of results each",
    "advise": "find the batch limit and mode that are fastest within a stall budget",
    "calibrate": "make a machine profile from measurements of your own",
    "pmbench": "pmbench 0.9 on the modelled machine, its report, with pages migrating",
    "replay": "play a recorded trace of addresses, with its memory migrating",
    "reproduce": "print every published figure beside the prediction, with its error",
    "diff": "say what changed between two results of --json, and why",
    "explain": "show a small migration phase by phase: page table, TLBs, memory",
    "memhog": "memhog on the modelled machine, with its memory migrating",
    "migspeed": "migspeed on the modelled machine: pages of its own, moved by mbind",
    "machines": "list the machine profiles, or every number of one with its source",
}
OWN_HELP: Final = ("pmbench",)  # as in the original, its -h is --threshold
ENDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal closed",
}
EXAMPLE = """  jaxmig migratepages memhog:64m 0 1   64 MiB to node 1, serial and batched
  jaxmig COMMAND --help                the options of a command, with an example
"""


def parser(only: str | None = None) -> Parser:
    """The parser of all commands.

    Args:
      only: the one command whose options are added; None for all commands.
    """
    top = Parser(
        prog="jaxmig",
        description="Simulates how Linux migrates pages between memory nodes.",
    )
    top.example = EXAMPLE
    top.add_argument("--version", action="version", version=f"jaxmig {__version__}")
    completion.add(top, parser)
    manpage.add(top, parser)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, summary in COMMANDS.items():
        about = f"{summary[0].upper()}{summary[1:]}."
        made = commands.add_parser(
            name, help=summary, description=about, add_help=name not in OWN_HELP
        )
        if only in (None, name):
            importlib.import_module(f"jaxmig.cli.parsers.{name}").fill(made)
    return top


def main(argv: Sequence[str], alone: bool) -> int:
    """Run a command; returns its exit code.

    Args:
      alone: the process runs only this command: signals and streams may be changed.
    """
    try:
        if not alone:
            return _main(argv)
        _make_streams_safe()
        with interruptible():
            return _main(argv)
    finally:
        files.drop()


def _main(argv: Sequence[str]) -> int:
    """Run a command; output that cannot be written becomes a line and an exit code."""
    name = "jaxmig"
    try:
        try:
            only = next((word for word in argv if not word.startswith("-")), "")
            name = f"jaxmig {only}" if only in COMMANDS else name
            code = _run(name, only, argv)
        except SystemExit as stop:
            sys.stdout.flush()
            return int(stop.code or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass  # the reader of our output closed it, as `head` does
    except OSError as error:
        where = error.filename or "standard output"
        reason = error.strerror or str(error)
        say(f"{name}: {where}: {reason}; choose another place")
    # Python writes what is still buffered at its end, which must not fail again.
    with contextlib.suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(name: str, only: str, argv: Sequence[str]) -> int:
    args = argparse.Namespace(typed=list(argv))
    try:
        parser(only).parse_args(argv, args)
        output.protect(args)
        command = importlib.import_module(f"jaxmig.cli.{args.command}")
        gc.freeze()
        gc.enable()
        code: int = command.run(args)
        return code
    except WrongUse as error:
        say(f"{name}: {error}; see `{name} --help`")
        return 2
    except Refused as error:
        say(f"{name}: {error}")
        return 1
    except Exception as error:
        if not _memory_ended(error):
            raise
        bare = getattr(args, "content", False) is False
        say(
            f"{name}: out of memory; use {'' if bare else '--no-content or '}fewer pages"
        )
        return 1
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return 130


def _memory_ended(error: Exception) -> bool:
    """Whether memory ended: XLA's RESOURCE_EXHAUSTED; other errors of it get a trace."""
    if isinstance(error, MemoryError):
        return True
    from jax.errors import JaxRuntimeError

    return isinstance(error, JaxRuntimeError) and "RESOURCE_EXH" in str(error)


def _make_streams_safe() -> None:
    """Let both streams take any text, also if they are closed or cannot encode it.

    Python has None for a stream that the caller closed, `>&-`.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # Names of files and processes may be bytes that are no text.
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C and kill end the program at once, also while compiled code runs.

    Python would see the signal only after that code returns, minutes later at worst;
    the C-level handler writes to a pipe immediately, and a thread waits there.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while got := os.read(reader, 1):
            if got[0] in ENDS:
                os.write(2, f"\njaxmig: {ENDS[got[0]]}\n".encode())
                files.drop()
                os._exit(128 + got[0])

    # A signal that is ignored from outside (nohup) stays ignored.
    caught = [s for s in ENDS if signal.getsignal(s) != signal.SIG_IGN]
    old = {s: signal.signal(s, lambda *_: None) for s in caught}
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(writer)
