"""check.violations() sees each invariant broken on purpose, and nothing otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from invariants import LEDGER, VIOLATIONS
from jaxmig import Builder, Machine, migrate_pages
from jaxmig.state import frame, pte
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT, RMAP
from jaxmig.state.machine import NOWHERE
from jaxmig.state.pte import BITS, PFN
from jaxmig.tools import check

PAGES, LARGE, SHARED = 8, 2, 3


@pytest.fixture(scope="module")
def whole() -> Machine:
    """Base pages, 16k folios, a PMD and shared pages; one page has an extra reference."""
    b = Builder(2, 4, tlb=(8, 2), huge_tlb=(8, 2))
    a, c = b.process("a", [1, 2]), b.process("c", [3])
    heap = b.mmap(a, PAGES)
    b.mmap(a, 4 * LARGE, order=2)
    b.mmap(a, 512, order=9)
    b.mmap([a, c], SHARED, kind="shmem")
    b.condition(heap, "extra_ref", [7])
    return b.build()


def mask(m: Machine, before: check.Ledger | None = None) -> int:
    return int(VIOLATIONS(m, LEDGER(m) if before is None else before))


def pfn(m: Machine, entry: int) -> int:
    """The frame behind an entry; entries are numbered in the order of the regions."""
    return int(m.pte[entry, PFN])


def row(m: Machine, at: int, column: int, value: int) -> Machine:
    """`m` with one word of a frame's row replaced."""
    return dataclasses.replace(m, frame=m.frame.at[at, column].set(value))


def entry(m: Machine, at: int, column: int, value: int) -> Machine:
    """`m` with one word of an entry replaced."""
    return dataclasses.replace(m, pte=m.pte.at[at, column].set(value))


def test_nothing_is_wrong_before_or_after_a_call(whole: Machine) -> None:
    before = LEDGER(whole)
    assert check.explain(mask(whole, before)) == []
    heads = [pfn(whole, e) for e in (0, 1, 7, PAGES, PAGES + 4)]
    for kernel in ("6.2", "6.3"):
        m, result = migrate_pages(whole, heads, 1, kernel=kernel)
        assert result.ret == 1
        assert check.explain(mask(m, before)) == []


def stale(m: Machine) -> Machine:
    tlb = dataclasses.replace(
        m.tlb,
        entry=m.tlb.entry.at[0, 2].set(0),
        pfn=m.tlb.pfn.at[0, 2].set(pfn(m, 0) + 1),
    )
    return dataclasses.replace(m, tlb=tlb)


def stale_right(m: Machine) -> Machine:
    """A CPU may still write what the page table has made read-only."""
    m = entry(m, 0, BITS, int(m.pte[0, BITS]) & ~pte.WRITE)
    tlb = dataclasses.replace(
        m.tlb,
        entry=m.tlb.entry.at[0, 2].set(0),
        pfn=m.tlb.pfn.at[0, 2].set(pfn(m, 0)),
        bits=m.tlb.bits.at[0, 2].set(pte.WRITE),
    )
    return dataclasses.replace(m, tlb=tlb)


def stale_leaf(m: Machine) -> Machine:
    tlb = dataclasses.replace(
        m.huge_tlb,
        entry=m.huge_tlb.entry.at[0, 2].set(m.geometry.ptes),
        pfn=m.huge_tlb.pfn.at[0, 2].set(0),
    )
    return dataclasses.replace(m, huge_tlb=tlb)


def free_twice(m: Machine) -> Machine:
    return dataclasses.replace(m, free=m.free.at[1].set(m.free[0]))


def free_and_used(m: Machine) -> Machine:
    return dataclasses.replace(m, free=m.free.at[0].set(pfn(m, 0)))


def lost(m: Machine) -> Machine:
    return dataclasses.replace(m, top=m.top.at[0, 0].add(-1))


def lost_block(m: Machine) -> Machine:
    """A frame of a large folio is free while the rest of it is in use."""
    return _blank(m, pfn(m, PAGES) + 3)


def _blank(m: Machine, at: int) -> Machine:
    nothing = jnp.asarray([0, 0, 0, NOWHERE], jnp.int32)
    return dataclasses.replace(m, frame=m.frame.at[at].set(nothing))


def not_blank(m: Machine) -> Machine:
    return row(m, int(m.free[0]), REFCOUNT, 1)


def torn(m: Machine) -> Machine:
    tail = pfn(m, PAGES) + 1
    return row(m, tail, FLAGS, int(m.frame[tail, FLAGS]) & ~frame.TAIL)


def bad_entry(m: Machine) -> Machine:
    return entry(m, 0, PFN, int(m.free[0]))


def bad_leaf(m: Machine) -> Machine:
    return entry(m, m.geometry.ptes, PFN, pfn(m, m.geometry.ptes) + 1)


def references(m: Machine) -> Machine:
    return row(m, pfn(m, 0), REFCOUNT, 2)


