"""How many bytes does a batched call move for a page, and how fast may a GPU be?

Bytes are those of XLA's cost analysis of a compiled window, which counts a whole array
where rows are picked from it, and one trip of a loop that nobody goes through.  So two
windows of different width are compiled for one machine: the wider one's bytes less the
other's, and the rows that a page picks.  The floor is what has to be read and written
whoever does it.  A memory's bandwidth over these bytes is the speed that no run can pass;
what a device needs to start its kernels comes on top.
"""

import argparse
import functools
import sys
from typing import Any, Final

import jax
import jax.numpy as jnp
import timing
from engine import Task, heads, jaxmig
from jaxmig.engine.chunk import Carry, migrate_window
from jaxmig.engine.migrate import limit_of
from jaxmig.engine.windows import open_window
from jaxmig.linux.batches import cut
from jaxmig.linux.call import CallState, List, no_stats
from jaxmig.linux.folio import Where
from jaxmig.linux.phases import flush
from jaxmig.linux.rules import rules
from jaxmig.state import events
from jaxmig.state.machine import PAGE_BYTES, Machine

ROW, ENTRY, SLOT = 16, 8, 4  # bytes of Machine.frame, .pte and .free
# A list entry, the row and the entry, then both anew, the old row blank, a frame taken
# and one given.
FLOOR: Final = SLOT + ROW + ENTRY + ENTRY + ROW + ROW + SLOT + SLOT
# Read: row, entry, slot.  Written: the entry by unmap and remap, the old row and the new
# one by remap, a slot.
PICKED: Final = (ROW + ENTRY + SLOT) + (2 * ROW + 2 * ENTRY + SLOT)
# GB/s of device memory, NVIDIA's data sheets.
DEVICES: Final = {"A100 80GB SXM": 2039, "H100 SXM": 3350, "H200 SXM": 4800}


def window(
    m: Machine, folios: jax.Array, size: jax.Array, limit: jax.Array, width: int
) -> Any:
    """The first window of a batched call."""
    r, none = rules("6.3"), jnp.int32(0)
    k = CallState(
        m=m,
        ev=events.none(m.cpus.lazy.shape[0]),
        todo=List(folios, size),
        stats=no_stats(),
        error=none,
        remaining=none,
        in_order=none,
    )
    c = Carry(k, flush.no_flushes(m.cpus), none, none, jnp.asarray(False))
    w, place = open_window(m, folios, none, size, width)
    batches = cut(r, w, none, limit)
    at = Where(cpu=none, node=jnp.int32(1))
    return migrate_window(r, c, w, (batches, place), at)


def counted(pages: int, width: int, cpus: int) -> float:
    """Bytes of one window on a machine of so many pages, by XLA's count."""
    m = Task(pages, content=False, cpus=cpus).machine()
    size = jnp.int32(pages)
    args = (m, heads(m.pte, m.geometry.ptes), size, limit_of(512))
    program = jax.jit(functools.partial(window, width=width), donate_argnums=0)
    analysis: Any = program.lower(*args).compile().cost_analysis()
    return float(analysis["bytes accessed"])


def per_page(width: int, cpus: int) -> float:
    """Bytes a page, metadata only."""
    small, large = (counted(2 * width, n * width, cpus) for n in (1, 2))
    return (large - small) / width + PICKED


def rows(width: int, cpus: int) -> list[timing.Row]:
    """Without and with contents."""
    found = []
    metadata = per_page(width, cpus)
    for content in (0, PAGE_BYTES):
        moved, floor = metadata + 2 * content, FLOOR + 2 * content
        row: timing.Row = {
            "content": content,
            "bytes_a_page": moved,
            "floor": floor,
            "ratio": moved / floor,
        }
        for name, gb in DEVICES.items():
            row[f"{name}, Mpages/s"] = gb * 1e3 / moved
        found.append(row)
    return found


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunk", type=int, default=1 << 14, help="pages a window")
    parser.add_argument("--cpus", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="a small window")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    found = rows(1 << 12 if args.quick else args.chunk, args.cpus)
    print(timing.table(found))
    if args.save:
        timing.save("bytes", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())

__all__ = ["jaxmig", "main", "per_page"]
