#!/usr/bin/env python3
"""What does each share of memory in huge pages change?

docs/examples/thp_share.py [SIZE]       like 64m
"""

import sys

import jaxmig
from jaxmig import cost, machines, report
from jaxmig.report.units import duration, rate
from jaxmig.sources.scenario.words import size_of

HUGE = 512  # base pages of a THP


def main(size: str = "64m") -> None:
    """A row a share, serial beside batched."""
    pages = (size_of(size) or 0) // 4096
    profile = machines.load("xeon-2s")
    rows = []
    for percent in (0, 50, 100):
        huge = pages * percent // 100 // HUGE * HUGE
        b = jaxmig.Builder(nodes=2, cpus=8)
        app = b.process("app", running=range(1, 8))
        if huge:
            b.mmap(app, huge, order=9)
        if pages > huge:
            b.mmap(app, pages - huge)
        state = b.build(content=False)
        folios = jaxmig.folios_on(state, 0)
        row = [f"{percent} %"]
        for kernel, policy in (("6.2", "serial"), ("6.3", "batched")):
            _, result = jaxmig.migrate_pages(state, folios, 1, kernel=kernel)
            total = cost.price(result.events.counts(), profile, policy=policy).total
            ipis = result.vmstat["nr_tlb_remote_flush_received"]
            row += [f"{ipis:,}", duration(total), rate(pages / total * 1e9)]
        rows.append(row)
    one = ("IPIs", "time", "pages/s")
    heads = ("huge", *(f"{k} {h}" for k in ("6.2", "6.3") for h in one))
    print(f"{size} of a process on 7 CPUs of {profile.title}:\n")
    print(report.table(heads, rows, "simple"))


if __name__ == "__main__":
    main(*sys.argv[1:])
