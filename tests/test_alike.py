"""Machines made alike: the same programs, the same answers."""

import numpy as np
from invariants import LEDGER, VIOLATIONS
from jaxmig import Builder, folios_on, migrate_pages, xla
from jaxmig.machine import Machine

# Nodes, CPUs, processes.  Scenarios with larger folios are held against the oracle.
SMALL = [(2, 2, 1), (3, 6, 3)]


def machine(nodes: int, cpus: int, mms: int, alike: bool) -> Machine:
    b = Builder(nodes, cpus, tlb=(1, 1), huge_tlb=(1, 1))
    running = [range(cpu, cpu + 1) for cpu in range(1, mms)]
    owners = [b.process(f"p{i}", r) for i, r in enumerate([range(0), *running])]
    b.processes[0].running += (0,)
    b.condition(b.mmap(owners, 5, kind="shmem"), "extra_ref", [0], until=2)
    return b.build(content=False, share_programs=alike)


def test_one_program_serves_them_and_answers_as_if_each_had_its_own() -> None:
    before = xla.compilations()
    told = []
    for alike in (True, False):
        answers = []
        for shape in SMALL:
            m = machine(*shape, alike=alike)
            after, result = migrate_pages(m, folios_on(m, node=0), 1, kernel="6.18")
            assert not int(VIOLATIONS(after, LEDGER(m)))
            ipis = result.events.ipis_per_cpu()
            assert not any(ipis[shape[1] :])
            answers.append((result.ret, result.events.counts(), ipis[: shape[1]]))
        told.append(answers)
        if alike:
            # It may be compiled already.
            assert xla.compilations() - before <= 1
    assert told[0] == told[1]


def test_what_is_large_or_has_contents_stays_as_it_is() -> None:
    for pages, content in ((1 << 12, False), (8, True)):
        b = Builder(nodes=2, cpus=3)
        b.mmap(b.process("p"), pages)
        m = b.build(content=content, share_programs=True)
        assert (m.geometry.nodes, m.cpus.lazy.shape[0]) == (2, 3)


def test_what_is_added_has_no_memory_and_no_pages() -> None:
    b = Builder(nodes=3, cpus=3, free=[None, 5, 7])
    b.mmap(b.process("p", running=[1]), 16)
    m = b.build(content=False, share_programs=True)
    assert (m.geometry.nodes, m.cpus.lazy.shape[0], m.cpus.mask.shape[0]) == (4, 8, 4)
    assert np.asarray(m.nfree).tolist() == [16, 5, 7, 0]
    assert not np.asarray(m.cpus.mask)[1:].any()
    assert not np.asarray(m.cpus.mask)[:, 3:].any()
