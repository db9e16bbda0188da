"""Between the phases: who is where, and what CPUs may still write."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmig import Builder, migrate_pages
from jaxmig.engine.apply import PHASES, Batch, prepare
from jaxmig.engine.chunk import look_and_plan
from jaxmig.engine.migrate import limit_of
from jaxmig.linux import tlb
from jaxmig.linux.batches import Cut, cut
from jaxmig.linux.flush_requests import close_batches
from jaxmig.linux.folio import Where
from jaxmig.linux.phases import flush as flushing
from jaxmig.linux.plan import of_pages
from jaxmig.linux.rules import Rules, rules
from jaxmig.sources.builder import Region
from jaxmig.state import conditions as cond, events, frame, pte, xla
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Machine, Tlb
from jaxmig.state.window import expanded, flat, listed
from test_invariants_engine import warm

BATCH, CPUS, BASE = 8, 4, 40
STORED = 32  # words of a page that a race may store to
KERNELS = ("6.2", "6.3")
RUNNING: Final = (1, 2, 3)
LAST = len(PHASES) - 1


@dataclasses.dataclass(frozen=True)
class Pages:
    """A machine whose TLBs hold all that they may, and the pages that move."""

    m: Machine
    heads: np.ndarray  # of folios, in order of the list
    orders: np.ndarray
    # Of each base page of the list and each process: its entry and, below a PMD leaf,
    # which of the leaf's pages it is.
    entries: np.ndarray
    sub: np.ndarray
    process: dict[int, int]  # that each CPU runs

    @property
    def ends(self) -> np.ndarray:
        """Base pages up to the end of each folio."""
        return np.cumsum(1 << self.orders)


@functools.cache
def pages(what: str, shared: bool = False, held: bool = False) -> Pages:
    """40 base pages, three folios of 16 pages, two THPs, or all of them.

    Args:
      what: "base", "large" or "both"; the last two are the same machine.
      shared: two processes map all of it.
      held: somebody holds a page, a folio and a THP for ever, others for a while.
    """
    b = Builder(nodes=2, cpus=CPUS)
    one = b.process("one", running=RUNNING[:2] if shared else RUNNING)
    two = b.process("two", running=RUNNING[2:] if shared else ())
    owners = [one, two] if shared else [one]
    kind = "shmem" if shared else "anon"
    small = b.mmap(owners, BASE, kind=kind)
    regions = [small]
    if held:
        b.condition(small, "extra_ref", [3, 17])
        b.condition(small, "extra_ref", [5, 20], until=2)
    if what != "base":
        mid = b.mmap(owners, 3 * 16, order=4, kind=kind)
        huge = b.mmap(owners, 2 * PMD_PAGES, order=9, kind=kind)
        regions = [mid, huge, small] if what == "both" else [mid, huge]
        if held:
            b.condition(mid, "extra_ref", [16])
            b.condition(huge, "extra_ref", [0])
    m = warm(b.build(seed=1))
    places = [_places(m, r, n) for r in regions for n in [0]]
    second = [_places(m, r, 1) for r in regions] if shared else places
    heads, orders = [], []
    for r, (entry, sub) in zip(regions, places, strict=True):
        first = np.arange(r.pages) % (1 << r.order) == 0
        heads.append(np.asarray(m.pte)[entry[first], pte.PFN] + sub[first])
        orders.append(np.full(r.folios, r.order))
    return Pages(
        m,
        np.concatenate(heads).astype(np.int32),
        np.concatenate(orders),
        np.stack([np.concatenate([e for e, _ in p]) for p in (places, second)]),
        np.stack([np.concatenate([s for _, s in p]) for p in (places, second)]),
        {cpu: int(shared and cpu in RUNNING[2:]) for cpu in RUNNING},
    )


def _places(m: Machine, r: Region, process: int) -> tuple[np.ndarray, np.ndarray]:
    """Entry and place below it of each page of a region."""
    page = np.arange(r.pages)
    if r.by_pmd:
        leaf = m.geometry.ptes + r.first_pmd[process]
        return leaf + page // PMD_PAGES, page % PMD_PAGES
    return r.first_pte[process] + page, page * 0


def starts(p: Pages, kernel: str, batch: int) -> np.ndarray:
    """The folio that begins each batch, and their number at the end."""
    if kernel == "6.2":
        return np.arange(len(p.heads) + 1)
    found, held = [0], 0
    for i, order in enumerate(p.orders.tolist()):
        held += 1 << order
        if held >= batch:
            found, held = [*found, i + 1], 0
    return np.asarray(found if found[-1] == len(p.heads) else [*found, len(p.heads)])


# A stop


def waiting(m: Machine, p: Pages) -> np.ndarray:
    """Which base pages migration entries stand for, in both processes alike."""
    found = (np.asarray(m.pte)[p.entries, pte.BITS] & pte.MIGRATION) != 0
    assert (found[0] == found[1]).all()
    return found[0]


def frames(m: Machine, p: Pages) -> np.ndarray:
    """The frame that each base page has by its entries."""
    found = np.asarray(m.pte)[p.entries, pte.PFN] + p.sub
    assert (found[0] == found[1]).all()
    return found[0]


def cached(m: Machine, p: Pages) -> np.ndarray:
    """Which base pages are in a TLB somewhere."""
    tags = [np.asarray(t.entry) for t in (m.tlb, m.huge_tlb)]
    return np.isin(p.entries, np.concatenate(tags, axis=None)).any(axis=0)


def of_folios(p: Pages, first: int, end: int) -> np.ndarray:
    """The base pages of some folios of the list, as a mask."""
    ends = np.concatenate([[0], p.ends])
    page = np.arange(p.entries.shape[1])
    return (page >= ends[first]) & (page < ends[end])


def looks_of(p: Pages) -> tuple[np.ndarray, np.ndarray]:
    """Base pages of folios that somebody holds at the first look, and for ever."""
    none = np.zeros((len(p.heads), cond.WORDS), np.int32)
    rows = p.m.conditions
    left, _ = cond.unpack(none if rows is None else np.asarray(rows)[p.heads])
    looks = np.repeat(left[cond.EXTRA_REF], 1 << p.orders)
    return looks > 0, looks == cond.UNTIL_WAITED


BATCHES = [0, 2, -1]
STOPS = [pytest.param("base", False, False, id="base pages")]
STOPS += [pytest.param("both", True, True, id="all sizes, shared, some held")]


@pytest.mark.parametrize(("what", "shared", "held"), STOPS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_stop_shows_one_batch_half_done(what, shared, held, kernel, phase) -> None:
    p = pages(what, shared, held)
    m, begins = p.m, starts(p, kernel, BATCH)
    assert len(begins) > 5
    reached = list(PHASES).index(phase)
    had, memory = frames(m, p), np.asarray(m.memory)
    for number in BATCHES:
        k = number % (len(begins) - 1)
        now, _ = migrate_pages(
            m, p.heads, 1, kernel=kernel, batch=BATCH, stop=(k, phase)
        )
        before = of_folios(p, 0, begins[k])
        mine = of_folios(p, begins[k], begins[k + 1])
        after = ~before & ~mine
        # Serial passes go over the whole list: this is the first of them.
        first_look, ever = looks_of(p)
        takes = ~first_look
        taken = takes if kernel == "6.2" else ~ever
        # Entries: a folio that is held is unmapped too, and mapped again where it was.
        assert (waiting(now, p) == (mine & (reached < LAST))).all()
        entry = p.entries[:, after]
        assert (np.asarray(now.pte)[entry] == np.asarray(m.pte)[entry]).all()
        # Frames, and who owns them.
        here = frames(now, p)
        gone = (taken & before) | (takes & mine & (reached == LAST))
        assert (here // m.geometry.frames_per_node == gone).all()
        assert (here[~gone] == had[~gone]).all()
        heads = np.cumsum(np.append(0, 1 << p.orders))[:-1]
        rows = np.asarray(now.frame)[here[heads]]
        locked = (rows[:, frame.FLAGS] & frame.LOCKED) != 0
        assert (locked == (mine & (reached < LAST))[heads]).all()
        # TLBs: of what was unmapped before nothing is left.
        assert not (cached(now, p) & before).any()
        assert not (cached(now, p) & mine).any() or phase == "unmap"
        if phase == "unmap":
            # The round of a batch or of a THP before has emptied the TLBs already.
            full = k == 0 or (kernel == "6.2" and 9 not in p.orders[:k])
            assert (cached(now, p)[mine] == full).all()
        # Contents: where they were, until remap even if they were copied.
        assert (np.asarray(now.memory)[here] == memory[had]).all()
        _copied(now, p, mine & takes, reached)


def _copied(now: Machine, p: Pages, mine: np.ndarray, reached: int) -> None:
    """Whether the batch's pages stand twice in memory: on both nodes."""
    first = p.m.geometry.frames_per_node
    there = np.asarray(now.memory)[first:, 0]
    words = np.asarray(p.m.memory)[frames(p.m, p)[mine], 0]
    copied = np.isin(words, there)
    assert (copied == (reached >= list(PHASES).index("copy"))).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_after_the_last_phase_of_the_last_batch_the_call_is_over(kernel) -> None:
    p = pages("base")
    last = len(starts(p, kernel, BATCH)) - 2
    how: dict[str, Any] = {"kernel": kernel, "batch": BATCH}
    stopped, counted = migrate_pages(p.m, p.heads, 1, stop=(last, "remap"), **how)
    whole, result = migrate_pages(p.m, p.heads, 1, **how)
    # Generations are only settled at the end of a call.
    stopped = dataclasses.replace(stopped, cpus=whole.cpus)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(stopped), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_array_equal(a, b, err_msg=str(path))
    # It has counted the batches before the last one.
    batches = len(starts(p, kernel, BATCH)) - 1
    assert result.vmstat["nr_tlb_remote_flush"] == batches
    assert counted.vmstat["nr_tlb_remote_flush"] == batches - 1
    # There is no batch behind the last one.
    beyond, _ = migrate_pages(p.m, p.heads, 1, stop=(last + 1, "unmap"), **how)
    assert not waiting(beyond, p).any()


