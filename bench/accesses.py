"""How many loads and stores a second go through the TLBs of many CPUs, and beside C?

Each size is a run of pmbench's uniform pattern by all CPUs, without a migration; the
first block, which compiles, is not timed.  Drawing the numbers is.  C (`accesses.c`,
one thread) gets the same accesses and must count the same page walks.  `cpu_s` is the
processor time of all threads: what a busy machine disturbs least.

    python bench/accesses.py --cpus 128 --accesses 1e5,1e6,1e7,1e8
"""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401  before jaxmig
import numpy as np
import timing
from jaxmig.programs.workloads.pmbench import Options, thread
from jaxmig.programs.workloads.streams import Streams, block_for
from jaxmig.time import machines
from jaxmig.time.access import BINS, Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, costs_of, timetable

GEN_NS = 28
COSTS = ("gen", "hit", "walk", "local", "remote")
SOURCE = Path(__file__).with_name("accesses.c")


class Tlb(ctypes.Structure):
    """struct tlb of accesses.c."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("tag", "age", "load"))


def library() -> ctypes.CDLL | None:
    """The compiled program, or None without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    flags = ("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11", "-Wall")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "accesses.so"
        subprocess.run([compiler, *flags, SOURCE, "-o", out], check=True)
        return ctypes.CDLL(str(out))


def streams(o: Options, cpus: int) -> Streams:
    """The accesses of all CPUs, from the start."""
    draws = [thread(o, t + 1) for t in range(cpus)]
    return Streams(draws, block_for(cpus), cpus)


def ours(o: Options, p: Profile, each: int) -> tuple[float, float, np.ndarray]:
    """Wall and processor seconds of `each` accesses a CPU, and their page walks."""
    sets, ways = p.tlb
    shape = Shape(o.jobs, o.pages, sets=sets, ways=ways)
    table = timetable(p, o.pages)
    run = Run(shape, costs_of(p, GEN_NS), streams(o, o.jobs), table)
    before = run.go(accesses=100).walks
    run.again(0)
    start, used = time.perf_counter(), time.process_time()
    totals = run.go(accesses=each)
    wall, cpu = time.perf_counter() - start, time.process_time() - used
    assert (totals.accesses == each).all()
    return wall, cpu, before + totals.walks


def in_c(o: Options, p: Profile, each: int) -> tuple[float, np.ndarray] | None:
    """Seconds in C for the same accesses, and their page walks."""
    lib = library()
    if lib is None:
        return None
    cpus, (sets, ways) = o.jobs, p.tlb
    cells = [np.full((cpus, sets, ways), fill, np.int32) for fill in (-1, 0, 0)]
    pte = (np.arange(o.pages, dtype=np.int32) << 2) | 3
    clock, walks = np.zeros(cpus, np.int64), np.zeros(cpus, np.int64)
    bins, node = np.zeros(2 * BINS, np.int64), np.zeros(cpus, np.int32)
    costs = costs_of(p, GEN_NS)
    cost = np.asarray([int(getattr(costs, name)) for name in COSTS], np.int32)
    source, used, done = streams(o, cpus), np.zeros(cpus, np.int64), 0
    at = [ctypes.c_void_p(a.ctypes.data) for a in cells]
    arrays = (pte, clock, walks, bins, node)
    seconds = 0.0
    for left in (100, each):
        while left:
            op = source.next(used)
            n = min(left, source.block)
            rest = [ctypes.c_void_p(a.ctypes.data) for a in (op, *arrays)]
            sizes = (cpus, source.block, n, sets, ways, o.pages)
            start = time.perf_counter()
            lib.accesses(Tlb(*at), *rest, *sizes, cost.ctypes, done + 1)
            seconds += time.perf_counter() - start
            used[:], left, done = n, left - n, done + n
    return seconds, walks


def measure(accesses: int, cpus: int, mib: int, p: Profile) -> timing.Row:
    """One size; ours and C take turns."""
    o = Options(setsize_mib=mib, jobs=cpus)
    each = max(accesses // cpus, 1)
    wall, cpu, walks = ours(o, p, each)
    peer = in_c(o, p, each)
    n = each * cpus
    row: timing.Row = {
        "accesses": n, "cpus": cpus, "wall_s": round(wall, 4), "cpu_s": round(cpu, 4),
        "accesses_per_s": round(n / wall), "ns_each": round(1e9 * wall / n, 1),
        "cpu_ns_each": round(1e9 * cpu / n, 1), "c_ns_each": "", "x_c": "",
        "peak_rss_mib": timing.peak_rss() >> 20,
    }  # fmt: skip
    if peer:
        assert (peer[1] == walks).all(), "C counts other page walks"
        row["c_ns_each"] = round(1e9 * peer[0] / n, 1)
        row["x_c"] = round(wall / peer[0], 2)
    return row


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accesses", default="1e5,1e6,1e7,1e8")
    parser.add_argument("--cpus", type=int, default=128)
    parser.add_argument("--setsize", type=int, default=128, help="MiB")
    parser.add_argument("--machine", default="xeon-2s")
    parser.add_argument("--quick", action="store_true", help="the least two sizes")
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    sizes = [int(float(text)) for text in args.accesses.split(",")]
    p = machines.load(args.machine)
    found = [
        measure(n, args.cpus, args.setsize, p)
        for n in (sorted(sizes)[:2] if args.quick else sizes)
    ]
    print(timing.table(found))
    if args.save:
        timing.save("accesses", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
