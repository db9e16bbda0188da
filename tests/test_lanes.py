"""Lanes: sums, ranks and batches, and copies of pages, against plain numpy.

What XLA:CPU does better with a trick of ours must come to the same without it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from jax import export
from jaxmig import Builder
from jaxmig.linux import outcomes as oc, plan
from jaxmig.linux.batches import cut
from jaxmig.linux.in_order.progress import NO_LIMIT
from jaxmig.linux.phases import copypage, gpucopy
from jaxmig.linux.rules import rules, word
from jaxmig.state import conditions as cond, frame, lanes, xla
from jaxmig.state.machine import NOWHERE
from jaxmig.state.window import Window, flat

SIZES = [1, 127, 128, 129, 1000, 4096]
# Around whole slices, and around what XLA takes for a long array.
LENGTHS = [1, 511, 512, 513, 4096, *range(65535, 65542), 99991]


def twins(function: Callable[..., Any]) -> tuple[Any, Any]:
    """A function compiled as jaxmig compiles its own, and as a user's jit does."""
    program = xla.Program(function)
    return program.jitted(True), program.jitted(False)


def equal(a: Any, b: Any) -> None:
    """Both the same, word for word."""
    for (path, x), y in zip(
        jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_array_equal(x, y, err_msg=str(path))


@jax.jit
def ranks_and_sums(mask: Any, numbers: Any) -> tuple[Any, ...]:
    """All of them, compiled once a size."""
    totals = lanes.totals(mask, numbers)
    return lanes.running(mask), lanes.rank(mask), totals, lanes.some(mask)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ranks_and_sums(size: int, share: float) -> None:
    mask = np.random.default_rng(size).random(size) < share
    numbers = np.arange(size, dtype=np.int32)
    running, rank, totals, some = ranks_and_sums(jnp.asarray(mask), numbers)
    assert (running == np.cumsum(mask)).all()
    assert (np.asarray(rank)[mask] == np.arange(mask.sum())).all()
    assert [int(n) for n in totals] == [mask.sum(), numbers.sum()]
    assert [bool(b) for b in some] == [mask.any()]


@pytest.mark.parametrize("size", LENGTHS)
def test_sums_of_any_length_are_the_same_without_tricks(size: int) -> None:
    rng = np.random.default_rng(size)
    ones = rng.integers(0, 513, size, dtype=np.int32)
    mask = rng.random(size) < 0.3

    def sums(ones: Any, mask: Any) -> Any:
        return lanes.running(ones), lanes.running(mask), lanes.pick(mask)

    picked = np.full(size, NOWHERE)
    picked[: mask.sum()] = np.flatnonzero(mask)
    want = np.cumsum(ones), np.cumsum(mask), picked
    for compiled in twins(sums):
        equal(compiled(jnp.asarray(ones), jnp.asarray(mask)), want)


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("size", [1, 512, 65537])
def test_each_group_counts_from_a_number_of_its_own(size: int, groups: int) -> None:
    rng = np.random.default_rng(size)
    # A last group more, whose lanes get any number.
    group = rng.integers(0, groups + 1, size, dtype=np.int32)
    first = np.arange(groups, dtype=np.int32) * 1000
    for step in (1, -1):
        following, want = first.tolist(), []
        for mine in group[group < groups]:
            want.append(following[mine])
            following[mine] += step
        for compiled in twins(functools.partial(lanes.dealt, step=step)):
            numbers, after = compiled(jnp.asarray(group), jnp.asarray(first))
            assert np.asarray(numbers)[group < groups].tolist() == want
            assert after.tolist() == following


@given(
    start=st.integers(0, 2**31 - 1 - 16384),
    limit=st.integers(1, 2**31 - 1) | st.integers(1, 20000),
)
@settings(max_examples=100, deadline=None)
def test_batch_numbers_are_quotients(start: int, limit: int) -> None:
    place = start % limit + np.arange(16384)
    found = jax.jit(lanes.numbers)(jnp.asarray(place, jnp.int32), jnp.int32(limit))
    assert (np.asarray(found) == place // limit).all()


# Batches

ROOM = 64
Cutting = tuple[list[int], int, int]


def one_by_one(pages: Sequence[int], held: int, limit: int, crossing: bool) -> Cutting:
    """The batch of each folio, how many are closed, and what the open one holds.

    migrate_pages() of Linux 6.3 closes a batch with the folio that reaches the limit;
    as posted, before the one that would pass it.
    """
    batch, number = [], 0
    for size in pages:
        if crossing and held > 0 and held + size > limit:
            number, held = number + 1, 0
        batch.append(number)
        held += size
        if not crossing and held >= limit:
            number, held = number + 1, 0
    return batch, number, held


@functools.cache
def cuts(kernel: str, large: bool) -> list[Any]:
    """`cut` with the tricks and without: one by one, and by jumps.

    Large folios have lanes for all of their pages, or for their heads alone.
    """

    def found(by_heads: bool, w: Window, held: Any, limit: Any) -> Any:
        w = dataclasses.replace(w, large=large, by_heads=by_heads)
        return cut(rules(kernel), w, held, limit)

    forms = (True, False) if large else (True,)
    return [t for form in forms for t in twins(functools.partial(found, form))]


def window(orders: Sequence[int], skipped: int, room: int) -> Window:
    """Folios of these orders on some lanes."""
    head = np.full(room, NOWHERE, np.int32)
    row = np.zeros((room, 4), np.int32)
    here = slice(skipped, skipped + len(orders))
    head[here] = np.arange(len(orders))
    row[here, frame.FLAGS] = np.asarray(orders, np.int32) | frame.ANON
    lanes_ = (jnp.asarray(head), jnp.asarray(row))
    return flat(*lanes_, jnp.int32(len(orders)), jnp.int32(skipped))


def check_cut(kernel: str, w: Window, held: int, limit: int, large: bool) -> None:
    """Both forms against one folio after the other."""
    there = np.asarray(w.there)
    orders = np.asarray(w.flags)[there] & frame.ORDER
    crossing = kernel == "v4"
    batch, closed, left = one_by_one((1 << orders).tolist(), held, limit, crossing)
    for compiled in cuts(kernel, large):
        c = compiled(w, jnp.int32(held), jnp.int32(limit))
        # A full batch that nothing follows may be closed already, or still be open.
        full = not orders.any() and crossing and left >= limit
        want = (closed + 1, 0) if full and int(c.open) == 0 else (closed, left)
        assert (int(c.closed), int(c.open)) == want
        assert np.asarray(c.batch)[there].tolist() == batch


LIMITS = st.integers(1, 40) | st.integers(1, 2000) | st.just(512) | st.just(NO_LIMIT)
SEVERAL = st.sampled_from([0, 0, 0, 1, 2, 4, 5, 9]) | st.integers(0, 9)


@settings(max_examples=500, deadline=None)
@given(
    orders=st.lists(SEVERAL, max_size=40),
    skipped=st.integers(0, ROOM - 40) | st.just(0),
    held=st.integers(0, 2000),
    limit=LIMITS,
    kernel=st.sampled_from(["6.3", "v4"]),
)
# As posted, a folio that is larger than a batch is one, and the next folio ends it.
@example(orders=[0, 0], skipped=3, held=512, limit=8, kernel="v4")
@example(orders=[9, 0], skipped=3, held=0, limit=8, kernel="v4")
@example(orders=[], skipped=0, held=7, limit=8, kernel="6.3")
@example(orders=[], skipped=5, held=7, limit=8, kernel="v4")
def test_lists_of_folios_are_cut_alike_in_every_form(
    orders: list[int], skipped: int, held: int, limit: int, kernel: str
) -> None:
    # Only a single folio that is larger than a batch can hold more than the limit.
    held = min(held, max(limit, 512)) if kernel == "v4" else held % min(limit, 2001)
    check_cut(kernel, window(orders, skipped, ROOM), held, limit, large=True)


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(0, 40),
    skipped=st.integers(0, ROOM - 40) | st.just(0),
    held=st.integers(0, 2000),
    limit=LIMITS,
    kernel=st.sampled_from(["6.3", "v4"]),
)
@example(count=2, skipped=0, held=512, limit=8, kernel="v4")
def test_lists_of_base_pages_are_cut_by_division(
    count: int, skipped: int, held: int, limit: int, kernel: str
) -> None:
    held = min(held, max(limit, 512)) if kernel == "v4" else held % min(limit, 2001)
    check_cut(kernel, window([0] * count, skipped, ROOM), held, limit, large=False)


@pytest.mark.parametrize("kernel", ["6.3", "v4"])
@pytest.mark.parametrize("limit", [1, 8, 512, NO_LIMIT])
def test_long_lists_are_cut_alike_in_every_form(kernel: str, limit: int) -> None:
    room = 1 << 14
    rng = np.random.default_rng(limit % 1000)
    orders = rng.choice([0, 0, 0, 4, 9], room - 100)
    held = min(3, limit - 1)
    check_cut(kernel, window(orders, 0, room), held, limit, large=True)


# Outcomes


def folios(count: int, seed: int) -> oc.FoundFolios:
    """Folios of every kind, in whose way anything may stand for any time."""
    rng = np.random.default_rng(seed)
    kinds = (frame.ANON, frame.SHMEM, frame.FILE, frame.KSM, frame.SWAPCACHE)
    kinds += (frame.MOVABLE_OPS, frame.HUGETLB)
    flags = rng.choice(kinds, count) | rng.choice([0, 4, 9], count)
    for bit in (frame.PRIVATE, frame.MLOCKED, frame.EXCLUSIVE_MAP):
        flags = flags | np.where(rng.random(count) < 0.3, bit, 0)
    fields = []
    for _ in cond.STATES:
        looks = rng.choice([1, 2, 3, 9, 30, cond.UNTIL_WAITED], count)
        fields.append(np.where(rng.random(count) < 0.2, looks, 0))
    extra = np.where(fields[cond.EXTRA_REF] > 0, rng.integers(1, 4, count), 0)
    pins = np.where((fields[cond.PINNED] > 0) & (rng.random(count) < 0.8), 1, 0)
    marks = extra << cond.EXTRA_SHIFT | pins * cond.PIN_HELD
    for state in (cond.LOCKED, cond.WRITEBACK, cond.BUFFERS_LOCKED):
        endless = (fields[state] == cond.UNTIL_WAITED) & (rng.random(count) < 0.6)
        marks = marks | np.where(endless, cond.forever(state), 0)
    for mark in (cond.FREED, cond.RELEASED):
        marks = marks | np.where(rng.random(count) < 0.3, mark, 0)
    maps = rng.integers(0, 3, count)
    refs = maps + frame.cache_refs(flags) + extra + rng.integers(0, 2, count)
    refs = np.where(rng.random(count) < 0.1, 0, refs)
    words = tuple(jnp.asarray(w, jnp.int32) for w in cond.pack(fields, marks))
    columns = (jnp.asarray(x, jnp.int32) for x in (flags, refs, maps))
    return oc.FoundFolios(*columns, words)


@functools.cache
def decided() -> tuple[Any, Any]:
    """Outcomes in whole slices, and of all lanes together; the same for all releases."""

    def found(bits: Any, passes: Any, f: oc.FoundFolios) -> oc.Outcomes:
        return oc.outcomes(bits, f, passes)

    return twins(found)


DECIDING = [("6.1", "6.2"), ("6.3", "6.6", "6.12", "6.18"), ("v4",)]


@pytest.mark.parametrize("kernels", DECIDING, ids=lambda k: k[0])
@pytest.mark.parametrize("passes", [oc.PASSES, 1])
@pytest.mark.parametrize("count", [100, 3 * oc.SLICE])
def test_outcomes_are_the_same_without_tricks(
    kernels: tuple[str, ...], passes: int, count: int
) -> None:
    seen = np.zeros(5, bool)
    for kernel in kernels:
        for i, mode in enumerate(("sync", "async", "sync_light")):
            bits = jnp.asarray(word(rules(kernel, mode)))
            f = folios(count, seed=count + i)
            a, b = (made(bits, jnp.int32(passes), f) for made in decided())
            equal(a, b)
            ends = np.asarray(a.ends)
            seen |= [(ends & (1 << i)).any() for i in range(5)]
    # Folios moved, were freed, released and slept on, which no first pass does.
    assert seen.tolist() == [True, True, True, True, passes > 1]


@pytest.mark.parametrize("kernel", ["6.2", "6.3", "6.6", "6.12", "6.18", "v4"])
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("kind", [frame.ANON, frame.FILE | frame.PRIVATE, frame.KSM])
def test_a_folio_in_nobodys_way_moves_at_the_first_try(kernel, mode, kind) -> None:
    flags = jnp.full(3, kind | frame.LRU, jnp.int32)
    maps = jnp.asarray([0, 1, 5], jnp.int32)
    refs = maps + frame.cache_refs(flags)
    row = jnp.stack([refs, maps, flags, maps], axis=1)
    some = np.asarray(refs) > 0
    assert (np.asarray(plan._passes_all_checks(row, maps)) == some).all()
    none = maps * 0
    f = oc.FoundFolios(flags, refs, maps, (none,) * cond.WORDS)
    bits = jnp.asarray(word(rules(kernel, mode)))
    o = decided()[1](bits, jnp.int32(oc.PASSES), f)
    assert (np.asarray(o.counts)[some] == oc.PLAIN).all()
    assert (np.asarray(o.ends)[some] == oc.OVER | oc.MOVED).all()
    assert (np.asarray(o.refs) == np.asarray(refs)).all()
    assert not np.asarray(o.words).any()


# Copies


@pytest.mark.parametrize("size", [1, 3, 4, 130])
def test_pages_are_copied_alike_on_every_device(size: int) -> None:
    rng = np.random.default_rng(size)
    frames = rng.permutation(4 * size).astype(np.int32)
    src, dst = frames[:size], frames[size : 2 * size].copy()
    dst[rng.random(size) < 0.3] = NOWHERE
    memory = rng.integers(0, 2**32, (4 * size, 1024), dtype=np.uint32)
    want = memory.copy()
    want[dst[dst != NOWHERE]] = memory[src[dst != NOWHERE]]
    args = [jnp.asarray(x) for x in (memory, src, dst)]
    by_rows = jax.jit(copypage._by_rows, static_argnums=3)(*args, 128)
    np.testing.assert_array_equal(by_rows, want)
    for compiled in twins(copypage._on_cpu):
        np.testing.assert_array_equal(compiled(*args), want)


def machine() -> Any:
    """Base pages, folios of 16 pages, and a THP, with contents."""
    b = Builder(nodes=2, cpus=2)
    app = b.process("app", running=[1])
    b.mmap(app, 100)
    b.mmap(app, 64, order=4)
    b.mmap(app, 512, order=9)
    return b.build(seed=1)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_windows_are_copied_alike_without_tricks(size: int) -> None:
    m = machine()
    rng = np.random.default_rng(size)
    frames = rng.permutation(m.geometry.frames).astype(np.int32)
    src, dst = frames[:size], frames[size : 2 * size].copy()
    stays, nobody = rng.random(size) < 0.3, rng.random(size) < 0.1
    dst[stays | nobody] = NOWHERE
    src = np.where(nobody, NOWHERE, src)
    memory = np.asarray(m.memory)
    want = memory.copy()
    want[dst[dst != NOWHERE]] = memory[src[dst != NOWHERE]]
    for compiled in twins(lambda m, a, b: copypage.copy(m, a, b).memory):
        copied = compiled(m, jnp.asarray(src), jnp.asarray(dst))
        np.testing.assert_array_equal(copied, want)


def test_folios_in_order_are_copied_alike_without_tricks() -> None:
    m = machine()
    orders, room = m.geometry.orders, 8
    assert orders == (0, 4, 9)
    memory, want = np.asarray(m.memory), np.array(m.memory)
    pairs = np.zeros((len(orders) * room, 2), np.int32)
    counts = [5, 8, 3]
    for k, (order, count) in enumerate(zip(orders, counts, strict=True)):
        start, size = m.geometry.pool_start(k), 1 << order
        blocks = np.random.default_rng(k).permutation(m.geometry.pool_blocks[k])
        heads = start + blocks[:count] * size
        # A node has as few large folios as fit: these go to the other one.
        heads = np.stack([heads, heads + m.geometry.frames_per_node], axis=1)
        pairs[k * room : k * room + count] = heads
        for src, dst in heads:
            want[dst : dst + size] = want[src : src + size]
    assert (want != memory).any()
    waiting = copypage.Copies(jnp.asarray(pairs), jnp.asarray(counts, jnp.int32))
    for compiled in twins(lambda x, c: copypage.copy_folios(orders, x, c)):
        np.testing.assert_array_equal(compiled(m.memory, waiting), want)


def test_memories_side_by_side_are_copied_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 2**32, (2, 16, 1024), dtype=np.uint32)
    frames = np.stack([rng.permutation(16) for _ in range(2)]).astype(np.int32)
    src, dst = frames[:, :8], frames[:, 8:]
    args = [jnp.asarray(x) for x in (memory, src, dst)]
    for compiled in twins(jax.vmap(copypage._on_cpu)):
        copies = compiled(*args)
        for n in range(2):
            want = memory[n].copy()
            want[dst[n]] = memory[n][src[n]]
            np.testing.assert_array_equal(copies[n], want)


