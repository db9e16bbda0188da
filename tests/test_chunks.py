"""Lists of any length: where chunks and copy steps end changes nothing."""

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig.migrate import program
from jaxmig.phases.lanes import CHUNK
from jaxmig.rules import rules


@pytest.mark.parametrize("pages", [1, 127, 1000, CHUNK + 1, CHUNK + 3000])
def test_every_page_of_a_list_moves_with_its_contents(pages):
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=[1, 2, 3]), pages)
    before = b.build(seed=1)
    old = np.asarray(before.pte[:pages, 0])
    after, result = jaxmig.migrate_pages(before, old, 1, kernel="6.3")
    new = np.asarray(after.pte[:pages, 0])
    assert result.ret == 0
    assert result.vmstat["pgmigrate_success"] == pages
    assert np.unique(new).size == pages
    assert (new >= before.geometry.frames_per_node).all()
    np.testing.assert_array_equal(after.memory[new], before.memory[old])


@pytest.mark.parametrize("pages", [1, 2, 3, 5])
def test_frame_0_is_a_destination_like_any_other(pages):
    # Lanes behind the end of a list belong to no page, and must not stand for frame 0.
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=[1]), pages, node=1)
    state = b.build(seed=1)
    top = int(state.top[0, 0])
    first = state.free.at[top - 1 - np.arange(top)].set(np.arange(top))
    state = jaxmig.migrate.replace(state, free=first)
    old = np.asarray(state.pte[:pages, 0])
    padded = np.resize(old, 8)
    after, _ = jaxmig.migrate_pages(state, padded, 0, kernel="6.3", size=pages)
    new = np.asarray(after.pte[:pages, 0])
    assert 0 in new
    np.testing.assert_array_equal(after.memory[new], state.memory[old])


@pytest.mark.parametrize("home", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_wide_chunk_gives_every_page_the_same_frame(home):
    # Pages of the target node take frames that others of the list have given back.
    b = jaxmig.Builder(nodes=2, cpus=4)
    app = b.process("app", running=[1, 2, 3])
    b.mmap(app, CHUNK + 3000)
    if home:
        b.mmap(app, 2000, node=1)
    state = b.build(content=False, seed=1)
    size = CHUNK + 3000 + 2000 * home
    old = np.random.default_rng(2).permutation(np.asarray(state.pte[:size, 0]))
    numbers = (jnp.int32(n) for n in (size, 1, 0))
    args = (state, jnp.asarray(old), *numbers, jnp.int32(512))
    narrow, wide = (
        program(rules("6.3"), False, True, chunk)(*args) for chunk in (None, 1 << 16)
    )
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(a, b)