def test_a_stop_refuses_what_it_does_not_know() -> None:
    p = pages("base")
    with pytest.raises(ValueError, match="one of unmap flush copy remap"):
        migrate_pages(p.m, p.heads, 1, stop=(0, "move"))
    with pytest.raises(ValueError, match="keeps no log"):
        migrate_pages(p.m, p.heads, 1, stop=(0, "copy"), log=100)


# Stores between the phases


@jax.jit
def written(memory: Any, at: Any, values: Any) -> Any:
    """Contents with some words replaced."""
    return memory.at[at[:, 0], at[:, 1]].set(values, mode="drop")


class Cpus:
    """CPUs that store between the phases, through their TLBs, as hardware does."""

    def __init__(self, p: Pages, m: Machine) -> None:
        self.p, self.m = p, m
        self.value = 1
        # A store to a word of its own: a later one must not hide that it was lost.
        self.expected: dict[tuple[int, int], int] = {}
        self.waiting: list[tuple[int, int, int, int]] = []
        self.stored: list[tuple[int, int, int]] = []  # frame, word, value
        self.hits = {"small": 0, "huge": 0}
        self.look(m)

    def look(self, m: Machine) -> None:
        """See the machine as a phase has left it."""
        self.m = m
        self.pte = np.array(m.pte)
        self.tlbs = [
            (name, np.asarray(t.entry), np.asarray(t.pfn))
            for name, t in (("small", m.tlb), ("huge", m.huge_tlb))
        ]

    def machine(self) -> Machine:
        """The machine with all that was stored."""
        pte, memory = jnp.asarray(self.pte), self.m.memory
        if self.stored:
            room = -len(self.stored) % 4096
            rows = np.pad(self.stored, ((0, room), (0, 0)), constant_values=NOWHERE)
            memory = written(memory, rows[:, :2], rows[:, 2].astype(np.uint32))
            self.stored = []
        return dataclasses.replace(self.m, pte=pte, memory=memory)

    def store(self, cpu: int, page: int, word: int) -> None:
        """One store of a new value by `cpu` to a page of the list."""
        self.value += 1
        self.expected[page, word] = self.value
        self._perform(cpu, page, word, self.value)

    def _perform(self, cpu: int, page: int, word: int, value: int) -> None:
        process = self.p.process[cpu]
        e, sub = (int(x[process, page]) for x in (self.p.entries, self.p.sub))
        for name, entry, pfn in self.tlbs:
            ways = entry.shape[1] // CPUS
            row, mine = e % entry.shape[0], slice(cpu * ways, (cpu + 1) * ways)
            found = np.flatnonzero(entry[row, mine] == e)
            if found.size:
                # Cached dirty: no walk, whatever the page table says by now.
                self.hits[name] += 1
                self.stored.append((pfn[row, mine][found[0]] + sub, word, value))
                return
        if self.pte[e, pte.BITS] & pte.MIGRATION:
            self.waiting.append((cpu, page, word, value))
            return
        self.pte[e, pte.BITS] |= pte.DIRTY | pte.YOUNG
        self.stored.append((self.pte[e, pte.PFN] + sub, word, value))

    def wake(self) -> None:
        """Faults that waited for their folio go on."""
        waited, self.waiting = self.waiting, []
        for store in waited:
            self._perform(*store)

    def lost(self) -> list[tuple[int, int]]:
        """Pages and words that do not hold what was stored, or are nobody's."""
        m = self.machine()
        rows, memory = np.asarray(m.frame), np.asarray(m.memory)
        found = []
        for (page, word), value in self.expected.items():
            for process in (0, 1):
                here = (process, page)
                there = self.pte[self.p.entries[here], pte.PFN] + self.p.sub[here]
                kept = memory[there, word] == value
                owned = rows[there, frame.FLAGS] & frame.KIND
                if not kept or not owned:
                    found.append((page, word))
        return found