def test_the_kernel_for_gpus_copies_what_gather_and_scatter_copy() -> None:
    """Run by JAX's interpreter; lanes without a destination copy nothing."""
    rng = np.random.default_rng(1)
    for frames, lanes_ in ((2, 1), (64, 20), (700, 333)):
        memory = rng.integers(0, 2**32, (frames, 1024), dtype=np.uint32)
        order = rng.permutation(frames).astype(np.int32)
        src, dst = order[:lanes_], order[lanes_ : 2 * lanes_].copy()
        dst[rng.random(lanes_) < 0.3] = NOWHERE
        src[(rng.random(lanes_) < 0.3) & (dst == NOWHERE)] = NOWHERE
        args = [jnp.asarray(x) for x in (memory, src, dst)]
        found = gpucopy.copy_pages(*args, interpret=True)
        want = copypage._by_rows(*args, step=copypage.GATHERED)
        np.testing.assert_array_equal(found, want)
        assert (dst != NOWHERE).sum() == (np.asarray(found) != memory).any(axis=1).sum()


# Marks


def text_of(on: bool, platform: str) -> str:
    """The program of a function that may be marked."""

    def double(x: Any) -> Any:
        with xla.tricks(on):
            return xla.whole(lambda y: y + y, x)

    shape = jax.ShapeDtypeStruct((8,), jnp.int32)
    exported = export.export(jax.jit(double), platforms=(platform,))
    return exported(shape).mlir_module()


