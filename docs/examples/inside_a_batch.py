#!/usr/bin/env python3
"""What do page table and TLBs hold after each phase of a batch?

docs/examples/inside_a_batch.py [KERNEL]
"""

import dataclasses
import sys

import jaxmig
import numpy as np
from jaxmig import report
from jaxmig.state import pte

PAGES, LIMIT, RUNNING = 16, 8, (1, 2, 3)
PHASES = ("unmap", "flush", "copy", "remap")


def main(kernel: str = "6.3") -> None:
    """A row a phase of the first batch (serial: of the first folio)."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=RUNNING), pages=PAGES)
    state = warmed(b.build())
    folios = jaxmig.folios_on(state, 0)
    rows = []
    for phase in PHASES:
        inside, _ = jaxmig.migrate_pages(
            state, folios, 1, kernel=kernel, batch=LIMIT, stop=(0, phase)
        )
        bits = np.asarray(inside.pte)[:PAGES, pte.BITS]
        on = jaxmig.pages_by_node(inside)
        waiting = int(((bits & pte.MIGRATION) != 0).sum())
        cached = (np.asarray(inside.tlb.entry) < PAGES).sum()
        rows.append([phase, str(on[0]), str(waiting), str(on[1]), str(cached)])
    heads = ("after", "on node 0", "migration entries", "on node 1", "in TLBs")
    print(f"{PAGES} pages, CPUs 1-3 hold all of them in their TLBs; Linux {kernel}:\n")
    print(report.table(heads, rows, "simple"))


def warmed(state: jaxmig.Machine) -> jaxmig.Machine:
    """The machine after every running CPU has read every page."""
    page, frames = np.arange(PAGES), np.asarray(state.pte)[:PAGES, pte.PFN]
    sets, slots = state.tlb.entry.shape
    ways = slots // state.cpus.lazy.shape[0]
    # A set's row holds the ways of CPU 0, then those of CPU 1, and so on.
    at = [(page % sets, cpu * ways + page // sets) for cpu in RUNNING]
    entry, pfn = state.tlb.entry, state.tlb.pfn
    for slot in at:
        entry, pfn = entry.at[slot].set(page), pfn.at[slot].set(frames)
    tlb = dataclasses.replace(state.tlb, entry=entry, pfn=pfn)
    return dataclasses.replace(state, tlb=tlb)


if __name__ == "__main__":
    main(*sys.argv[1:])
