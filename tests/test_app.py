"""From errors to exit codes, and a command's own streams and signals."""

import gc
import io
import os
import re
import runpy
import signal
import sys
from collections.abc import Iterator

import pytest
from jax.errors import JaxRuntimeError
from jaxmig import __version__, cli
from jaxmig.cli import app
from jaxmig.host.refused import Refused, WrongUse
from processes import until

FULL = OSError(28, "No space left on device")
DENIED = PermissionError(13, "Permission denied", "/x")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which this process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.fixture
def _as_it_was() -> Iterator[None]:
    old = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, old)
    gc.enable()


def fails(monkeypatch: pytest.MonkeyPatch, command: str, error: BaseException) -> None:
    def run(args: object) -> int:
        raise error

    monkeypatch.setattr(f"jaxmig.cli.{command}.run", run)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (WrongUse("x: bad"), 2, "x: bad; see `jaxmig machines --help`"),
        (Refused("x: bad"), 1, "x: bad"),
        (MemoryError(), 1, "out of memory; use fewer pages"),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: x"),
            1,
            "out of memory; use fewer pages",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FULL, 1, "standard output: No space left on device; choose another place"),
        (DENIED, 1, "/x: Permission denied; choose another place"),
    ],
)
def test_an_error_is_a_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    fails(monkeypatch, "machines", error)
    assert cli.main(["machines"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"jaxmig machines: {said}\n", err)


def test_what_does_not_help_is_not_advised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, "migratepages", MemoryError())
    command = ["migratepages", "memhog:1m", "0", "1"]
    for more, advice in (([], "--no-content or "), (["--no-content"], "")):
        assert cli.main([*command, *more]) == 1
        said = capsys.readouterr().err
        assert said.endswith(f"out of memory; use {advice}fewer pages\n")


def test_a_closed_pipe_is_nobody_s_business(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, "machines", BrokenPipeError())
    assert cli.main(["machines"]) == 1
    assert capsys.readouterr() == ("", "")


def test_a_fault_of_the_program_keeps_its_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails(monkeypatch, "machines", JaxRuntimeError("INTERNAL: x"))
    with pytest.raises(JaxRuntimeError, match="INTERNAL"):
        cli.main(["machines"])


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "the terminal closed"),
    ],
)
def test_a_signal_ends_the_program_at_once(
    ended: list[int],
    capfd: pytest.CaptureFixture[str],
    number: int,
    code: int,
    said: str,
) -> None:
    """A thread sees it; afterwards signals are whose they were."""
    old = signal.getsignal(number)
    with app.interruptible():
        os.kill(os.getpid(), number)
        assert until(lambda: ended)
    assert ended == [code]
    assert capfd.readouterr().err == f"\njaxmig: {said}\n"
    assert signal.getsignal(number) is old


def test_streams_take_any_text_and_may_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream that knows ASCII alone, and one that the caller closed."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    monkeypatch.setattr(sys, "stderr", None)

    def run(args: object) -> int:
        print("\u00b5s")
        print("lost", file=sys.stderr)
        return 0

    monkeypatch.setattr("jaxmig.cli.machines.run", run)
    assert app.main(["machines"], alone=True) == 0
    assert raw.getvalue() == b"\\xb5s\n"
    sys.stderr.close()


@pytest.mark.usefixtures("_as_it_was")
def test_python_m_jaxmig(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    ended: list[int],
) -> None:
    """Until it is imported, Ctrl-C ends it without Python's help."""
    monkeypatch.setattr(sys, "argv", ["jaxmig", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("jaxmig", run_name="__main__")
    assert left.value.code == 0
    signal.raise_signal(signal.SIGINT)
    assert ended == [130]
    assert capfd.readouterr() == (f"jaxmig {__version__}\n", "\njaxmig: interrupted\n")
