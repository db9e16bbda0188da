"""The lanes and the migrator agree with the event-by-event simulator."""

import numpy as np
import pytest
from exact_timeline import Exact, Thread
from jaxmig.programs.workloads.streams import Draw, Streams, fixed
from jaxmig.time import machines
from jaxmig.time.access import MM_SHIFT, Shape
from jaxmig.time.timeline import (
    Run,
    TimetableError,
    alike,
    costs_of,
    play,
    timetable,
)

BLOCK = 256
CPUS = 3


class Counted(Streams):
    """Counts the stores to each folio, with which contents can be compared."""

    def __init__(self, draws: list[Draw], block: int, folios: int) -> None:
        super().__init__(draws, block, len(draws))
        self.stores = np.zeros(folios, np.int64)

    def next(self, used: np.ndarray) -> np.ndarray:
        self.book(used)
        return super().next(used)

    def book(self, used: np.ndarray) -> None:
        for i, n in enumerate(used.tolist()):
            ops = self._ops[i, :n]
            np.add.at(self.stores, ops[(ops[:, 1] & 1) == 1, 0], 1)


class Mixed:
    """A source whose accesses name their address space too."""

    block = BLOCK

    def __init__(self, ops: np.ndarray) -> None:
        self.ops, self.at = ops, np.zeros(len(ops), np.int64)

    def next(self, used: np.ndarray) -> np.ndarray:
        self.at += used
        n = self.ops.shape[1]
        index = (self.at[:, None] + np.arange(BLOCK)) % n
        rows = np.take_along_axis(self.ops, index[:, :, None], 1)
        word = (rows[..., 3] << MM_SHIFT) | (rows[..., 1] << 1) | rows[..., 2]
        return np.stack([rows[..., 0], word], 2).astype(np.int32)


