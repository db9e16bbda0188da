"""What do many configurations of one call cost beside as many single calls?

64 configurations (batch limit x CPU mask), counted by `sweep.count_many` in one
compilation, beside 64 warm calls of the compiled engine, batched and serial.  Then
10,000 configurations in chunks of 64, and those of `jaxmig sweep` with their prices.
Counts are compared, all of them.
"""

import argparse
import dataclasses
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from engine import Task, heads
from jaxmig.engine.migrate import executable, limit_of
from jaxmig.linux.rules import rules
from jaxmig.sources.targets import resolve
from jaxmig.state.machine import Machine
from jaxmig.time import machines
from jaxmig.tools.sweep import Grid, Sweep, count_many, play
from jaxmig.tools.sweep.memory import Memory

MANY = 64
TARGET = {1 << 12: 0.25, 1 << 16: 1.0}


def configurations(pages: int, n: int) -> tuple[list[Machine], list[int], np.ndarray]:
    """Machines that differ in how many CPUs run the process, limits, and the list."""
    m = Task(pages, content=False).machine()
    which = np.arange(128)
    running = (which[None] > 0) & (which[None] < 2 + np.arange(n)[:, None] % 126)
    cpus = [dataclasses.replace(m.cpus, mask=jnp.asarray(r[None])) for r in running]
    folios = np.asarray(heads(m.pte, m.geometry.ptes))[:pages]
    limits = [1 << i % 13 for i in range(n)]
    return [dataclasses.replace(m, cpus=c) for c in cpus], limits, folios


def beside(pages: int, kernel: str, repeat: int) -> timing.Row:
    """All at once beside one by one."""
    states, limits, folios = configurations(pages, MANY)
    r, heads_ = rules(kernel), jnp.asarray(folios)
    numbers = tuple(jnp.int32(n) for n in (pages, 1, 0))
    calls = [
        (m, heads_, *numbers, limit_of(b)) for m, b in zip(states, limits, strict=True)
    ]
    # What a call costs, not the host's part of asking for it.
    program = executable(r, False, *calls[0])

    def single() -> list[Any]:
        return [jax.block_until_ready(program(*args))[1] for args in calls]

    def many() -> Any:
        return count_many(states, folios, 1, batch=limits, kernel=kernel)

    times: list[list[float]] = [[], []]
    for _ in range(repeat + 1):
        for run, found in ((single, times[0]), (many, times[1])):
            wall, out = timing.timed(run)
            found.append(wall)
            if run is single:
                one_by_one = out
    for i, one in enumerate(one_by_one):
        # How a call was worked is its own affair.
        told = ((x.failed, x.error, x.events) for x in (one, out))
        for a, b in zip(*map(jax.tree.leaves, told), strict=True):
            if not np.array_equal(a, b[i]):
                raise SystemExit(f"sweep: configuration {i} counts something else")
    one, all_ = (timing.median(t[1:]) for t in times)
    return _row(
        f"{MANY} configurations, {kernel}", pages, MANY, all_, one, TARGET.get(pages)
    )


def thousands(pages: int, n: int) -> timing.Row:
    """So many configurations in chunks."""
    states, limits, folios = configurations(pages, n)
    some = slice(0, MANY)
    timing.timed(lambda: count_many(states[some], folios, 1, batch=limits[some]))
    wall, out = timing.timed(lambda: count_many(states, folios, 1, batch=limits))
    if out.failed.shape != (n,) or out.failed.any():
        raise SystemExit("sweep: something failed")
    return _row("in chunks of 64", pages, n, wall, None, None)


def rows_of_sweep(pages: int, n: int) -> timing.Row:
    """The rows of `jaxmig sweep`: counts, prices on two machines, text."""
    names = ("xeon-2s", "arm64-2n128c")
    wide = n // (2 * 2 * 50)
    grid = Grid(
        (0,), ("6.2", "6.3"), ("sync",), tuple(range(2, 2 + wide)),
        tuple(range(1, 51)), names, ("cpu",),
    )  # fmt: skip
    memory = Memory(resolve(f"memhog:{pages * 4}k"), 2, 0, 1 + wide, everywhere=True)
    profiles = {name: machines.load(name) for name in names}
    zero, one = frozenset({0}), frozenset({1})
    s = Sweep(memory, zero, one, grid, profiles)
    wall, made = timing.timed(lambda: sum(len(some) for some in play(s, s.indices)))
    return _row(
        "rows of `jaxmig sweep`, compilation included", pages, made, wall, None, None
    )


def _row(
    what: str, pages: int, n: int, wall: float, peer: float | None, target: float | None
) -> timing.Row:
    nan = float("nan")
    return {
        "what": what,
        "pages": pages,
        "configurations": n,
        "median_s": wall,
        "singles_s": peer or nan,
        "ratio": wall / peer if peer else nan,
        "target": target or nan,
        "configurations/s": n / wall,
    }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one small size, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    quick = args.quick
    sizes = [1 << 10] if quick else [1 << 12, 1 << 16]
    repeat = 2 if quick else args.repeat
    found = [beside(n, "6.3", repeat) for n in sizes]
    found.append(beside(sizes[0], "6.2", repeat))
    found.append(thousands(sizes[-1], 256 if quick else 10_000))
    found.append(rows_of_sweep(sizes[-1], 400 if quick else 10_000))
    print(timing.table(found))
    if args.save:
        timing.save("sweep", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
