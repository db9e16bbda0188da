"""One folio at a time: contents that wait to be copied, and rules that are data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from invariants import LEDGER, VIOLATIONS
from jaxmig import Builder, Machine, folios_on, migrate_pages
from jaxmig.engine import migrate
from jaxmig.linux.in_order import carried
from jaxmig.linux.releases import RELEASES
from jaxmig.linux.rules import FLAGS, MODES, from_word, rules, word
from jaxmig.state import pte, xla

SETTINGS = [
    (kernel, mode, reason, arch, memalloc)
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
    monkeypatch.setattr(carried, "COPIES", 3)
    args, _ = migrate.checked(m, heads, 1)
    # A program of its own: that of the others is compiled already.
    fewer = xla.Program(lambda *a: migrate.run(*a[:-1], rules=from_word(a[-1], None)))
    often = [fewer(*args, word(rules(k))) for k in kernels]
    before, had = words_of(m), LEDGER(m)
    for (a, expected), (b, result) in zip(whole, often, strict=True):
        assert expected.vmstat["pgmigrate_success"] > 3 * carried.COPIES
        assert result.vmstat == expected.vmstat
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert (np.asarray(x) == np.asarray(y)).all()
        after = words_of(b)
        both = (before != 0).any(axis=1) & (after != 0).any(axis=1)
        assert both.sum() > 700
        assert (before[both] == after[both]).all()
        assert not int(VIOLATIONS(b, had))


def test_rules_say_what_their_names_mean() -> None:
    for kernel, mode, reason, arch, memalloc in SETTINGS:
        r, row = rules(kernel, mode, reason, arch, memalloc), RELEASES[kernel]
        asked = ("invlpgb", "offloads")  # of the hardware as well
        shared = [n for n in FLAGS if hasattr(row, n) and n not in asked]
        assert len(shared) == 21
        for name in shared:
            assert getattr(r, name) == getattr(row, name)
        assert r.asynchronous == (mode == "async")
        assert r.waits_for_writeback == (mode == "sync")
        assert r.may_sleep == (mode != "async" and not memalloc)
        assert r.two_stages == (row.async_first and mode != "async")
        assert r.nosplit == (reason == "numa_misplaced")
        assert r.longterm_pin == (reason == "longterm_pin")
        assert r.broadcasts == (arch == "arm64")
        assert not r.offloads
        assert rules(kernel, engine=True).offloads == (kernel == "batch-copy")
        assert r.invlpgb == (arch == "x86-invlpgb" and row.invlpgb)


def test_a_word_says_what_the_rules_say() -> None:
    seen = {}
    for setting in SETTINGS:
        r = rules(*setting)
        assert from_word(word(r)) == r
        assert hash(from_word(word(r))) == hash(r)
        assert seen.setdefault(int(word(r)), r) == r
    assert len(seen) == len(set(seen.values())) > 100
    traced = jax.jit(lambda bits: from_word(bits))(word(r))
    assert [bool(flag) for flag in jax.tree.leaves(traced)] == jax.tree.leaves(r)


def test_releases_of_the_same_flags_are_one_program(monkeypatch) -> None:
    twin = dataclasses.replace(RELEASES["6.12"], name="twin", walks_folios=False)
    monkeypatch.setitem(RELEASES, "twin", twin)
    assert rules("twin") == rules("6.12")
    other = dataclasses.replace(twin, defers=lambda cpus, cpu: cpus.mask[:, 0])
    monkeypatch.setitem(RELEASES, "twin", other)
    assert rules("twin") != rules("6.12")
    assert word(rules("twin")) == word(rules("6.12"))


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
    inside = jax.jit(
        lambda m, h: migrate_pages(m, h, 1, kernel="6.2"),
        compiler_options=xla.quick_options(),
    )(m, heads)
    assert outcome(direct) == outcome(inside)
