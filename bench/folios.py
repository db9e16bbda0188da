"""What do larger folios cost beside memcpy, and shared pages beside others?

Builder's machines.  The floor of a folio is one memcpy of its size, from and to the
frames that it had and has.  Shared pages have two mappings, metadata only, batched.
"""

import argparse
import gc
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from engine import heads, jaxmig, view
from jaxmig.migrate import executable, limit_of
from jaxmig.rules import rules
from peers_c import copy_pages

TARGETS = {9: 1.1}  # by order; the others have none


def entries(m: Any, folios: int, order: int) -> slice:
    """The entry of each folio's first page: PMD leaves follow the PTEs."""
    first = m.geometry.ptes if order == 9 else 0
    step = 1 if order == 9 else 1 << order
    return slice(first, first + folios * step, step)


def large(folios: int, order: int) -> Any:
    """A machine of larger folios with contents, and their heads."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=[1, 2, 3]), folios << order, order=order)
    m = b.build(seed=0)
    return m, m.pte[entries(m, folios, order), 0]


def small(pages: int, shared: bool) -> Any:
    """A machine of base pages without contents, and their frames."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    owners = [b.process("a", running=[1, 2]), b.process("b", running=[3])]
    b.mmap(owners[: 1 + shared], pages, kind="shmem")
    m = b.build(seed=0, content=False)
    return m, heads(m.pte, m.geometry.ptes)[:pages]


def timed(made: Any, kernel: str = "6.3") -> tuple[float, Any, np.ndarray]:
    """Seconds of one call, the machine after it, the frames before it."""
    m, folios = made
    size = folios.shape[0]
    numbers = (jnp.int32(n) for n in (size, 1, 0))
    args = jax.block_until_ready((m, folios, *numbers, limit_of(512)))
    program = executable(rules(kernel), True, *args)
    start = time.perf_counter()
    m, result = jax.block_until_ready(program(*args))
    wall = time.perf_counter() - start
    if result.ret or result.errno:
        raise SystemExit(f"folios: ret {result.ret} {result.errno}")
    return wall, m, np.asarray(folios)


def large_row(kernel: str, order: int, folios: int, repeat: int) -> timing.Row:
    """Folios of one order beside memcpy of the same blocks in the same memory."""
    walls, floors = [], []
    for _ in range(repeat + 1):
        gc.collect()
        wall, m, old = timed(large(folios, order), kernel)
        new = np.asarray(m.pte[entries(m, folios, order), 0])
        pages = np.arange(1 << order)
        at, to = old[:, None] + pages, new[:, None] + pages
        memory = view(m.memory)
        if (memory[at[:, ::37]] != memory[to[:, ::37]]).any():
            raise SystemExit("folios: contents changed")
        walls.append(wall)
        floors.append(copy_pages(memory, old, new, 1 << order))
    what = f"{kernel}: {4 << order} KiB folios"
    return _row(what, folios, walls, "memcpy", floors, TARGETS.get(order, math.nan))


def shared_row(pages: int, repeat: int) -> timing.Row:
    """Two mappings a page beside one."""
    times: list[list[float]] = [[], []]
    for _ in range(repeat + 1):
        for shared in (False, True):
            gc.collect()
            times[shared].append(timed(small(pages, shared))[0])
    return _row("two mappings", pages, times[1], "one mapping", times[0], 2)


def _row(
    what: str, n: int, walls: list[float], peer: str, floor: list[float], target: float
) -> timing.Row:
    a, b = timing.median(walls[1:]), timing.median(floor[1:])
    return {
        "what": what,
        "folios": n,
        "median_s": a,
        "peer": peer,
        "peer_s": b,
        "ratio": a / b,
        "target": target,
    }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    megabytes, pages = (32, 1 << 14) if args.quick else (512, 1 << 18)
    repeat = 2 if args.quick else args.repeat
    found = [
        large_row(kernel, order, (megabytes << 8) >> order, repeat)
        for kernel in ("6.3", "6.2")
        for order in (2, 4, 6, 8, 9)
    ]
    found.append(shared_row(pages, repeat))
    print(timing.table(found))
    if args.save:
        timing.save("folios", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
