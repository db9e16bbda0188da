"""Between the phases: who is where, and what CPUs may still write."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmig import Builder, frame, migrate_pages, pte
from jaxmig.machine import NOWHERE, Machine
from jaxmig.policy import phased
from jaxmig.policy.folio import Where
from jaxmig.rules import rules

PAGES, BATCH, CPUS = 40, 8, 4
KERNELS = ("6.2", "6.3")


def warm(m: Machine, pages: int, cpus: list[int]) -> Machine:
    """Every CPU of `cpus` has touched every page: writable and dirty entries."""
    tlb = m.tlb
    ways = tlb.entry.shape[1] // m.cpus.lazy.shape[0]
    entry, pfn = np.array(tlb.entry), np.array(tlb.pfn)
    bits = np.array(tlb.bits)
    words = np.asarray(m.pte)
    for e in range(pages):
        for cpu in cpus:
            way = (e // entry.shape[0]) % ways
            slot = (e % entry.shape[0], cpu * ways + way)
            entry[slot], pfn[slot] = e, words[e, pte.PFN]
            bits[slot] = pte.WRITE | pte.DIRTY
    new = dataclasses.replace(
        tlb, entry=jnp.array(entry), pfn=jnp.array(pfn), bits=jnp.array(bits)
    )
    return dataclasses.replace(m, tlb=new)


def machine(running: list[int] | None = None, **options) -> Machine:
    b = Builder(nodes=2, cpus=CPUS, tlb=(16, 4))
    cpus = [1, 2, 3] if running is None else running
    heap = b.mmap(b.process("app", running=cpus), pages=PAGES)
    for page in options.pop("referenced", []):
        b.condition(heap, "extra_ref", [page])
    return warm(b.build(seed=1), PAGES, cpus)


def heads(m: Machine) -> np.ndarray:
    return np.asarray(m.pte)[:PAGES, pte.PFN]


def is_migration(m: Machine) -> np.ndarray:
    return (np.asarray(m.pte)[:PAGES, pte.BITS] & pte.MIGRATION) != 0


def cached(m: Machine) -> set[int]:
    entries = np.asarray(m.tlb.entry)
    return set(entries[entries != NOWHERE].tolist())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("k", [0, 2, 4])
@pytest.mark.parametrize("phase", phased.NAMES)
def test_a_stop_shows_one_batch_half_done(kernel: str, k: int, phase: str) -> None:
    m = machine()
    size = BATCH if kernel == "6.3" else 1
    stopped, _ = migrate_pages(
        m, heads(m), 1, kernel=kernel, batch=BATCH, stop=(k, phase)
    )
    mine = np.zeros(PAGES, bool)
    mine[k * size : (k + 1) * size] = True
    before, after = mine.cumsum() == 0, (mine[::-1].cumsum() == 0)[::-1]
    waiting = is_migration(stopped)
    nodes = heads(stopped) // m.geometry.frames_per_node
    assert (waiting == (mine if phase != "remap" else False)).all()
    assert (nodes[before] == 1).all()
    assert (
        np.asarray(stopped.pte)[:PAGES][after] == np.asarray(m.pte)[:PAGES][after]
    ).all()
    flushed = set(np.flatnonzero(before | (mine & (phase != "unmap"))).tolist())
    assert not cached(stopped) & flushed
    if phase == "unmap":
        # Batched: the rounds of earlier batches emptied the TLBs already.
        left = set(np.flatnonzero(mine | after).tolist())
        assert cached(stopped) == (left if kernel == "6.2" or k == 0 else set())


def test_a_stop_refuses_what_it_does_not_know() -> None:
    m = machine()
    with pytest.raises(ValueError, match="one of unmap flush copy remap"):
        migrate_pages(m, heads(m), 1, stop=(0, "move"))
    b = Builder(nodes=2, cpus=2)
    b.mmap(b.process("app"), pages=512, order=9)
    with pytest.raises(ValueError, match="larger than a base page"):
        migrate_pages(b.build(content=False), [0], 1, stop=(0, "unmap"))


class Cpus:
    """CPUs that store between the phases, through their TLBs, as hardware does."""

    def __init__(self, m: Machine) -> None:
        self.m = m
        self.value = 1
        # A store to a word of its own: a later one must not hide that it was lost.
        self.expected: dict[tuple[int, int], int] = {}
        self.waiting: list[tuple[int, int, int]] = []
        self._look()

    def _look(self) -> None:
        self.pte, self.memory = np.array(self.m.pte), np.array(self.m.memory)
        self.entry, self.pfn = np.asarray(self.m.tlb.entry), np.asarray(self.m.tlb.pfn)

    def run(self, phase, r, batch, at) -> None:
        """One phase of the migration."""
        now = {"pte": jnp.array(self.pte), "memory": jnp.array(self.memory)}
        m = dataclasses.replace(self.m, **now)
        self.m = jax.jit(phase, static_argnums=0)(r, m, batch, at)
        self._look()

    def store(self, cpu: int, e: int, word: int) -> None:
        """One store of a new value by `cpu` to the page behind entry `e`."""
        self.value += 1
        self.expected[e, word] = self.value
        self._perform(cpu, e, word, self.value)

    def _perform(self, cpu: int, e: int, word: int, value: int) -> None:
        ways = self.entry.shape[1] // CPUS
        row = e % self.entry.shape[0]
        mine = slice(cpu * ways, (cpu + 1) * ways)
        hit = np.flatnonzero(self.entry[row, mine] == e)
        if hit.size:
            # The entry is cached dirty: no walk, whatever the page table says by now.
            self.memory[self.pfn[row, mine][hit[0]], word] = value
        elif self.pte[e, pte.BITS] & pte.MIGRATION:
            self.waiting.append((e, word, value))
        else:
            self.pte[e, pte.BITS] |= pte.DIRTY | pte.YOUNG
            self.memory[self.pte[e, pte.PFN], word] = value

    def wake(self) -> None:
        """Faults that waited for their folio go on."""
        waited, self.waiting = self.waiting, []
        for e, word, value in waited:
            self._perform(0, e, word, value)

    def lost(self) -> list[tuple[int, int]]:
        """Entries and words that do not hold what was stored, or are nobody's."""
        rows = np.asarray(self.m.frame)
        return [
            (e, word)
            for (e, word), value in self.expected.items()
            if self.memory[self.pte[e, pte.PFN], word] != value
            or rows[self.pte[e, pte.PFN], frame.REFCOUNT] == 0
        ]


