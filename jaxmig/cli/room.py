"""Whether a machine fits into the memory that will hold it: the computer's or a GPU's."""

from pathlib import Path
from typing import Any, Final

import jax

from jaxmig.cli.errors import Failure
from jaxmig.state.buckets import bucket, least_room
from jaxmig.state.machine import PAGE_BYTES

BYTES_PER_PAGE: Final = 128  # of the tables, generously
BYTES_PER_MAPPING: Final = 96  # while they are laid out
BYTES_PER_FOLIO: Final = 256  # of a program on a timeline, generously
LIMITS: Final = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def check_room(
    name: str,
    pages: int,
    nodes: int,
    content: bool,
    machines: int = 1,
    mappings: int = 0,
) -> None:
    """Refuse machines that memory cannot hold, before anything is made.

    Args:
      name: of the target, for the error.
      pages: base pages of all processes; every node has room for all of them.
      nodes: of each machine.
      content: whether frames hold their 4 KiB.
      machines: how many are alive at a time.
      mappings: of these pages by processes that are not on the machine.
    Raises:
      Failure: they need more memory than is free.
    """
    frames = bucket(pages, least_room(nodes)) * nodes
    need = frames * machines * (BYTES_PER_PAGE + PAGE_BYTES * content)
    need += mappings * machines * BYTES_PER_MAPPING
    where, there = memory()
    if there is not None and need > there:
        left = there - mappings * machines * BYTES_PER_MAPPING
        each = nodes * machines * (BYTES_PER_PAGE + PAGE_BYTES * content)
        fits = max(left, 0) // each * PAGE_BYTES / 2**30
        advice = "use fewer pages" + (f" ({fits:,.1f} GiB fit)" if fits else "")
        advice += " or --no-content" if content else ""
        raise Failure(
            f"{name} on {nodes} nodes needs {need / 2**30:,.1f} GiB of memory, {where} "
            f"has {there / 2**30:,.1f} GiB free; {advice}"
        )


def check_timeline(name: str, folios: int, advice: str) -> None:
    """Raises Failure for a program that memory cannot hold while it is played.

    Args:
      folios: of its memory; what is kept of each is all that grows.
      advice: how it needs less.
    """
    need = folios * BYTES_PER_FOLIO
    where, there = memory()
    if there is not None and need > there:
        raise Failure(
            f"{name} needs {need / 2**30:,.1f} GiB of memory to be played, {where} has "
            f"{there / 2**30:,.1f} GiB free; {advice}"
        )


def memory() -> tuple[str, int | None]:
    """The name of the device that holds a machine's arrays, and its free bytes."""
    device = accelerator()
    if device is None:
        return "this computer", _available()
    found = device.memory_stats() or {}
    limit = found.get("bytes_limit")
    free = None if limit is None else limit - found.get("bytes_in_use", 0)
    return f"the {device.device_kind}", free


def accelerator() -> Any:
    """The device that commands run on, None for the CPU."""
    device = jax.local_devices()[0]
    return None if device.platform == "cpu" else device


def _available() -> int | None:
    """Bytes that may still be used; None where the system does not say."""
    found = []
    for name in LIMITS:
        try:
            found.append(int(Path(name).read_text("ascii")))
        except (OSError, ValueError):
            continue  # no such limit, or "max"
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return min(found, default=None)
