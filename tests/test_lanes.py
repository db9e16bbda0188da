"""Lanes: sums, ranks and batch numbers, and copies of pages, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax import export
from jaxmig import frame, xla
from jaxmig.machine import NOWHERE
from jaxmig.phases import copypage, lanes
from jaxmig.policy import plan
from jaxmig.rules import rules

SIZES = [1, 127, 128, 129, 1000, 4096]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_ranks_and_sums(size: int, share: float) -> None:
    mask = np.random.default_rng(size).random(size) < share
    assert (lanes.running(jnp.asarray(mask)) == np.cumsum(mask)).all()
    rank = np.asarray(lanes.rank(jnp.asarray(mask)))
    assert (rank[mask] == np.arange(mask.sum())).all()
    numbers = np.arange(size, dtype=np.int32)
    found = lanes.totals(jnp.asarray(mask), jnp.asarray(numbers))
    assert [int(n) for n in found] == [mask.sum(), numbers.sum()]
    assert [bool(b) for b in lanes.some(jnp.asarray(mask))] == [mask.any()]


@given(
    start=st.integers(0, 2**31 - 1 - 16384),
    limit=st.integers(1, 2**31 - 1) | st.integers(1, 20000),
)
@settings(max_examples=100, deadline=None)
def test_batch_numbers_are_quotients(start: int, limit: int) -> None:
    place = start % limit + np.arange(16384)
    found = jax.jit(lanes.numbers)(jnp.asarray(place, jnp.int32), jnp.int32(limit))
    assert (np.asarray(found) == place // limit).all()


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
    np.testing.assert_array_equal(jax.jit(copypage._on_cpu)(*args), want)


def test_memories_side_by_side_are_copied_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    memory = rng.integers(0, 2**32, (2, 16, 1024), dtype=np.uint32)
    frames = np.stack([rng.permutation(16) for _ in range(2)]).astype(np.int32)
    src, dst = frames[:, :8], frames[:, 8:]
    copies = jax.jit(jax.vmap(copypage._on_cpu))(*map(jnp.asarray, (memory, src, dst)))
    for n in range(2):
        want = memory[n].copy()
        want[dst[n]] = memory[n][src[n]]
        np.testing.assert_array_equal(copies[n], want)


def test_whole_functions_are_marked_for_cpus_alone() -> None:
    double = jax.jit(lambda x: xla.whole(lambda y: y + y, x))
    x = jnp.arange(8)
    assert (double(x) == 2 * x).all()
    texts = {
        p: export.export(double, platforms=(p,))(x).mlir_module()
        for p in ("cpu", "cuda", "tpu")
    }
    assert {p for p, text in texts.items() if "small_call" in text} == {"cpu"}


@pytest.mark.parametrize("kernel", ["6.3", "6.6", "6.12", "6.18"])
@pytest.mark.parametrize("mode", ["async", "sync"])
@pytest.mark.parametrize("kind", [frame.ANON, frame.FILE | frame.PRIVATE, frame.KSM])
def test_a_folio_in_nobodys_way_moves_at_the_first_try(kernel, mode, kind) -> None:
    flags = kind | frame.LRU
    maps = jnp.asarray([0, 1, 5], jnp.int32)
    refs = maps + frame.cache_refs(flags)
    row = jnp.stack([refs, maps, maps * 0 + flags, maps], axis=1)
    word, *states = plan._fate(rules(kernel, mode), row, row * 0, maps)
    some = np.asarray(refs) > 0
    assert (np.asarray(plan._in_nobodys_way(row, maps)) == some).all()
    assert (np.asarray(word)[some] == plan.PLAIN).all()
    assert not np.asarray(states).any()
