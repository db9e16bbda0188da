"""How many loads and stores a second go through the TLBs of many CPUs?

Prints one JSON line a size: accesses, CPUs, wall seconds, accesses a second, ns each.
The first block, which compiles, is not timed.

    python bench/accesses.py --cpus 128 --accesses 1e5,1e6,1e7
"""

import argparse
import json
import sys
import time
from pathlib import Path

try:
    import jaxmig
except ModuleNotFoundError:  # not installed: run from a checkout
    sys.path.insert(0, str(Path(__file__).parent.parent))
    import jaxmig

import numpy as np
from jaxmig import machines
from jaxmig.access import Shape
from jaxmig.timeline import Run, costs_of, timetable
from jaxmig.workloads.pmbench import Options, thread
from jaxmig.workloads.streams import Streams

BLOCK = 1 << 13


def measure(accesses: int, cpus: int, mib: int, machine: str) -> dict[str, float]:
    """One run of pmbench's uniform pattern, without a migration."""
    p = machines.load(machine)
    o = Options(setsize_mib=mib, jobs=cpus)
    sets, ways = p.tlb
    shape = Shape(cpus, o.pages, sets=sets, ways=ways)
    draws = [thread(o, t + 1) for t in range(cpus)]
    run = Run(
        shape, costs_of(p, 28), Streams(draws, BLOCK, cpus), timetable(p, o.pages)
    )
    run.go(accesses=100)
    run.again(0)
    start = time.perf_counter()
    totals = run.go(accesses=max(accesses // cpus, 1))
    wall = time.perf_counter() - start
    done = int(totals.accesses.sum())
    assert (totals.hits + totals.walks == np.full(cpus, accesses // cpus)).all()
    return {
        "accesses": done,
        "cpus": cpus,
        "wall_s": wall,
        "accesses_per_s": done / wall,
        "ns_each": 1e9 * wall / done,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accesses", default="1e5,1e6,1e7")
    parser.add_argument("--cpus", type=int, default=128)
    parser.add_argument("--setsize", type=int, default=128, help="MiB")
    parser.add_argument("--machine", default="xeon-2s")
    args = parser.parse_args()
    for text in args.accesses.split(","):
        made = measure(int(float(text)), args.cpus, args.setsize, args.machine)
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()

__all__ = ["jaxmig", "main", "measure"]