@functools.partial(jax.jit, static_argnums=(0, 5), compiler_options=xla.quick_options())
def begun(
    r: Rules, m: Machine, heads: Any, size: Any, limit: Any, width: int
) -> tuple[Machine, Batch]:
    """The folios as the engine has them before its first phase: one window.

    Which is what `migrate_window` in engine/chunk.py does until then.
    """
    at = Where(cpu=jnp.int32(0), node=jnp.int32(1))
    found = listed(m, heads, jnp.int32(0), size, width)
    w = (
        expanded(m, found)
        if len(m.geometry.orders) > 1
        else flat(found.head, found.row)
    )
    put_off = tlb.should_defer(r, m.cpus, at.cpu)
    seen, mapped, plan = look_and_plan(r, m, w, put_off)
    none = jnp.int32(0)
    batches = Cut(jnp.arange(width, dtype=jnp.int32), none, none)
    if r.batched:
        batches = cut(r, w, none, limit)
    by_page = of_pages(w, plan, batches.batch)
    flushes, ev = flushing.no_flushes(m.cpus), events.none(m.cpus.lazy.shape[0])
    known = (seen, plan, by_page, batches, found.place)
    _, _, asked = close_batches(r, ev, flushes, m, at.cpu, w, known, put_off)
    known = (seen, mapped, plan, by_page, asked, flushes.emptied)
    return prepare(m, w, known, at, jnp.asarray(True))


