"""One folio at a time: contents that wait to be copied, and rules that are data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmig import Builder, Machine, check, folios_on, migrate, migrate_pages, pte
from jaxmig.policy import state
from jaxmig.releases import RELEASES
from jaxmig.rules import MODES, rules
from jaxmig.switches import CALL, RELEASE, Switches, switches, word

SETTINGS = [
    rules(kernel, mode, reason, arch, memalloc)
    for kernel in RELEASES
    for mode in MODES
    for reason in ("syscall_or_cpuset", "numa_misplaced", "longterm_pin")
    for arch in ("x86", "x86-invlpgb", "arm64")
    for memalloc in (False, True)
]


def mixed(pages: int, free: int | None = None) -> Machine:
    """Base pages, shared ones, folios of two sizes; something stands in the way."""
    b = Builder(nodes=2, cpus=4, free=[None, free])
    one, two = b.process("one", running=[1, 2]), b.process("two", running=[3])
    heap = b.mmap(one, pages)
    b.mmap([one, two], 16, kind="shmem")
    b.mmap([one, two], 64, order=4, kind="shmem")
    b.mmap(one, 1024, order=9)
    b.condition(heap, "extra_ref", range(0, pages, 9), until=4)
    b.splits = True
    return b.build(seed=3)


def words_of(m: Machine) -> np.ndarray:
    """The first words of the page behind each PTE, whatever frame it is in."""
    entries = np.asarray(m.pte)[: m.geometry.ptes]
    there = (entries[:, pte.BITS] & pte.PRESENT) != 0
    found = np.zeros((len(entries), 8), np.uint32)
    found[there] = np.asarray(m.memory)[entries[there, pte.PFN], :8]
    return found


@pytest.mark.parametrize("kernel", ["6.2", "6.12"])
def test_contents_arrive_whenever_they_are_copied(monkeypatch, kernel: str) -> None:
    # Fewer free pages than folios: some are split, and their pieces moved.
    m = mixed(700, free=1500)
    heads = folios_on(m, node=0)
    whole, expected = migrate_pages(m, heads, 1, kernel=kernel)
    monkeypatch.setattr(state, "COPIES", 3)
    migrate.compiled_for_any.cache_clear()
    small, result = migrate_pages(m, heads, 1, kernel=kernel)
    migrate.compiled_for_any.cache_clear()
    assert expected.vmstat["pgmigrate_success"] > 3 * state.COPIES
    assert result.vmstat == expected.vmstat
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(small), strict=True):
        assert (np.asarray(a) == np.asarray(b)).all()
    before, after = words_of(m), words_of(small)
    both = (before != 0).any(axis=1) & (after != 0).any(axis=1)
    assert both.sum() > 700
    assert (before[both] == after[both]).all()
    assert not int(jax.jit(check.violations)(small, check.ledger(m)))


def test_a_word_says_what_the_rules_say() -> None:
    seen = {}
    for r in SETTINGS:
        s = switches(word(r))
        for name in RELEASE:
            assert bool(getattr(s, name)) == getattr(r.release, name)
        for name in ("memalloc", "nosplit", "broadcasts", "invlpgb"):
            assert bool(getattr(s, name)) == getattr(r, name)
        assert bool(s.batched) == r.release.batched
        assert bool(s.may_sleep) == (r.mode != "async" and not r.memalloc)
        seen[word(r)] = s
    assert len(seen) > 100
    fields = [f.name for f in dataclasses.fields(Switches)]
    assert fields == [*RELEASE, *CALL]


def outcome(made: tuple[Machine, Any]) -> list[Any]:
    m, result = made
    arrays = [np.asarray(x) for x in jax.tree.leaves((m.frame, m.pte, m.nfree))]
    return [a.tolist() for a in arrays] + [result.vmstat, result.ret]


@pytest.mark.parametrize("kernel", ["6.2", "6.18"])
def test_rules_may_be_known_while_a_call_is_traced(kernel: str) -> None:
    m = mixed(40)
    heads = jnp.asarray(folios_on(m, node=0))
    direct = migrate_pages(m, heads, 1, kernel=kernel)
    inside = jax.jit(lambda m, h: migrate_pages(m, h, 1, kernel=kernel))(m, heads)
    assert outcome(direct) == outcome(inside)
