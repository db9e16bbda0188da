"""What do pages that resist cost beside clean ones?

One process; five pages in a hundred are in each of eight conditions, so two in five
resist in some way: some come along when somebody has waited for them, some never do.
Clean: the same regions without conditions.  Metadata only, 6.3, mode sync.
"""

import argparse
import gc
import sys
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import timing
from engine import heads, jaxmig
from jaxmig.engine.migrate import executable, limit_of
from jaxmig.linux.rules import rules

SHARE: Final = 20  # one page in so many is in each condition
STATES: Final = (
    ("locked", "waited"),
    ("writeback", "waited"),
    ("extra_ref", "forever"),
    ("pinned", "forever"),
    ("temp_stack", 2),
    ("private", 3),
    ("freed", "forever"),
)
TARGET: Final = 2


def machine(pages: int, conditions: bool) -> Any:
    """Anonymous pages, and a twentieth of file pages whose buffers are locked."""
    b = jaxmig.Builder(nodes=2, cpus=4, tlb=(128, 12))
    app = b.process("app", running=[1, 2, 3])
    anon = b.mmap(app, pages - pages // SHARE)
    file = b.mmap(app, pages // SHARE, kind="file", private=True)
    if conditions:
        order = np.random.default_rng(0).permutation(anon.pages)
        each = pages // SHARE
        for n, (state, until) in enumerate(STATES):
            b.condition(anon, state, order[n * each : (n + 1) * each], until)
        b.condition(file, "buffers_locked", until="waited")
    m = b.build(content=False, seed=0)
    return m, heads(m.pte, m.geometry.ptes)


def failures(pages: int, conditions: bool) -> int:
    """Pages that can not be moved: those whose condition never ends."""
    never = sum(until == "forever" for _, until in STATES) - 1  # freed pages are gone
    return never * (pages // SHARE) if conditions else 0


def timed(pages: int, conditions: bool) -> float:
    """Seconds of one call on a fresh machine."""
    gc.collect()
    m, folios = machine(pages, conditions)
    numbers = (jnp.int32(n) for n in (pages, 1, 0))
    args = jax.block_until_ready((m, folios, *numbers, limit_of(512)))
    program = executable(rules("6.3"), True, *args)
    start = time.perf_counter()
    m, result = jax.block_until_ready(program(*args))
    wall = time.perf_counter() - start
    stat, failed = result.vmstat, failures(pages, conditions)
    counts = (result.ret, stat["pgmigrate_success"], stat["pgmigrate_fail"])
    if counts != (failed, pages - failed, failed):
        raise SystemExit(f"conditions: {counts}, not {failed} failures")
    return wall


def row(pages: int, repeat: int) -> timing.Row:
    """Medians of both, which take turns."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeat + 1):
        for conditions, walls in times.items():
            walls.append(timed(pages, conditions))
    clean, resisting = (timing.median(times[c][1:]) for c in (False, True))
    return {
        "pages": pages,
        "conditions": len(STATES) + 1,
        "median_s": resisting,
        "clean_s": clean,
        "ratio": resisting / clean,
        "target": TARGET,
        "repeats": repeat,
    }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", default="262144,1048576", help="comma-separated")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small size, twice")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    sizes = [int(n) for n in args.pages.split(",")]
    if args.quick:
        sizes, args.repeat = [1 << 14], 2
    found = [row(pages, args.repeat) for pages in sizes]
    print(timing.table(found))
    if args.save:
        timing.save("conditions", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
