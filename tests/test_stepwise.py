"""One folio at a time: contents that wait to be copied, and rules that are data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxmig import Builder, Machine, check, folios_on, migrate_pages, pte, xla
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


def test_contents_arrive_whenever_they_are_copied(monkeypatch) -> None:
    # Fewer free pages than folios: some are split, and their pieces moved.
    m = mixed(700, free=1500)
    heads = folios_on(m, node=0)
    kernels = ("6.2", "6.12")
    whole = [migrate_pages(m, heads, 1, kernel=k) for k in kernels]
    monkeypatch.setattr(state, "COPIES", 3)
    xla.forget()
    often = [migrate_pages(m, heads, 1, kernel=k) for k in kernels]
    xla.forget()
    before, had = words_of(m), check.ledger(m)
    for (a, expected), (b, result) in zip(whole, often, strict=True):
        assert expected.vmstat["pgmigrate_success"] > 3 * state.COPIES
        assert result.vmstat == expected.vmstat
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert (np.asarray(x) == np.asarray(y)).all()
        after = words_of(b)
        both = (before != 0).any(axis=1) & (after != 0).any(axis=1)
        assert both.sum() > 700
        assert (before[both] == after[both]).all()
        assert not int(jax.jit(check.violations)(b, had))


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


def test_rules_may_be_known_while_a_call_is_traced() -> None:
    # The program for all rules runs elsewhere in these tests; this one is folded.
    b = Builder(nodes=2, cpus=4)
    heap = b.mmap(b.process("one", running=[1, 2]), 40)
    b.condition(heap, "extra_ref", range(0, 40, 9), until=4)
    m = b.build(content=False)
    heads = jnp.asarray(folios_on(m, node=0))
    direct = migrate_pages(m, heads, 1, kernel="6.2")
    inside = jax.jit(lambda m, h: migrate_pages(m, h, 1, kernel="6.2"))(m, heads)
    assert outcome(direct) == outcome(inside)
