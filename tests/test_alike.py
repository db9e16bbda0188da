"""Machines made alike: the same programs, the same answers."""

import numpy as np
from invariants import LEDGER, VIOLATIONS
from jaxmig import Builder, folios_on, migrate_pages
from jaxmig.state import xla
from jaxmig.state.machine import Machine

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


def test_what_is_large_stays_as_it_is() -> None:
    for content in (False, True):
        b = Builder(nodes=2, cpus=3)
        b.mmap(b.process("p"), 1 << 14)
        m = b.build(content=content, share_programs=True)
        assert (m.geometry.nodes, m.cpus.lazy.shape[0]) == (2, 3)


def test_contents_cost_few_frames_that_nobody_uses() -> None:
    """A frame is 4 KiB: 16 MiB of base pages; larger folios have pools of their own."""
    for order, most in ((0, 4 * 1024), (4, 4 * (1024 + 2 * 16))):
        b = Builder(nodes=2, cpus=3)
        b.mmap(b.process("p"), 16, order=order)
        m = b.build(content=True, share_programs=True)
        assert m.memory is not None
        assert m.geometry.frames == most


def test_more_folios_than_the_classes_hold_have_pools_of_their_own() -> None:
    for folios, orders in ((4, 5), (40, 2)):
        b = Builder(nodes=2, cpus=3)
        b.mmap(b.process("p"), folios << 7, order=7 if folios > 4 else 6)
        m = b.build(content=False, share_programs=True)
        assert len(m.geometry.orders) == orders


def test_what_is_added_has_no_memory_and_no_pages() -> None:
    b = Builder(nodes=3, cpus=3, free=[None, 5, 7])
    b.mmap(b.process("p", running=[1]), 16)
    m = b.build(content=False, share_programs=True)
    assert (m.geometry.nodes, m.cpus.lazy.shape[0], m.cpus.mask.shape[0]) == (4, 8, 4)
    assert np.asarray(m.nfree).tolist() == [16, 5, 7, 0]
    assert not np.asarray(m.cpus.mask)[1:].any()
    assert not np.asarray(m.cpus.mask)[:, 3:].any()
