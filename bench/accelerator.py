"""Serial against batched on the device that JAX finds, beside its memory's speed.

Every repeat runs on a fresh machine of one process with 128 CPUs and warm TLBs, and is
checked on the device.  The floor of contents is a copy of as many bytes from one end of
the device's memory to the other.  That of metadata is what no call can do without: for
each page a row and an entry read at random, two rows and two entries written at random.
Mixes (`mixes.py`) are timed beside as many base pages.
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import mixes
import timing
from engine import Task, call, heads, miscounted, wrong

KERNELS: Final = ("6.2", "6.3")
# What is asked most comes first: a run may be cut off.
CONTENTS: Final = (1 << 20, 1 << 22)
SIZES: Final = (1 << 26, 1 << 14, 1 << 20, 1 << 24)
MIXES: Final = (
    *("all", "quarter", "64k", "16k", "hugetlb", "shared"),
    *("conditions", "stay", "split"),
)
WORDS: Final = 1 << 10


def copied(pages: int, repeat: int) -> float:
    """Seconds in which the device copies the contents of so many pages, in one piece."""
    copy = jax.jit(lambda block: block ^ jnp.uint32(1))
    # Twice as much as a cache holds, or a small copy would not reach the memory.
    block = jnp.zeros((max(pages, 1 << 15), WORDS), jnp.uint32)
    return _median(lambda: copy(block), repeat) * pages / block.shape[0]


def touched(pages: int, repeat: int) -> float:
    """Seconds of the random reads and writes that migrating so many pages needs."""
    n = jnp.arange(pages, dtype=jnp.uint32)
    # A permutation without a table: an odd factor modulo a power of two.
    size = 1 << max(pages - 1, 1).bit_length()
    at = ((n * jnp.uint32(0x9E3779B1)) % jnp.uint32(size)).astype(jnp.int32)

    @jax.jit
    def touch(rows: jax.Array, entries: jax.Array, at: jax.Array) -> tuple[Any, Any]:
        row, entry = rows[at], entries[at]
        for k in (1, 2):
            rows = rows.at[at + size * (k - 1)].set(row + k, mode="drop")
            entries = entries.at[at].set(entry + k, mode="drop")
        return rows, entries

    rows = jnp.zeros((2 * size, 4), jnp.int32)
    entries = jnp.zeros((size, 2), jnp.int32)
    return _median(lambda: touch(rows, entries, at), repeat)


def _median(run: Callable[[], Any], repeat: int) -> float:
    """Seconds of a call; the first one compiles."""
    walls = []
    for _ in range(repeat + 1):
        wall, out = timing.timed(run)
        del out
        walls.append(wall)
    return timing.median(walls[1:])


def row(task: Task, repeat: int) -> timing.Row:
    """Median of so many calls, the first of which is compiled."""
    walls, compiling = [], 0.0
    for i in range(repeat + 1):
        gc.collect()
        m = task.machine()
        before = heads(m.pte, m.geometry.ptes)
        m, result, wall, seconds = call(task, m)
        bad = wrong(task, before, m) if i < 1 else ""
        bad = ", ".join(filter(None, (bad, miscounted(task, result))))
        if bad:
            raise SystemExit(f"accelerator: {bad}")
        compiling += seconds
        walls.append(wall)
        del m, before
    middle = timing.median(walls[1:])
    floor = (copied if task.content else touched)(task.pages, repeat)
    return {
        "kernel": task.kernel,
        "pages": task.pages,
        "content": 4096 * task.content,
        "median_s": middle,
        "least_s": min(walls),
        "Mpages/s": task.pages / middle / 1e6,
        "compile_s": compiling,
        "floor_s": floor,
        "ratio": middle / floor,
    }


def sizes(text: str) -> list[int]:
    """Comma-separated numbers of pages; none if there is nothing."""
    return [int(n) for n in text.split(",") if n]


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contents", type=sizes, default=CONTENTS, help="pages")
    parser.add_argument("--pages", type=sizes, default=SIZES, help="without contents")
    parser.add_argument("--mix", type=mixes.some_of(mixes.MIXES), default=MIXES)
    parser.add_argument("--mixed", type=int, default=1 << 20, help="pages of a mix")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after")
    parser.add_argument("--quick", action="store_true", help="one small size, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.contents, args.pages, args.mix, args.repeat = [1 << 12], [1 << 12], [], 2
    ends = time.monotonic() + args.seconds
    cases = [(pages, True) for pages in args.contents]
    cases += [(pages, False) for pages in args.pages]
    tasks = [Task(*case, kernel) for case in cases for kernel in KERNELS]
    found: list[timing.Row] = []
    mixed: list[timing.Row] = []
    try:
        for task in tasks:
            if time.monotonic() < ends:
                found.append(row(task, args.repeat))
                print(f"{task.kernel} {task.pages} done", file=sys.stderr, flush=True)
        for name in args.mix:
            for kernel in KERNELS:
                if time.monotonic() < ends:
                    mix = mixes.MIXES[name]
                    mixed.append(mixes.row(mix, kernel, args.mixed, args.repeat))
    finally:
        # What was measured is worth knowing, whatever became of the rest.
        for rows, name in ((found, "accelerator"), (mixed, "accelerator_mixes")):
            if rows:
                print(timing.table(rows))
            if rows and args.save:
                timing.save(name, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
