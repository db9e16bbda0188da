"""Is a machine on two devices migrated faster than on one, and what does crossing cost?

Both are devices of this host, on cores of their own where there are as many.  `stay`:
every device has a slice of every node, and free frames are in an order in which pages
find one of their own device; `cross`: the same frames in any order, half of the pages
go to the other device; `nodes`: each node is a device, and all do.  One device migrates
the very same machine in the same process, in turn; both results are compared bit by bit.
"""

import argparse
import gc
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from engine import Task, call, heads, miscounted, wrong
from jaxmig.engine import shard
from jaxmig.engine.migrate import Result, limit_of
from jaxmig.engine.shard.call import compiled
from jaxmig.engine.shard.sharded import Sharded, deal_list
from jaxmig.linux.rules import rules, word
from jaxmig.state import pte
from jaxmig.state.machine import Machine

DEVICES = 2
WAYS = {"stay": "striped", "cross": "striped", "nodes": "nodes"}
TARGET = {("stay", True): 1.15}


def fresh(task: Task, way: str, mesh: Any) -> tuple[Machine, np.ndarray]:
    """The machine of a way, and the list: all pages of the process."""
    m = task.machine()
    folios = np.asarray(heads(m.pte, m.geometry.ptes))
    if way == "stay":
        m = shard.arrange(m, folios[: task.pages], 1, mesh)
    return m, folios


def many(task: Task, s: Sharded, folios: np.ndarray) -> tuple[Sharded, Result, float]:
    """Seconds of a call on all devices, the state already there."""
    r = rules(task.kernel)
    program = compiled(r.defers, s.plan, folios.shape[0], True)
    numbers = (jnp.int32(n) for n in (task.pages, 1, 0))
    args = (deal_list(folios, folios.shape[0], s.plan)[0], *numbers)
    args = (*args, limit_of(task.batch), jnp.asarray(word(r)))
    args = jax.block_until_ready(args)
    start = time.perf_counter()
    m, result = jax.block_until_ready(program(s.m, *args))
    return Sharded(m, s.plan), result, time.perf_counter() - start


def crossing(s: Sharded, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Bytes a page that go from shard to shard: of contents, and of all else.

    A page that crosses takes its number and its new frame's row along; an entry that is
    another shard's than its page is asked for, answered and written; all shards tell all
    others what became of each place of the list, and read list and stack together.
    """

    def owner(i: np.ndarray, d: Any) -> np.ndarray:
        return i // d.block % d.shards

    frames, entries = s.plan.frames, s.plan.entries
    old, new = owner(before, frames), owner(after, frames)
    far = (old != new).mean()
    entry = (owner(np.arange(before.size), entries) != old).mean()
    rest = far * (4 + 16) + entry * (4 + 8 + 12) + 4 * 4
    return far * (4 + 4096) * (s.m.memory is not None), rest


class Runs:
    """Seconds of both, and what crossed, for one way and one task."""

    def __init__(self, task: Task, way: str, mesh: Any) -> None:
        self.task, self.way, self.mesh = task, way, mesh
        self.one: list[float] = []
        self.two: list[float] = []
        self.bytes = (0.0, 0.0)

    def round(self) -> None:
        """Each of them once, on machines that are alike."""
        gc.collect()
        task, n = self.task, self.task.pages
        s = shard.deal(fresh(task, self.way, self.mesh)[0], self.mesh, WAYS[self.way])
        # Its own machine: what the host has looked at is not updated in place.
        m, folios = fresh(task, self.way, self.mesh)
        before = jnp.asarray(folios)
        m, result, wall, _ = call(task, m)
        bad = miscounted(task, result) or wrong(task, before, m)
        entries = np.asarray(m.pte)
        del m
        s, told, both = many(task, s, folios)
        self.bytes = crossing(s, folios[:n], entries[:n, pte.PFN])
        other = shard.collect(s)
        bad = bad or miscounted(task, told) or wrong(task, before, other)
        same = np.array_equal(entries, other.pte)
        if bad or not same:
            raise SystemExit(f"devices: {self.way}: {bad or 'other frames'}")
        self.one.append(wall)
        self.two.append(both)

    def row(self) -> timing.Row:
        """Medians, how many times as fast two are, and bytes a page."""
        one, two = timing.median(self.one), timing.median(self.two)
        contents, rest = self.bytes
        return {
            "pages": self.task.pages,
            "content": 4096 * self.task.content,
            "way": self.way,
            "one_s": one,
            "two_s": two,
            "speedup": one / two,
            "target": TARGET.get((self.way, self.task.content), float("nan")),
            "content_bytes": contents,
            "other_bytes": rest,
            "repeats": len(self.one),
        }


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pages", type=int, default=1 << 16)
    add("--metadata-pages", type=int, default=1 << 20)
    add("--repeat", type=int, default=5)
    add("--quick", action="store_true", help="small sizes, twice")
    add("--save", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.pages, args.metadata_pages, args.repeat = 1 << 12, 1 << 12, 2
    # Of this host; on accelerators their own number counts.
    jax.config.update("jax_num_cpu_devices", DEVICES)
    if jax.device_count() < DEVICES:
        raise SystemExit(f"devices: needs {DEVICES} devices, finds one")
    mesh = jax.make_mesh((DEVICES,), ("pages",))
    found = []
    for content, pages in ((True, args.pages), (False, args.metadata_pages)):
        for way in WAYS:
            runs = Runs(Task(pages, content, cpus=128), way, mesh)
            for _ in range(args.repeat + 1):
                runs.round()
            # The first one compiled.
            del runs.one[0], runs.two[0]
            found.append(runs.row())
            print(timing.table(found[-1:]), flush=True)
    if args.save:
        timing.save("devices", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
