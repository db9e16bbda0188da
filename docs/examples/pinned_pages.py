#!/usr/bin/env python3
"""What do pinned pages cost, and who pays?

docs/examples/pinned_pages.py [EVERY]       one page in EVERY is in the way (16)
"""

import sys

import jaxmig
from jaxmig import cost, machines, report
from jaxmig.report.units import duration

PAGES = 4096
STATES = (None, "extra_ref", "pinned")


def main(every: str = "16") -> None:
    """A row a state, serial beside batched."""
    profile = machines.load("xeon-2s")
    rows = []
    for condition in STATES:
        b = jaxmig.Builder(nodes=2, cpus=4)
        heap = b.mmap(b.process("app", running=[1, 2, 3]), pages=PAGES)
        if condition:
            b.condition(heap, condition, range(0, PAGES, int(every)))
        state = b.build(content=False)
        folios = jaxmig.folios_on(state, 0)
        row = [condition or "nothing"]
        for kernel, policy in (("6.2", "serial"), ("6.3", "batched")):
            _, result = jaxmig.migrate_pages(state, folios, 1, kernel=kernel)
            priced = cost.price(result.events.counts(), profile, policy=policy)
            ipis = result.vmstat["nr_tlb_remote_flush_received"]
            row += [str(result.ret), f"{ipis:,}", duration(priced.total)]
            row += [duration(priced.stolen)]
        rows.append(row)
    one = ("left", "IPIs", "time", "stolen")
    heads = ("in the way", *(f"{k} {h}" for k in ("6.2", "6.3") for h in one))
    print(f"{PAGES} pages, one in {every} in use; 3 CPUs run the process.\n")
    print(report.table(heads, rows, "simple"))
    print("\nstolen: by interrupt handlers, from the three CPUs together")


if __name__ == "__main__":
    main(*sys.argv[1:])