def race(kernel: str, phases: tuple, size: int, mask=None) -> list[tuple[int, int]]:
    """Migrate with stores from every CPU to every page between all phases."""
    r, m = rules(kernel), machine()
    if mask is not None:
        new = dataclasses.replace(m.cpus, mask=jnp.array(mask))
        m = dataclasses.replace(m, cpus=new)
    at = Where(cpu=jnp.int32(0), node=jnp.int32(1))
    order = heads(m)
    cpus = Cpus(m)
    for first in range(0, PAGES, size):
        src = jnp.asarray(order[first : first + size])
        cpus.m, batch = jax.jit(phased.prepare, static_argnums=0)(r, cpus.m, src, at)
        for word, phase in enumerate(phases):
            cpus.run(phase, r, batch, at)
            for e in range(first, first + size):
                for cpu in (1, 2, 3):
                    cpus.store(cpu, e, 4 * cpu + word)
        cpus.wake()
    return cpus.lost()


@pytest.mark.parametrize(
    ("kernel", "phases", "size"),
    [("6.2", phased.SERIAL, 1), ("6.3", phased.BATCHED, BATCH)],
)
def test_no_store_between_phases_is_lost(kernel, phases, size) -> None:
    assert race(kernel, phases, size) == []


def _without(phases: tuple, *names: str) -> tuple:
    return tuple(p for p, n in zip(phases, phased.NAMES, strict=True) if n not in names)


@pytest.mark.parametrize(
    ("kernel", "phases", "size"),
    [("6.2", phased.SERIAL, 1), ("6.3", phased.BATCHED, BATCH)],
)
@pytest.mark.parametrize(
    "broken", ["no flush", "copy before flush", "no unmap", "mask"]
)
def test_broken_policies_lose_stores(kernel, phases, size, broken) -> None:
    unmap, flush, copy, remap = phases
    mask = None
    if broken == "no flush":
        phases = _without(phases, "flush")
    elif broken == "copy before flush":
        phases = (unmap, copy, flush, remap)
    elif broken == "no unmap":
        phases = _without(phases, "unmap")
    else:
        mask = np.zeros((1, CPUS), bool)
        mask[0, 1] = True
    assert race(kernel, phases, size, mask) != []


def test_a_page_that_fails_is_mapped_again_where_it_was() -> None:
    m = machine(referenced=[3])
    stopped, _ = migrate_pages(m, heads(m), 1, batch=BATCH, stop=(0, "remap"))
    assert heads(stopped)[3] == heads(m)[3]
    flags = np.asarray(stopped.frame)[heads(m)[3], frame.FLAGS]
    assert not flags & (frame.LOCKED | frame.UNMAPPED)