def lost_reference(m: Machine) -> Machine:
    """Right in sum, since another folio has one too many."""
    m = row(m, pfn(m, 0), REFCOUNT, 0)
    return row(m, pfn(m, 1), REFCOUNT, 2)


def tail_reference(m: Machine) -> Machine:
    return row(m, pfn(m, PAGES) + 1, REFCOUNT, 1)


def mapcount(m: Machine) -> Machine:
    return row(m, pfn(m, 0), MAPCOUNT, 2)


def chain_to_another(m: Machine) -> Machine:
    return row(m, pfn(m, 0), RMAP, 1)


def chain_cut(m: Machine) -> Machine:
    at = int(m.frame[pfn(m, _shared(m)), RMAP])
    return dataclasses.replace(m, rmap_next=m.rmap_next.at[at].set(NOWHERE))


def chain_round(m: Machine) -> Machine:
    at = int(m.frame[pfn(m, _shared(m)), RMAP])
    return dataclasses.replace(m, rmap_next=m.rmap_next.at[at].set(at))


def _shared(m: Machine) -> int:
    """The first entry of the shared region."""
    return PAGES + 4 * LARGE + 512


def not_exclusive(m: Machine) -> Machine:
    at = _shared(m)
    return entry(m, at, BITS, int(m.pte[at, BITS]) | pte.EXCLUSIVE)


def migrating(m: Machine) -> Machine:
    bits = int(m.pte[0, BITS]) & ~pte.PRESENT | pte.MIGRATION | pte.WRITABLE
    return entry(m, 0, BITS, bits)


def locked(m: Machine) -> Machine:
    at = pfn(m, 0)
    return row(m, at, FLAGS, int(m.frame[at, FLAGS]) | frame.LOCKED)


def pending(m: Machine) -> Machine:
    cpus = dataclasses.replace(m.cpus, pending=m.cpus.pending.at[1].set(True))
    return dataclasses.replace(m, cpus=cpus)


def memory(m: Machine) -> Machine:
    return dataclasses.replace(m, nfree=m.nfree.at[0].add(-1))


BREAKS: list[tuple[Callable[[Machine], Machine], int]] = [
    (stale, check.STALE_TLB),
    (stale_right, check.STALE_TLB),
    (stale_leaf, check.STALE_TLB),
    (free_twice, check.FREE_TWICE),
    (free_and_used, check.FREE_TWICE),
    (lost, check.LOST),
    (lost_block, check.LOST),
    (not_blank, check.NOT_BLANK),
    (torn, check.TORN),
    (lost_block, check.TORN),
    (bad_entry, check.BAD_ENTRY),
    (bad_leaf, check.BAD_ENTRY),
    (references, check.REFERENCES),
    (lost_reference, check.REFERENCES),
    (tail_reference, check.REFERENCES),
    (mapcount, check.MAPCOUNTS),
    (chain_to_another, check.CHAINS),
    (chain_cut, check.CHAINS),
    (chain_round, check.CHAINS),
    (not_exclusive, check.EXCLUSIVE),
    (migrating, check.NOT_AT_REST),
    (locked, check.NOT_AT_REST),
    (pending, check.NOT_AT_REST),
    (memory, check.MEMORY),
]


@pytest.mark.parametrize(
    ("spoil", "bit"), BREAKS, ids=lambda p: getattr(p, "__name__", "")
)
def test_each_invariant_has_teeth(
    whole: Machine, spoil: Callable[[Machine], Machine], bit: int
) -> None:
    found = mask(spoil(whole), LEDGER(whole))
    assert found & bit
    assert check.SENTENCES[bit.bit_length() - 1] in check.explain(found)


def test_a_lazy_cpu_that_lags_may_hold_what_is_stale(whole: Machine) -> None:
    cpus = whole.cpus
    lags = dataclasses.replace(
        cpus, lazy=cpus.lazy.at[1].set(True), gen=cpus.gen.at[1].add(-1)
    )
    assert mask(dataclasses.replace(stale(whole), cpus=lags)) == 0
    caught_up = dataclasses.replace(lags, gen=cpus.gen)
    assert mask(dataclasses.replace(stale(whole), cpus=caught_up)) == check.STALE_TLB


def test_every_bit_has_a_sentence_and_is_broken_above() -> None:
    assert {bit for _, bit in BREAKS} == {1 << i for i in range(len(check.SENTENCES))}
    assert check.explain((1 << len(check.SENTENCES)) - 1) == list(check.SENTENCES)


def test_a_mask_a_machine_under_vmap(whole: Machine) -> None:
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), whole, memory(whole))
    masks = jax.vmap(check.violations, in_axes=(0, None))(both, check.ledger(whole))
    assert len(jax.make_jaxpr(check.violations)(whole).eqns) == 1
    assert np.asarray(masks).tolist() == [0, check.MEMORY]
