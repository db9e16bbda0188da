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
from jaxmig.engine.migrate import executable, limit_of
from jaxmig.linux.rules import rules
from peers_c import copy_pages

TARGETS = {9: 1.1}  # by order; the others have none
ORDERS = (2, 4, 6, 8, 9)
KERNELS = ("6.3", "6.2")


def large(megabytes: int) -> tuple[Any, dict[int, slice]]:
    """A machine of folios of all sizes with contents, so much of each.

    Also the entries, by order, of the folios' first pages: one program serves them all.
    """
    b = jaxmig.Builder(nodes=2, cpus=4)
    app = b.process("app", running=[1, 2, 3])
    pages = megabytes << 8
    regions = {order: b.mmap(app, pages, order=order) for order in ORDERS}
    m = b.build(seed=0)
    where = {}
    for order, r in regions.items():
        # PMD leaves follow the PTEs.
        leaf = r.first_pmd.get(app.number)
        first = r.first_pte[app.number] if leaf is None else m.geometry.ptes + leaf
        step = 1 << order if leaf is None else 1
        where[order] = slice(first, first + r.folios * step, step)
    return m, where


def small(pages: int, shared: bool) -> Any:
    """A machine of base pages without contents, and their frames."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    owners = [b.process("a", running=[1, 2]), b.process("b", running=[3])]
    b.mmap(owners[: 1 + shared], pages, kind="shmem")
    m = b.build(seed=0, content=False)
    return m, heads(m.pte, m.geometry.ptes)[:pages]


def timed(m: Any, folios: Any, size: int, node: int, kernel: str) -> tuple[float, Any]:
    """Seconds of one call, and the machine after it."""
    numbers = (jnp.int32(n) for n in (size, node, 0))
    args = jax.block_until_ready((m, folios, *numbers, limit_of(512)))
    program = executable(rules(kernel), True, *args)
    start = time.perf_counter()
    m, result = jax.block_until_ready(program(*args))
    wall = time.perf_counter() - start
    if result.ret or result.errno:
        raise SystemExit(f"folios: ret {result.ret} {result.errno}")
    return wall, m


def large_rows(megabytes: int, repeat: int) -> list[timing.Row]:
    """Folios of each order beside memcpy of the same blocks in the same memory."""
    m, where = large(megabytes)
    room = (megabytes << 8) >> min(ORDERS)
    cases = [(k, o) for k in KERNELS for o in ORDERS]
    walls: dict[Any, list[float]] = {case: [] for case in cases}
    floors: dict[Any, list[float]] = {case: [] for case in cases}
    there = dict.fromkeys(ORDERS, 0)
    for _ in range(repeat + 1):
        for kernel, order in cases:
            # There and back: the frames of a folio are others each time.
            there[order] = 1 - there[order]
            old = np.array(m.pte[where[order], 0])
            folios = np.zeros(room, np.int32)
            folios[: old.size] = old
            wall, m = timed(m, jnp.asarray(folios), old.size, there[order], kernel)
            new = np.array(m.pte[where[order], 0])
            memory = view(m.memory)
            _check(memory, old, new, order)
            walls[kernel, order].append(wall)
            floors[kernel, order].append(copy_pages(memory, old, new, 1 << order))
    return [
        _row(
            f"{k}: {4 << o} KiB folios",
            (megabytes << 8) >> o,
            walls[k, o],
            "memcpy",
            floors[k, o],
            TARGETS.get(o, math.nan),
        )
        for k, o in cases
    ]


def _check(memory: np.ndarray, old: np.ndarray, new: np.ndarray, order: int) -> None:
    pages = np.arange(1 << order)
    at, to = old[:, None] + pages, new[:, None] + pages
    if (old == new).any() or (memory[at[:, ::37]] != memory[to[:, ::37]]).any():
        raise SystemExit("folios: contents changed")


def shared_row(pages: int, repeat: int) -> timing.Row:
    """Two mappings a page beside one."""
    times: list[list[float]] = [[], []]
    for _ in range(repeat + 1):
        for shared in (False, True):
            gc.collect()
            m, folios = small(pages, shared)
            size = folios.shape[0]
            times[shared].append(timed(m, folios, size, 1, "6.3")[0])
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
    parser.add_argument("--megabytes", type=int, default=256, help="of each size")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    megabytes, pages = (16, 1 << 14) if args.quick else (args.megabytes, 1 << 18)
    repeat = 2 if args.quick else args.repeat
    found = [*large_rows(megabytes, repeat), shared_row(pages, repeat)]
    print(timing.table(found))
    if args.save:
        timing.save("folios", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
