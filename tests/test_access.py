"""One CPU's TLB against a dictionary; sizes, LRU, dirty bits, first touch, blocks."""

import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxmig.programs.workloads.streams import Streams, fixed
from jaxmig.time import machines
from jaxmig.time.access import Shape, Stream
from jaxmig.time.access.lookup import bin_of
from jaxmig.time.timeline import Run, costs_of, timetable
from jaxmig.time.timeline.advance import compiled

PROFILE = machines.load("xeon-2s")


def lru(ops: np.ndarray, sets: int, ways: int, dirty_pages: bool) -> tuple[int, int]:
    """Hits and walks of one CPU: an OrderedDict a set."""
    tlb: dict[int, OrderedDict] = {}
    dirty = set() if not dirty_pages else None
    hits = walks = 0
    for page, _, store in ops.tolist():
        row = tlb.setdefault(page % sets, OrderedDict())
        clean = page in row and not row[page] and store
        hits, walks = (
            (hits + 1, walks) if page in row and not clean else (hits, walks + 1)
        )
        known = dirty is None or page in dirty
        flag = bool(store) or row.get(page, known)
        if store and dirty is not None:
            dirty.add(page)
        row[page] = flag
        row.move_to_end(page)
        if len(row) > ways:
            row.popitem(last=False)
    return hits, walks


def go(ops: list[np.ndarray], shape: Shape, n: int, block: int, touched: bool = True):
    """`n` accesses of each CPU without a migration."""
    costs = costs_of(PROFILE, 20)
    streams = Streams([fixed(o) for o in ops], block, shape.cpus)
    table = timetable(PROFILE, shape.folios, shape.huge)
    run = Run(shape, costs, streams, table, touched=touched)
    return run, run.go(accesses=n)


@pytest.mark.parametrize("block", [64, 1000, 4096])
@pytest.mark.parametrize(("sets", "ways"), [(1, 16), (4, 3), (128, 12)])
def test_lru(block: int, sets: int, ways: int) -> None:
    """Hits and walks equal, whatever the block; time is their sum."""
    rng = np.random.default_rng(7)
    n = 3000
    ops = [
        np.stack(
            [rng.zipf(1.3, n) % 300, rng.integers(0, 9, n), rng.integers(0, 2, n)], 1
        )
        for _ in range(2)
    ]
    run, t = go(ops, Shape(2, 300, sets=sets, ways=ways, words=1), n, block)
    for cpu in range(2):
        assert (t.hits[cpu], t.walks[cpu]) == lru(ops[cpu], sets, ways, True)
        spent = n * (20 + 1 + 90) + t.walks[cpu] * 30
        assert run.ended_ns[cpu] == spent
    stores = np.bincount(np.concatenate(ops)[:, 0], np.concatenate(ops)[:, 2], 300)
    words = np.asarray(run.world.access.memory.words)[:300, 0]
    assert words.tolist() == stores.astype(int).tolist()
    assert t.wrong == 0


def test_clean_entries_walk_once() -> None:
    """A store through an entry that a load filled sets the dirty bit by a walk."""
    ops = np.asarray([[5, 0, 0], [5, 0, 1], [5, 0, 1], [5, 0, 0]])
    run, t = go([ops], Shape(1, 8), 4, 16, touched=False)
    assert (t.faults[0], t.walks[0], t.hits[0]) == (1, 2, 2)
    assert int(run.world.access.pte[5]) == 5 << 2 | 3
    assert run.ended_ns[0] == 4 * 111 + 2 * 30 + (1 + 30 + 1000)


def test_two_sizes_do_not_meet() -> None:
    """2 MiB entries have sets of their own, with fewer ways."""
    ops = np.asarray([[q, 0, 0] for q in (0, 1, 2, 0, 1, 2, 3, 4, 3, 4)])
    shape = Shape(1, 9, huge=3, sets=2, ways=2, huge_sets=1, huge_ways=2)
    _, t = go([ops], shape, 10, 16)
    # Three huge folios in two ways always miss; 3 and 4 lie in two sets and then hit.
    assert (t.hits[0], t.walks[0]) == (2, 8)


def test_latency_bins() -> None:
    """Bins as in pmbench's histogram."""
    assert np.asarray(
        bin_of(np.asarray([0, 255, 256, 271, 272, 511, 512]))
    ).tolist() == [*(0, 0, 1, 1, 2, 16, 17)]


def test_remote_memory_costs_more() -> None:
    """A CPU of the other node pays the remote price."""
    ops = np.asarray([[0, 0, 0]])
    costs = costs_of(PROFILE, 20)
    streams = Streams([fixed(ops)] * 2, 64, 2)
    run = Run(Shape(2, 4), costs, streams, timetable(PROFILE, 4), nodes=[0, 1])
    run.go(accesses=100)
    assert run.ended_ns[1] - run.ended_ns[0] == 100 * 50


def test_a_longer_run_compiles_and_holds_nothing_more() -> None:
    """Accesses come in blocks: 20 times as many are more blocks of one program."""
    n, block = 512, 256
    ops = np.stack([np.arange(n) % 300, np.zeros(n, int), np.arange(n) % 2], 1)
    run, _ = go([ops] * 2, Shape(2, 300, sets=4, ways=3, words=1), n, block)
    program = compiled(run.shape, short=True)
    size, programs = held(run), program._cache_size()
    run.again(0)
    totals = run.go(accesses=20 * n)
    assert totals.accesses.tolist() == [20 * n] * 2
    assert totals.wrong == 0
    assert program._cache_size() == programs
    assert held(run) == size


def held(run: Run) -> int:
    """Bytes of a run's state and of its stream."""
    return sum(x.nbytes for x in jax.tree.leaves(run.world)) + run._ops.nbytes


def test_a_step_copies_no_array_that_grows() -> None:
    """A copy of page table, TLB or memory at each trip would cost more than the trip."""
    s = Shape(64, 4096, words=1)
    ops = np.zeros((1, 3), np.int64)
    streams = Streams([fixed(ops)] * 64, 64, 64)
    run = Run(s, costs_of(PROFILE, 20), streams, timetable(PROFILE, s.folios))
    stream = Stream(jnp.zeros((64, 64, 2), jnp.int32))
    numbers = (jnp.int32(0), jnp.int32(0), jnp.asarray(True))
    args = (run.costs, run.plan, run.world, stream, *numbers)
    # LLVM need not optimize what does not run.
    level = {"xla_backend_optimization_level": 0}
    text = compiled(s).lower(*args).compile(compiler_options=level).as_text()
    a = run.world.access
    large = {"pte": a.pte, "words": a.memory.words, "owner": a.memory.owner}
    # Tags are not here: an invalidation of a whole batch by hardware reads them all.
    large |= {"age": a.tlb.age, "load": a.tlb.load}
    for name, x in large.items():
        shape = ",".join(map(str, x.shape))
        kind = {"int32": "s32", "uint32": "u32"}[str(x.dtype)]
        found = re.findall(rf" = {kind}\[{shape}\]\S* copy\(", text)
        # Ages have the shape of tags, whose one copy this may be.
        assert len(found) <= (1 if name in ("age", "load") else 0), name