@functools.cache
def jitted(phase: str) -> Callable[..., tuple[Machine, Batch]]:
    """A phase of the engine."""
    return jax.jit(
        PHASES[phase], static_argnums=0, compiler_options=xla.quick_options()
    )


def only_believed(r: Rules, m: Machine, b: Batch) -> tuple[Machine, Batch]:
    """Unmap, of which only the books come to know: the entries stay."""
    return m, jitted("unmap")(r, m, b)[1]


Step = Callable[..., tuple[Machine, Batch]]
RIGHT: Final[dict[str, Step]] = {name: jitted(name) for name in PHASES}


def in_order(*names: str) -> tuple[Step, ...]:
    """Phases by their names."""
    return tuple(RIGHT[name] for name in names)


BROKEN: Final = {
    "no flush": in_order("unmap", "copy", "remap"),
    "copy before flush": in_order("unmap", "copy", "flush", "remap"),
    "remap before copy": in_order("unmap", "flush", "remap", "copy"),
    "no unmap": (only_believed, *in_order("flush", "copy", "remap")),
}


def race(
    kernel: str, p: Pages, steps: Iterable[Step], size: int, m: Machine | None = None
) -> Cpus:
    """Migrate with stores from every CPU to every page between all phases.

    Args:
      size: base pages that are worked at a time: those of a window.
    """
    r, ends = rules(kernel), starts(p, "6.3", size)
    m = p.m if m is None else m
    # A step copies all contents; words that nobody stores to would show nothing.
    few = jnp.asarray(np.asarray(m.memory)[:, :STORED])
    cpus, width = Cpus(p, dataclasses.replace(m, memory=few)), 1 << 11
    if len(p.m.geometry.orders) == 1:
        width = 1 << 6
    for first, end in itertools.pairwise(ends):
        here = p.heads[first:end]
        heads = jnp.asarray(np.pad(here, (0, width - len(here))))
        args = (jnp.int32(len(here)), limit_of(BATCH), width)
        # A batch before may have emptied the TLBs: CPUs go on using their pages.
        m, batch = begun(r, warm(cpus.machine()), heads, *args)
        cpus.look(m)
        # Of a large folio its first pages and its last one stand for all.
        mine = np.flatnonzero(of_folios(p, first, end))
        mine = [i for i in mine.tolist() if p.sub[0, i] in (0, 1, 300, PMD_PAGES - 1)]
        for word, step in enumerate(steps):
            m, batch = step(r, cpus.machine(), batch)
            cpus.look(m)
            for page in mine:
                for cpu in RUNNING:
                    cpus.store(cpu, page, 4 * cpu + word)
        cpus.wake()
    assert len(cpus.expected) > 300 or p.heads.size < BASE
    return cpus


