#!/usr/bin/env python3
"""How do throughput and stall depend on the batch limit?

docs/examples/batch_limits.py [TARGET [MACHINE]]
"""

import sys

from jaxmig import machines, report, sweep, targets
from jaxmig.report.units import duration, rate
from jaxmig.tools.sweep.memory import Memory

LIMITS = tuple(1 << k for k in range(13))  # 1, 2, 4, ... 4096 base pages
RUNNING = 16  # CPUs that run the target; one more migrates


def main(name: str = "memhog:16m", machine: str = "xeon-2s") -> None:
    """A row a limit; the serial release first."""
    profile = machines.load(machine)
    memory = Memory(targets.resolve(name), 2, 0, RUNNING + 1, everywhere=True)
    axes = {"thp": (0,), "mode": ("sync",), "cpus": (RUNNING + 1,), "copy": ("cpu",)}
    points = [("6.2", (0,)), ("6.3", LIMITS)]
    found = []
    for kernel, batch in points:
        grid = sweep.Grid(kernel=(kernel,), batch=batch, machine=(machine,), **axes)
        s = sweep.Sweep(
            memory, frozenset({0}), frozenset({1}), grid, {machine: profile}
        )
        found += [row for rows in sweep.play(s, s.indices) for row in rows]
    cells = [
        [
            r["kernel"],
            str(r["batch"] or "-"),
            f"{r['vmstat.nr_tlb_remote_flush_received']:,}",
            rate(r["pages_per_s"]),
            duration(r["stall_ns.p50"]),
            duration(r["stall_ns.p99"]),
        ]
        for r in found
    ]
    heads = ("kernel", "limit", "IPIs", "pages/s", "stall, p50", "stall, p99")
    print(f"{name} on {RUNNING} CPUs of {profile.title}:\n")
    print(report.table(heads, cells, "simple"))


if __name__ == "__main__":
    main(*sys.argv[1:])
