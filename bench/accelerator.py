"""Serial against batched on the device that JAX finds, beside its memory's speed.

Every repeat runs on a fresh machine of one process with 128 CPUs and warm TLBs, and is
checked on the device.  The floor of contents is a copy of as many bytes from one end of
the device's memory to the other; metadata has none that a device would know.
"""

import argparse
import gc
import sys

import jax
import jax.numpy as jnp
import timing
from engine import Task, call, heads, miscounted, wrong

KERNELS = ("6.2", "6.3")
SIZES = (1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24)
CONTENT = 1 << 22  # pages at most, with contents: 32 GiB of the device's memory
WORDS = 1 << 10


def copied(pages: int, repeat: int) -> float:
    """Seconds in which the device copies the contents of so many pages, in one piece."""
    copy = jax.jit(lambda block: block ^ jnp.uint32(1))
    # Twice as much as a cache holds, or a small copy would not reach the memory.
    block = jnp.zeros((max(pages, 1 << 15), WORDS), jnp.uint32)
    times = []
    for _ in range(repeat + 1):
        wall, out = timing.timed(lambda: copy(block))
        del out
        times.append(wall)
    return timing.median(times[1:]) * pages / block.shape[0]


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
    floor = copied(task.pages, repeat) if task.content else float("nan")
    return {
        "kernel": task.kernel,
        "pages": task.pages,
        "content": 4096 * task.content,
        "median_s": middle,
        "least_s": min(walls),
        "Mpages/s": task.pages / middle / 1e6,
        "compile_s": compiling,
        "copy_s": floor,
        "ratio": middle / floor,
    }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", default=",".join(map(str, SIZES)))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small size, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    sizes = [int(n) for n in args.pages.split(",")]
    if args.quick:
        sizes, args.repeat = [1 << 12], 2
    tasks = [
        Task(pages, content, kernel)
        for content in (False, True)
        for pages in sizes
        if not content or pages <= CONTENT
        for kernel in KERNELS
    ]
    found = []
    for task in tasks:
        found.append(row(task, args.repeat))
        print(f"{task.kernel} {task.pages} done", file=sys.stderr, flush=True)
    print(timing.table(found))
    if args.save:
        timing.save("accelerator", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
