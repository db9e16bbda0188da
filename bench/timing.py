"""What benchmarks share: memory, the machine they ran on, tables and files of rows."""

import csv
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")
Row = dict[str, Any]


def peak_rss() -> int:
    """Bytes this process has had resident at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until what `run` returns is ready, and that."""
    import jax

    start = time.perf_counter()
    out = jax.block_until_ready(run())
    return time.perf_counter() - start, out


def processor() -> str:
    """Name of the device that JAX works on, or of the CPU."""
    import jax

    first = jax.devices()[0]
    if first.platform != "cpu":
        return f"{first.device_kind} x {jax.device_count()}"
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return f"{names[0]} x {len(names)}" if names else platform.machine()


def commit() -> str:
    """The commit that runs, with a plus sign if the engine differs from it."""
    here = Path(__file__).parent.parent
    asked = (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "jaxmig"))
    try:
        name, changes = (
            subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in asked
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changes else "")


def environment() -> Row:
    """Where and on what a measurement was taken."""
    import jax

    return {
        "commit": commit(),
        "cpu": processor(),
        "jax": jax.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def median(values: Sequence[float]) -> float:
    """The middle one of several runs."""
    return statistics.median(values)


def save(name: str, rows: Iterable[Row]) -> None:
    """Append rows to bench/results/NAME.csv, each with where it was measured."""
    where = environment()
    full = [row | where for row in rows]
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(full[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(full)


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys as aligned text."""
    head = list(rows[0])
    cells = [head] + [[_cell(row[key]) for key in head] for row in rows]
    width = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.rjust(w) for c, w in zip(line, width, strict=True))
        for line in cells
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
