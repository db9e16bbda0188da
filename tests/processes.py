"""Programs run beside the tests: with a limit, and with an end that they cannot refuse."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax

HERE = Path(__file__).parent
GRACE_S = 5
LIMIT_S = 1800  # only what hangs takes so long


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """A port of the loopback that nobody else gets: gRPC may bind it beside us."""
    with contextlib.closing(socket.socket()) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


@contextlib.contextmanager
def told(code: str, *args: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`jaxmig ARGS` behind `code`, as soon as that has called tell().

    Whoever waits for a sign need not know how fast the machine is today.
    """
    reader, writer = os.pipe()
    first = f"import os, sys\ntell = lambda: os.write({writer}, b'.')\n"
    last = "from jaxmig.cli import main\nsys.exit(main())\n"
    child = subprocess.Popen(
        [sys.executable, "-c", first + code + last, *args],
        cwd=HERE.parent,
        env=os.environ | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(writer,),
    )
    os.close(writer)
    try:
        # Nothing comes from a program that ends before.
        assert os.read(reader, 1) == b".", child.communicate()
        yield child
    finally:
        os.close(reader)
        end(child)


def until(happens: Callable[..., object]) -> bool:
    """Wait for something; False after a time that only what hangs takes."""
    last = time.monotonic() + LIMIT_S
    while not happens():
        if time.monotonic() > last:
            return False
        time.sleep(0.01)
    return True


def environment(devices: int = 1) -> dict[str, str]:
    """That of a program with so many devices on the CPU."""
    cache = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        # Their programs run for moments and compile for minutes.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        " --xla_backend_optimization_level=0",
        # Threads for collectives that wait for each other, however few cores there are.
        "NPROC": "32",
        "PYTHONPATH": path,
        **({"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}),
    }


def together(
    programs: Sequence[Sequence[str]], env: Mapping[str, str], limit_s: float
) -> None:
    """Run Python programs side by side; all must succeed in time.

    What they wrote is shown if one does not.
    """
    with contextlib.ExitStack() as stack:
        outs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in programs]
        started = []
        for program, out in zip(programs, outs, strict=True):
            command = [sys.executable, *program]
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
            stack.callback(end, process)
            started.append(process)
        codes = [_wait(p, time.monotonic() + limit_s) for p in started]
        said = []
        for out in outs:
            out.seek(0)
            said.append(out.read())
    assert codes == [0] * len(programs), "\n".join(said)


def _wait(process: subprocess.Popen, deadline: float) -> int | str:
    try:
        return process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        return "late"


def end(process: subprocess.Popen) -> None:
    """SIGTERM first; jax.distributed may hold a process that got it for ever."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    if process.poll() is None:
        process.kill()
        process.wait()
