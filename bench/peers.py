"""Is jaxmig as fast as the same migration in numpy and in plain C?

All run in one process, interleaved, each on a fresh machine with the same layout and
the same arrays, and all results are checked in the same way.  `floor` copies the same
pages with one memcpy each and does nothing else.  Numbers are medians; `x C` is time
over that of the C program of the same policy, `x floor` over the floor.
"""

import argparse
import gc
import sys

import jax
import numpy as np
import peers_c
import peers_numpy
import timing
from engine import Task, call, heads, miscounted, view, wrong
from jaxmig.state.machine import Machine


class Runs:
    """Seconds of all repeats of all contenders for one task."""

    def __init__(self, task: Task, serial: bool, numpy: bool) -> None:
        self.task = task
        self.seconds: dict[str, list[float]] = {}
        compiled = peers_c.library() is not None
        self.names = ["jaxmig 6.3"] + ["numpy"] * numpy + ["C batched"] * compiled
        if serial:
            self.names += ["jaxmig 6.2"] + ["C serial"] * compiled
        if task.content:
            self.names.append("floor")

    def round(self) -> None:
        """Every contender once."""
        for name in self.names:
            gc.collect()
            self.seconds.setdefault(name, []).append(self._one(name))

    def _one(self, name: str) -> float:
        # Only jaxmig runs on an accelerator, if there is one.
        where = None if name.startswith("jaxmig") else jax.devices("cpu")[0]
        with jax.default_device(where):
            return self._on_it(name)

    def _on_it(self, name: str) -> float:
        m = self.task.machine()
        before = heads(m.pte, m.geometry.ptes)
        if name.startswith("jaxmig"):
            task = self.task.on(name.split()[1])
            m, result, wall, _ = call(task, m)
            bad = miscounted(task, result)
        else:
            wall, bad = self._other(name, m, np.asarray(before)), ""
        if name != "floor":
            bad = bad or wrong(self.task, before, m)
        if bad:
            raise SystemExit(f"peers: {name}: {bad}")
        return wall

    def _other(self, name: str, m: Machine, folios: np.ndarray) -> float:
        if name == "numpy":
            return peers_numpy.migrate(self.task, m, folios)
        if name == "floor":
            # The destinations that all the others take: the stack from its top.
            n, g = self.task.pages, m.geometry
            end = g.slots_per_node + int(m.top[1, 0])
            dst = np.asarray(m.free)[end - n : end][::-1].copy()
            return peers_c.copy_pages(view(m.memory), folios[:n], dst)
        return peers_c.migrate(self.task, m, folios, name == "C batched")

    def rows(self) -> list[timing.Row]:
        """A row a contender."""
        middle = {name: timing.median(t) for name, t in self.seconds.items()}
        return [self._row(name, middle) for name in middle]

    def _row(self, name: str, middle: dict[str, float]) -> timing.Row:
        serial = "serial" in name or "6.2" in name
        peer = middle.get("C serial" if serial else "C batched", float("nan"))
        return {
            "pages": self.task.pages,
            "content": 4096 * self.task.content,
            "cpus": self.task.cpus,
            "who": name,
            "median_s": middle[name],
            "min_s": min(self.seconds[name]),
            "Mpages/s": self.task.pages / middle[name] / 1e6,
            "x C": float("nan") if name == "floor" else middle[name] / peer,
            "x floor": middle[name] / middle.get("floor", float("nan")),
            "repeats": len(self.seconds[name]),
        }


def compare(task: Task, repeat: int, serial: bool, numpy: bool) -> list[timing.Row]:
    """Medians of so many rounds, after one that compiles."""
    runs = Runs(task, serial, numpy)
    runs.round()
    runs.seconds.clear()
    for _ in range(repeat):
        runs.round()
    return runs.rows()


def main() -> int:
    """Compare at every size asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pages", default="1048576", help="sizes, comma-separated")
    add("--content", type=int, default=0, choices=(4096, 0))
    add("--cpus", type=int, default=128)
    add("--repeat", type=int, default=7)
    add("--no-serial", action="store_true", help="batched only")
    add("--no-numpy", action="store_true", help="it takes minutes at 64 M pages")
    add("--quick", action="store_true", help="one small size, three repeats")
    add("--save", action="store_true", help="append to results/peers.csv")
    args = parser.parse_args()
    sizes = [int(n) for n in args.pages.split(",")]
    if args.quick:
        sizes, args.repeat = [1 << 14], 3
    rows: list[timing.Row] = []
    for pages in sizes:
        task = Task(pages, args.content > 0, cpus=args.cpus)
        found = compare(task, args.repeat, not args.no_serial, not args.no_numpy)
        print(timing.table(found), flush=True)
        rows += found
    if args.save:
        timing.save("peers", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
