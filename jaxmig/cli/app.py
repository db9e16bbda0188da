"""From the arguments to a command, and from what goes wrong to an exit code.

0 success, 1 failure of what was asked, 2 wrong usage, 130 interrupted; 129 and 143 the
terminal closed, terminated.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from jax.errors import JaxRuntimeError

from jaxmig import __version__, files
from jaxmig.cli import (
    advise,
    calibrate,
    completion,
    diff,
    explain,
    machines,
    manpage,
    memhog,
    migratepages,
    migspeed,
    play,
    pmbench,
    replay,
    reproduce,
    snapshot,
    sweep,
)
from jaxmig.cli.errors import Failure, Parser, Usage, say
from jaxmig.machines import ProfileError
from jaxmig.nodes import NodeError
from jaxmig.procfs import ProcError
from jaxmig.scenario import ScenarioError
from jaxmig.snapshot import SnapshotError
from jaxmig.syscalls import NotModelled
from jaxmig.targets import TargetError
from jaxmig.timeline import TimetableError
from jaxmig.traces import TraceError

COMMANDS = (
    migratepages,
    play,
    snapshot,
    sweep,
    advise,
    calibrate,
    pmbench,
    replay,
    reproduce,
    diff,
    explain,
    memhog,
    migspeed,
    machines,
)
KNOWN = (
    *(Failure, NodeError, ProcError, ProfileError, ScenarioError, SnapshotError),
    NotModelled,
    TraceError,
    TimetableError,
)
ENDS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "the terminal closed",
}
EXAMPLE = """  jaxmig migratepages memhog:64m 0 1   64 MiB to node 1, serial and batched
  jaxmig COMMAND --help                the options of a command, with an example
"""


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(
        prog="jaxmig",
        description="Simulates how Linux migrates pages between memory nodes.",
    )
    top.example = EXAMPLE
    top.add_argument("--version", action="version", version=f"jaxmig {__version__}")
    completion.add(top)
    manpage.add(top)
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=Parser
    )
    for module in COMMANDS:
        module.add(commands)
    completion.files(commands)
    return top


def main(argv: Sequence[str], alone: bool) -> int:
    """Run a command; returns its exit code.

    `alone`: the process is the command's, with its signals and its streams.
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
    """A command, and what becomes of output that cannot be written."""
    name = "jaxmig"
    try:
        try:
            args = parser().parse_args(argv)
            args.typed = list(argv)
        except SystemExit as stop:
            sys.stdout.flush()
            return int(stop.code or 0)
        name = f"jaxmig {args.command}"
        code = _run(name, args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        pass  # whoever read our output has seen enough
    except OSError as error:
        where = error.filename or "standard output"
        reason = error.strerror or str(error)
        say(f"{name}: {where}: {reason}; choose another place")
    # What is still buffered must not fail once more when Python ends.
    with contextlib.suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(name: str, args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
        return code
    except (Usage, TargetError) as error:
        say(f"{name}: {error}; see `{name} --help`")
        return 2
    except KNOWN as error:
        say(f"{name}: {error}")
        return 1
    except (MemoryError, JaxRuntimeError) as error:
        # XLA says RESOURCE_EXHAUSTED; whatever else it says is a fault worth a trace.
        if isinstance(error, JaxRuntimeError) and "RESOURCE_EXH" not in str(error):
            raise
        bare = getattr(args, "content", None) is False
        say(
            f"{name}: out of memory; use {'' if bare else '--no-content or '}fewer pages"
        )
        return 1
    except KeyboardInterrupt:
        say(f"{name}: interrupted")
        return 130


def _make_streams_safe() -> None:
    """Any text can be written to both, also where they are closed or know few letters.

    Python has None for a stream that the caller closed, `>&-`; nobody reads it.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        # Names of files and processes need not be text at all.
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

    # Who ignores a signal (nohup) goes on doing so.
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
