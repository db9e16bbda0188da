"""Lists of any length: where chunks and copy steps end changes nothing."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from jaxmig.engine.migrate import Result, listed, program
from jaxmig.linux.rules import rules, word
from jaxmig.state import frame, xla
from jaxmig.state.lanes import CHUNK
from jaxmig.state.machine import Machine

# Around the limits of batches, of windows and of the classes that lists are padded to.
LENGTHS = [1, 511, 512, 513, *range(65535, 65542), 99991, 131071]
MOST = 1 << 17
LIMIT = 512


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
    state = jaxmig.engine.migrate.replace(state, free=first)
    old = np.asarray(state.pte[:pages, 0])
    padded = np.resize(old, 8)
    after, _ = jaxmig.migrate_pages(state, padded, 0, kernel="6.3", size=pages)
    new = np.asarray(after.pte[:pages, 0])
    assert 0 in new
    np.testing.assert_array_equal(after.memory[new], state.memory[old])


@pytest.mark.parametrize(
    ("home", "order"), [pytest.param(0, 0, marks=pytest.mark.slow), (1, 0), (1, 9)]
)
def test_a_wide_chunk_gives_every_page_the_same_frame(home, order, monkeypatch):
    # Pages of the target node take frames that others of the list have given back.
    b = jaxmig.Builder(nodes=2, cpus=4)
    app = b.process("app", running=[1, 2, 3])
    b.mmap(app, CHUNK + 3000)
    if home:
        b.mmap(app, 2000, node=1)
    if order:
        b.mmap(app, 4 << order, order=order)
        b.mmap(app, 2 << order, order=order, node=1)
    state = b.build(content=False, seed=1)
    both = [jaxmig.folios_on(state, node) for node in range(1 + home)]
    old = np.random.default_rng(2).permutation(np.concatenate(both))
    size = old.size
    assert size == CHUNK + 3000 + 2000 * home + 6 * (order > 0)
    numbers = (jnp.int32(n) for n in (size, 1, 0))
    args = (state, jnp.asarray(old), *numbers, jnp.int32(512))
    r = rules("6.3")
    found = []
    for chunk in (None, 1 << 16):
        # Devices with wide windows have no loop for what fits a narrow one.
        monkeypatch.setattr(xla, "asks_host", lambda: chunk is not None)  # noqa: B023
        found.append(program(r.defers, False, True, chunk)(*args, word(r)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_program_for_few_pages_is_shorter_and_does_the_same():
    """Where lanes are many only because the machine is large."""
    b = jaxmig.Builder(nodes=2, cpus=4)
    app = b.process("app", running=[1, 2, 3])
    for order, pages in ((0, 700), (9, 1024), (4, 320), (9, 512), (0, 300)):
        b.mmap(app, pages, order=order)
    b.mmap(app, CHUNK, node=1)
    state = b.build(content=False, seed=1)
    heads, size = listed(jaxmig.folios_on(state, 0))
    numbers = (jnp.int32(n) for n in (size, 1, 0, LIMIT))
    r = rules("6.3")
    args = (state, heads, *numbers, word(r))
    lowered = []
    for brief in (False, True):
        call = program.__wrapped__(r.defers, False, True).function
        with xla.tricks(True, short=brief):
            jitted = jax.jit(call, compiler_options=xla.quick_options())
            lowered.append(jitted.lower(*args))
    long, short = (sum(1 for _ in x.as_text().splitlines()) for x in lowered)
    assert short < 0.75 * long
    found = [x.compile()(*args) for x in lowered]
    assert found[0][1].vmstat["pgmigrate_success"] == 2856
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)


@dataclasses.dataclass(frozen=True)
class Stock:
    """A machine from whose folios lists of any length are made."""

    m: Machine
    base: np.ndarray  # heads, by order
    mid: np.ndarray
    huge: np.ndarray

    def list_of(self, pages: int, huge: int, mid: int) -> np.ndarray:
        """So many base pages, in whose middle a THP stands, and a folio at the end."""
        middle = pages // 2
        parts = (
            self.base[:middle],
            self.huge[:huge],
            self.base[middle:pages],
            self.mid[:mid],
        )
        return np.concatenate(parts)


@functools.cache
def stock(large: bool) -> Stock:
    """Metadata only: contents would take a gigabyte."""
    b = jaxmig.Builder(nodes=2, cpus=3, tlb=(16, 2), huge_tlb=(16, 2))
    app = b.process("app", running=[1, 2])
    b.mmap(app, MOST)
    if large:
        b.mmap(app, 16, order=4)
        b.mmap(app, 512, order=9)
    m = b.build(content=False)
    heads = jaxmig.folios_on(m, 0)
    order = np.asarray(m.frame)[heads, frame.FLAGS] & frame.ORDER
    return Stock(m, *(heads[order == n] for n in (0, 4, 9)))


def requests(orders: Sequence[int], kernel: str) -> int:
    """Flush requests of a list: a PTE each, or one a batch that has any; a PMD each."""
    leaves = sum(order == 9 for order in orders)
    if kernel == "6.2":
        return leaves + sum(1 << order for order in orders if order != 9)
    rounds = held = 0
    pending = False
    for order in orders:
        held += 1 << order
        pending |= order != 9
        if held >= LIMIT:
            rounds, held, pending = rounds + pending, 0, False
    return leaves + rounds + pending


def check(result: Result, m: Machine, orders: Sequence[int], kernel: str) -> None:
    """All pages of a list have moved, each to a frame of its own."""
    pages = sum(1 << order for order in orders)
    assert result.ret == 0
    assert int(result.in_order) in (0, len(orders))
    assert result.vmstat["pgmigrate_success"] == pages
    assert result.vmstat["thp_migration_success"] == sum(o == 9 for o in orders)
    asked = requests(orders, kernel)
    assert result.vmstat["nr_tlb_remote_flush"] == asked
    assert result.vmstat["nr_tlb_remote_flush_received"] == 2 * asked
    # What has moved is in use on node 1, and free on node 0.
    used = (np.asarray(m.frame)[:, frame.FLAGS] & frame.KIND) != 0
    assert used[m.geometry.frames_per_node :].sum() == pages


@pytest.mark.parametrize("pages", LENGTHS)
@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
@pytest.mark.parametrize(
    ("large", "huge", "mid"),
    [
        pytest.param(False, 0, 0, id="base pages"),
        pytest.param(True, 0, 0, id="base pages where there are others"),
        pytest.param(True, 1, 0, id="and a THP"),
        pytest.param(True, 1, 1, id="a THP and 64 KiB"),
    ],
)
def test_lists_of_any_length_are_counted_right(pages, kernel, large, huge, mid) -> None:
    s = stock(large)
    heads = s.list_of(pages, huge, mid)
    orders = [0] * (pages // 2) + [9] * huge + [0] * (pages - pages // 2) + [4] * mid
    m, result = jaxmig.migrate_pages(s.m, heads, 1, kernel=kernel, batch=LIMIT)
    check(result, m, orders, kernel)


@pytest.mark.parametrize("kernel", ["6.3", pytest.param("6.2", marks=pytest.mark.slow)])
def test_lists_inside_a_program_of_a_user_are_counted_right(kernel: str) -> None:
    # No tricks there: sums, batches and outcomes take their other forms.
    s, pages = stock(True), 65536
    heads = s.list_of(pages, 1, 0)
    orders = [0] * (pages // 2) + [9] + [0] * (pages // 2)

    @functools.partial(jax.jit, compiler_options=xla.quick_options())
    def mine(m: Machine, heads: jax.Array) -> tuple[Machine, Result]:
        return jaxmig.migrate_pages(m, heads, 1, kernel=kernel, batch=LIMIT)

    m, result = mine(s.m, jnp.asarray(heads))
    check(result, m, orders, kernel)
