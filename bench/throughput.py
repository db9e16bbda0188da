"""How many pages a second does one call migrate?

Every repeat runs on a fresh machine of one process whose other CPUs hold warm TLBs,
and is checked afterwards, untimed: contents of every page, every frame, every entry,
counts.  With contents the same pages are also copied by memcpy, one call a page and in
the same memory: `memcpy_s` is the floor, `ratio_to_memcpy` how far above it the
migration is.
"""

import argparse
import gc
import json
import sys
from typing import Any

import numpy as np
from engine import Task, call, heads, jaxmig, miscounted, view, wrong
from peers_c import copy_pages, library
from timing import median, peak_rss


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pages", type=int, default=1 << 18)
    add("--content", type=int, default=4096, choices=(4096, 0))
    add("--kernel", default="6.3", choices=jaxmig.RELEASES)
    add("--cpus", type=int, default=4)
    add("--order", default="random", choices=("random", "sequential"))
    add("--repeat", type=int, default=5)
    add("--json", action="store_true", help="one JSON line")
    add("--quick", action="store_true", help="a small size, twice")
    args = parser.parse_args(argv)
    if args.quick:
        args.pages, args.repeat = min(args.pages, 1 << 14), 2
    if min(args.pages, args.cpus, args.repeat) < 1:
        parser.error("--pages, --cpus and --repeat are at least 1")
    return args


class Wrong(Exception):
    """The call did not do what it should have done."""


def once(task: Task, floor: bool) -> tuple[float, float, float, int]:
    """Seconds of one checked call, of its compilation, and of memcpy afterwards.

    Also the most memory that the process had used when the call was over.
    """
    gc.collect()
    m = task.machine()
    before = heads(m.pte, m.geometry.ptes)
    m, result, wall, compiling = call(task, m)
    used = peak_rss()
    bad = ", ".join(filter(None, (wrong(task, before, m), miscounted(task, result))))
    if bad:
        raise Wrong(bad)
    if not floor or m.memory is None:
        return wall, compiling, 0.0, used
    new = np.asarray(heads(m.pte, m.geometry.ptes))[: task.pages]
    old = np.asarray(before)[: task.pages]
    return wall, compiling, copy_pages(view(m.memory), old, new), used


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The record that is printed."""
    task = Task(args.pages, args.content > 0, args.kernel, args.cpus, args.order)
    idle = peak_rss()
    # Later runs have been checked, which takes more memory than the call.
    wall, compiling, _, used = once(task, floor=False)
    runs = [once(task, floor=True) for _ in range(args.repeat)]
    times = [run[0] for run in runs]
    middle = median(times)
    record = {
        "pages": args.pages,
        "content_bytes": args.content,
        "kernel": args.kernel,
        "cpus": args.cpus,
        "wall_s": middle,
        "wall_min_s": min(times),
        "pages_per_s": args.pages / middle,
        "gib_per_s": args.pages * args.content / middle / 2**30,
        "first_call_s": wall + compiling,
        "peak_rss_bytes": used,
        "idle_rss_bytes": idle,
        "order": args.order,
    }
    if args.content:
        floor = median([run[2] for run in runs])
        record |= {
            "memcpy_s": floor,
            "memcpy_by": "C" if library() else "numpy",
            "ratio_to_memcpy": middle / floor,
        }
    return record


def main() -> int:
    """Print the record; 1 if a call was wrong."""
    args = arguments()
    try:
        record = measure(args)
    except Wrong as bad:
        print(f"throughput: {bad}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:16} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