def test_only_our_own_programs_are_marked_and_only_for_cpus() -> None:
    for on in (True, False):
        marked = {p for p in ("cpu", "cuda", "tpu") if "small_call" in text_of(on, p)}
        assert marked == ({"cpu"} if on and xla.known() else set())
    assert not xla.marks()
    # What was traced with marks is not used again without, nor the other way round.
    program, mask = xla.Program(lambda mask: lanes.rank(mask)), jnp.ones(64, bool)
    for on in (True, False, True):
        text = program.jitted(on).lower(mask).as_text()
        assert ("small_call" in text) == (on and xla.known())
    with xla.tricks(True):
        assert xla.marks() == xla.known()
        with xla.tricks(False):
            assert not xla.marks()
        assert xla.marks() == xla.known()
    assert not xla.marks()


def test_an_unknown_jaxlib_gets_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xla, "TESTED", {})
    assert not xla.known()
    assert "small_call" not in text_of(True, "cpu")
    x = jnp.arange(8)
    on, off = twins(lambda y: xla.whole(lambda z: z + z, y))
    assert (on(x) == off(x)).all()


def test_loops_are_whole_in_both_ways() -> None:
    def sums(x: Any) -> Any:
        def add(i: Any, total: Any) -> Any:
            return total + jax.lax.dynamic_slice(x, (i,), (1,))

        return jax.lax.fori_loop(0, 1000, add, jnp.zeros(1, jnp.int32))

    x = jnp.arange(1000, dtype=jnp.int32)
    for compiled in twins(lambda x: xla.whole(lambda y: sums(y), x)):
        assert int(compiled(x)[0]) == 999 * 500