def programs(seed: int, folios: int, mms: int) -> np.ndarray:
    """Random accesses, some pages often: [cpus, n, (folio, word, store, mm)]."""
    rng = np.random.default_rng(seed)
    n = 2000
    hot = rng.integers(0, max(folios // 4, 1), (CPUS, n))
    folio = np.where(
        rng.random((CPUS, n)) < 0.5, hot, rng.integers(0, folios, (CPUS, n))
    )
    word, store = rng.integers(0, 4, (CPUS, n)), rng.integers(0, 2, (CPUS, n))
    # Address space m has every mms-th folio, so that an entry's number tells its space.
    mm = np.zeros_like(folio)
    if mms > 1:
        mm = np.where(rng.random((CPUS, n)) < 0.1, rng.integers(0, mms, (CPUS, n)), 0)
        folio = np.where(mm > 0, folios - mm, folio % (folios - mms))
    return np.stack([folio, word, store, mm], 2)


def contents(run: Run) -> list[set]:
    """Living translations of each CPU: (folio, frame, dirty)."""
    s, a = run.shape, run.world.access
    tlb = (
        np.asarray(x).reshape(s.cpus, -1) for x in (a.tlb.tag, a.tlb.age, a.tlb.load)
    )
    rows = np.stack(list(tlb), 1)
    flushed = np.asarray(a.cpu.flushed)
    found = []
    for cpu in range(s.cpus):
        tag, age, load = rows[cpu]
        alive = (tag >= 0) & (age > flushed[cpu, (load >> 1) & 7])
        cells = zip(tag[alive], load[alive] >> 4, load[alive] & 1, strict=True)
        found.append({(int(a), int(b), bool(c)) for a, b, c in cells})
    return found


def both(shape: Shape, table, ops: np.ndarray, trips: int, profile, touched=True):
    """The same run twice; asserts that everything is equal."""
    costs = costs_of(profile, 20)
    nodes = [cpu % 2 for cpu in range(CPUS)]
    run = Run(
        shape, costs, Mixed(ops), table, trips=trips, nodes=nodes, touched=touched
    )
    totals = run.go()
    threads = [
        Thread(i, nodes[i], [tuple(r) for r in ops[i].tolist()]) for i in range(CPUS)
    ]
    exact = Exact(shape, costs, table, threads, trips, touched)
    exact.migrate()
    names = ("hits", "walks", "faults", "ipis", "ipi_ns")
    for name in names:
        assert getattr(totals, name).tolist() == [getattr(t, name) for t in threads], (
            name
        )
    assert totals.stalls.tolist() == [len(t.stalls) for t in threads]
    assert totals.stall_ns.tolist() == [sum(t.stalls) for t in threads]
    assert totals.stall_max.tolist() == [max(t.stalls, default=0) for t in threads]
    assert (totals.flushes, totals.silent) == (exact.flushes, exact.silent)
    assert totals.trips_ns == exact.ends[-1]
    assert totals.wrong == 0 == sum(t.wrong for t in threads)
    zero = run._zero_ns()
    clocks = (np.asarray(run.world.access.cpu.clock) + zero).tolist()
    assert clocks == [t.time for t in threads]
    got = contents(run)
    for t, mine in zip(threads, got, strict=True):
        theirs = {(e[0], e[1], e[2]) for row in t.sets.values() for e in row}
        assert mine == theirs
    pte = np.asarray(run.world.access.pte)[: shape.folios]
    want = [exact.pte.get(q) for q in range(shape.folios)]
    assert pte.tolist() == [
        -1 if e is None else e[0] * 4 + e[2] * 2 + e[1] for e in want
    ]
    if shape.words:
        words = np.asarray(run.world.access.memory.words)[pte[pte >= 0] >> 2]
        kept = [exact.memory[e[0]] for e in want if e is not None]
        assert words.tolist() == kept
    return totals


SMALL = {
    "sets": 4,
    "ways": 2,
    "huge_sets": 2,
    "huge_ways": 2,
    "words": 4,
    "strict": True,
}


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
@pytest.mark.parametrize("machine", ["xeon-2s", "arm64-2n128c", "zen3-2s-invlpgb"])
@pytest.mark.parametrize("seed", range(3))
def test_random_programs(kernel: str, machine: str, seed: int, monkeypatch) -> None:
    """Base pages there and back: hits, stalls, interrupts, TLBs, memory are equal.

    Of pages written before, the order of lanes between two acts of the migrator changes
    nothing; so groups of accesses must agree with one at a time, too.
    """
    # The program of long runs; elsewhere here it is that of short ones.
    monkeypatch.setattr(play, "SHORT", 0)
    p = machines.load(machine)
    shape = Shape(CPUS, 24, **SMALL | {"strict": seed == 0})
    how = {"batch": [5, 8, 0][seed], "pause": 700 * seed}
    table = timetable(p, 24, kernel=kernel, **how)
    # Room for a larger timetable changes nothing, and all of them share a program.
    larger = [timetable(p, 48, kernel=k, batch=5) for k in ("6.2", "6.3")]
    table, *_ = alike([table, *larger])
    totals = both(shape, table, programs(seed, 24, 1), 2, p)
    assert totals.stalls.sum() > 0


@pytest.mark.parametrize("kernel", ["6.2", "v4", "6.6"])
@pytest.mark.parametrize("seed", range(2))
def test_two_sizes(kernel: str, seed: int) -> None:
    """2 MiB folios flush at once, also where base pages of their batch wait.

    Threads that copy are done with a whole batch before its first folio is mapped.
    """
    p = machines.load("xeon-2s").replace({"cost.copy_2m": 5000})
    shape = Shape(CPUS, 20, huge=3, **SMALL | {"strict": seed == 0})
    how = [{"batch": 512}, {"batch": 1030, "copy": "threads:4"}][seed]
    table = timetable(p, 20, 3, kernel=kernel, **how)
    both(shape, table, programs(seed, 20, 1), 2, p)


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
@pytest.mark.parametrize("mms", [2, 9])
def test_address_spaces(kernel: str, mms: int) -> None:
    """ASIDs survive switches, run out at six, and catch up when they come back."""
    p = machines.load("xeon-2s")
    shape = Shape(CPUS, 24, mms=mms, **SMALL | {"strict": mms == 9})
    table = timetable(p, 24 - mms, kernel=kernel, batch=6)
    both(shape, table, programs(mms, 24, mms), 2, p)


def test_too_long_a_batch_is_refused() -> None:
    """Times within a batch are int32 ns: one of half a million pages is too long."""
    p = machines.load("xeon-2s")
    with pytest.raises(TimetableError, match="lower --batch"):
        timetable(p, 1 << 19, kernel="6.3", batch=0)
    assert timetable(p, 1 << 18, kernel="6.3", batch=0).batches == 1


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_first_touch(kernel: str) -> None:
    """Pages never touched fault once, and are not moved."""
    p = machines.load("xeon-2s")
    shape = Shape(CPUS, 24, **SMALL)
    table = timetable(p, 24, kernel=kernel, batch=8)
    totals = both(shape, table, programs(5, 24, 1), 1, p, touched=False)
    assert totals.faults.sum() >= 20


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_no_update_is_lost(kernel: str) -> None:
    """Stores from all CPUs while 2^18 pages move: each is found, in no freed frame."""
    p = machines.load("xeon-2s")
    n, cpus = 1 << 18, 8
    shape = Shape(cpus, n, words=1)
    # Few accesses a CPU and much time between them keep the test short.
    costs = costs_of(p, 20_000)

    def program(cpu: int) -> np.ndarray:
        rng = np.random.default_rng(cpu)
        return np.stack(
            [rng.integers(0, n, 4096), np.zeros(4096, int), np.ones(4096, int)], 1
        )

    streams = Counted([fixed(program(i)) for i in range(cpus)], 4096, n)
    run = Run(shape, costs, streams, timetable(p, n, kernel=kernel), trips=1)
    totals = run.go()
    streams.book(run._used)  # of the last block
    a = run.world.access
    frames = np.asarray(a.pte)[:n] >> 2
    assert (frames >= n).all()
    np.testing.assert_array_equal(np.asarray(a.memory.words)[frames, 0], streams.stores)
    assert totals.wrong == 0
    assert streams.stores.sum() == totals.accesses.sum() > 100_000
