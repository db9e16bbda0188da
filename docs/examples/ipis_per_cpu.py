#!/usr/bin/env python3
"""Which CPUs would a migration interrupt, and how often?

docs/examples/ipis_per_cpu.py                    64 MiB of memhog, on CPUs 1-4
docs/examples/ipis_per_cpu.py app.npz 2,3,6      a snapshot, on these CPUs
docs/examples/ipis_per_cpu.py 4711               a process, where it ran last
"""

import sys

from jaxmig import nodes, report, syscalls, targets

CPUS, KERNELS = 8, ("6.2", "6.3", "6.18")


def main(name: str = "memhog:64m", running: str = "") -> None:
    """A row a CPU, a column a release."""
    target = targets.resolve(name)
    chosen = nodes.parse_cpus(running or "1-4") if running or ":" in name else ()
    cpus = chosen or tuple(nodes.fold(target.running, CPUS))
    setting = targets.Setting(
        nodes=max(2, target.nodes), cpus=CPUS, running=cpus, content=False
    )
    taken = []
    for kernel in KERNELS:
        state, space = target.build(setting)
        session = syscalls.Session(state, kernel)
        syscalls.migrate_pages(session, space, frozenset({0}), frozenset({1}))
        taken.append(session.ipis)
    rows = [[str(cpu), *(f"{n:,}" for n in ipis)] for cpu, ipis in
            enumerate(zip(*taken, strict=True))]  # fmt: skip
    print(f"IPIs of moving {target.description} from node 0 to node 1:\n")
    print(report.table(("CPU", *KERNELS), rows, "simple"))


if __name__ == "__main__":
    main(*sys.argv[1:])