RACES = [
    pytest.param("base", False, False, id="base pages"),
    pytest.param("base", True, True, id="shared base pages, some held"),
    pytest.param("large", False, True, id="large folios, some held"),
    pytest.param("both", True, False, id="shared, of all sizes"),
    pytest.param("both", True, True, id="shared, of all sizes, some held"),
]
WINDOWS = [pytest.param(BATCH, id="a batch"), pytest.param(1 << 11, id="the list")]


@pytest.mark.parametrize(("what", "shared", "held"), RACES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", WINDOWS)
def test_no_store_between_phases_is_lost(what, shared, held, kernel, size) -> None:
    p = pages(what, shared, held)
    cpus = race(kernel, p, RIGHT.values(), size)
    assert cpus.lost() == []
    # Stores went through TLBs of both sizes, as far as there are such pages.
    assert cpus.hits["small"] > 0
    assert (cpus.hits["huge"] > 0) == (what != "base")
    moved = frames(cpus.m, p) // p.m.geometry.frames_per_node
    assert moved.sum() >= 0.4 * moved.size


@pytest.mark.parametrize(("what", "shared", "held"), RACES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", WINDOWS)
@pytest.mark.parametrize("broken", BROKEN)
def test_broken_policies_lose_stores(what, shared, held, kernel, size, broken) -> None:
    p = pages(what, shared, held)
    lost = race(kernel, p, BROKEN[broken], size).lost()
    assert lost
    # Pages of every size lose some, not those of one alone.
    sizes = np.repeat(p.orders, 1 << p.orders)
    assert {int(sizes[page]) for page, _ in lost} == set(p.orders.tolist())


@pytest.mark.parametrize(("what", "shared", "held"), RACES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mask_without_all_cpus_loses_stores(what, shared, held, kernel) -> None:
    p = pages(what, shared, held)
    mask = np.zeros(p.m.cpus.mask.shape, bool)
    mask[0, 1] = True
    wrong = dataclasses.replace(p.m.cpus, mask=jnp.asarray(mask))
    m = dataclasses.replace(p.m, cpus=wrong)
    assert race(kernel, p, RIGHT.values(), BATCH, m).lost()


def test_a_page_that_fails_is_mapped_again_where_it_was() -> None:
    p = pages("both", True, True)
    stopped, _ = migrate_pages(p.m, p.heads, 1, batch=BATCH, stop=(1, "remap"))
    first, end = starts(p, "6.3", BATCH)[1:3]
    stays = of_folios(p, first, end) & looks_of(p)[0]
    assert stays.any()
    assert (frames(stopped, p)[stays] == frames(p.m, p)[stays]).all()
    flags = np.asarray(stopped.frame)[p.heads[first:end], frame.FLAGS]
    assert not (flags & (frame.LOCKED | frame.UNMAPPED)).any()


def test_tlbs_held_all_that_they_may() -> None:
    for what, shared, held in (p.values for p in RACES):
        p = pages(what, shared, held)
        assert cached(p.m, p).all()
        assert isinstance(p.m.tlb, Tlb)
        assert (np.asarray(p.m.tlb.entry) != NOWHERE).sum() >= BASE
