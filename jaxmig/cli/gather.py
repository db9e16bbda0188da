"""Parts of a sweep from processes without a shared directory, sent by JAX collectives."""

from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxmig.cli import output
from jaxmig.cli.errors import Failure, Usage


def join(coordinator: str, processes: int, process: int) -> None:
    """Connect to the other processes; must come before any use of JAX's devices."""
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit()):
        raise Usage(f"--coordinator {coordinator!r}: write HOST:PORT, process 0's")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Failure(f"--coordinator {coordinator}: {reason}") from None


def exchange(parts: list[Path], process: int) -> None:
    """Write every process's part as a file beside the one of process 0."""
    mine = np.frombuffer(parts[process].read_bytes(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size))
    room = np.zeros(int(sizes.max()), np.uint8)
    room[: mine.size] = mine
    everything = multihost_utils.process_allgather(room)
    if process == 0:
        for i, path in enumerate(parts):
            if i:
                with output.drafted(str(path)) as file:
                    file.write(everything[i, : int(sizes[i])].tobytes())
