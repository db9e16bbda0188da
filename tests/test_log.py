"""The log of a call agrees with its counters and is never in the way."""

import functools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxmig import Builder, Machine, folios_on, migrate_pages
from jaxmig.engine import migrate
from jaxmig.engine.migrate import Result
from jaxmig.linux.rules import rules
from jaxmig.state import log
from jaxmig.state.events import LOGGED

ROOM = 12_345  # a size that no other array has
CPUS = 4


def rich() -> Machine:
    """Several kinds of folios and of trouble, two processes, a lazy CPU."""
    b = Builder(nodes=2, cpus=5, free=[None, 1400])
    one = b.process("one", running=[1, 2], lazy=[3])
    two = b.process("two", running=[0])
    heap = b.mmap(one, 60)
    b.mmap([one, two], 8, kind="shmem")
    b.mmap(two, 12)
    b.mmap(one, 512, order=9)
    b.mmap(two, 512, order=9, kind="hugetlb")
    b.condition(heap, "extra_ref", [3, 9])
    b.condition(heap, "locked", [5], until=3)
    b.condition(heap, "pinned", [7])
    b.condition(heap, "writeback", [11], until="waited")
    b.splits = True
    return b.build(content=False)


@functools.cache
def base() -> tuple[Machine, np.ndarray]:
    b = Builder(nodes=2, cpus=CPUS)
    b.mmap(b.process("app", running=range(1, CPUS)), 100)
    m = b.build(content=False)
    return m, np.asarray(folios_on(m, node=0))


def program(kernel: str, room: int) -> tuple[Any, Any]:
    """The compiled call on the base machine, and its arguments."""
    m, heads = base()
    numbers = (jnp.int32(n) for n in (len(heads), 1, 0))
    args = (m, jnp.asarray(heads), *numbers, migrate.limit_of(32))
    return migrate.executable(rules(kernel), False, *args, log=room), args


def rows_of(result: Result) -> np.ndarray:
    assert result.events.log is not None
    return result.events.log.rows()


def check_counts(rows: np.ndarray, result: Result) -> None:
    """COUNT rows add up to the counters."""
    counts = result.events.counts()
    _, ones, many, amount = rows[rows[:, 0] == log.COUNT].T[:4]
    for i, name in enumerate(LOGGED):
        there = (ones >> i & 1).sum() + ((many >> i & 1) * amount).sum()
        assert there == counts[name], name


def check_entries(rows: np.ndarray) -> None:
    """Every entry that is taken comes back."""
    waiting: set[int] = set()
    for kind, entry, *_ in rows.tolist():
        if kind == log.SET:
            assert entry not in waiting
            waiting.add(entry)
        elif kind == log.REMOVE:
            waiting.remove(entry)
    assert not waiting


def check_flushes(rows: np.ndarray, result: Result) -> None:
    """Requests and interrupted CPUs are those that were counted."""
    flushes = rows[rows[:, 0] == log.FLUSH]
    sent = int((flushes[:, 2] != log.NONE).sum())
    assert sent == result.events.counts()["nr_tlb_remote_flush"]
    ipis = result.events.ipis_per_cpu()
    taken = [0] * len(ipis)
    for _, first, hit, full, one, _ in rows[rows[:, 0] == log.CPUS].tolist():
        assert full & one == 0
        for cpu in log.cpus_of(hit, first):
            taken[cpu] += 1
    assert taken == ipis


def check_scopes(rows: np.ndarray, result: Result) -> None:
    """What begins ends."""
    assert rows[0, :2].tolist() == [log.BEGIN, log.CALL]
    assert rows[-1, :2].tolist() == [log.END, log.CALL]
    begun = rows[rows[:, 0] == log.BEGIN, 1]
    ended = rows[rows[:, 0] == log.END, 1]
    for scope in (log.CALL, log.BATCH, log.HUGETLBS, log.ALONE, log.SPLIT):
        assert (begun == scope).sum() == (ended == scope).sum()
    assert (begun == log.BATCH).sum() == result.events.counts()["batches"]


@pytest.mark.parametrize("kernel", ["6.2", "6.12"])
def test_the_log_of_a_rich_call_is_that_of_its_counters(kernel: str) -> None:
    m = rich()
    heads = folios_on(m, node=0)
    _, result = migrate_pages(m, heads, 1, kernel=kernel, log=ROOM)
    rows = rows_of(result)
    assert int(result.events.log.lost) == 0
    check_counts(rows, result)
    check_entries(rows)
    check_flushes(rows, result)
    check_scopes(rows, result)
    counts = result.events.counts()
    assert counts["pgmigrate_fail"] > 0
    assert counts["pgmigrate_success"] > 500


@pytest.mark.parametrize("kernel", ["6.2", "6.3"])
def test_a_log_changes_nothing_and_is_not_copied(kernel: str) -> None:
    call, args = program(kernel, ROOM)
    m, result = call(*args)
    rows = rows_of(result)
    check_counts(rows, result)
    plain, counted = migrate_pages(*base(), 1, kernel=kernel, batch=32)
    assert counted.events.log is None
    assert counted.events.counts() == result.events.counts()
    assert counted.events.ipis_per_cpu() == result.events.ipis_per_cpu()
    assert (np.asarray(plain.pte) == np.asarray(m.pte)).all()
    assert not re.findall(rf"s32\[{ROOM + 1},6\]\S* copy\(", call.as_text())


def test_a_full_log_counts_what_it_loses() -> None:
    (call, args), (small, _) = program("6.2", ROOM), program("6.2", 50)
    whole, short = call(*args)[1], small(*args)[1]
    all_rows = rows_of(whole)
    assert (rows_of(short) == all_rows[:50]).all()
    assert int(short.events.log.lost) == len(all_rows) - 50
    assert short.events.counts() == whole.events.counts()


def test_masks_reach_beyond_the_first_word() -> None:
    mask = np.zeros(70, bool)
    mask[[1, 31, 69]] = True
    none = jnp.zeros(70, bool)
    made = log.empty(8).append_cpus(jnp.asarray(mask), jnp.asarray(mask), none)
    rows = made.rows()
    # The middle word has nobody in it and needs no row.
    assert rows[:, 1].tolist() == [0, 64]
    found = [c for r in rows for c in log.cpus_of(r[2], r[1])]
    assert found == [1, 31, 69]
    assert (rows[:, 2] == rows[:, 3]).all()


def test_a_call_that_stops_half_way_keeps_no_log() -> None:
    m, heads = base()
    with pytest.raises(ValueError, match="keeps no log"):
        migrate_pages(m, heads, 1, stop=(0, "copy"), log=ROOM)
    with pytest.raises(ValueError, match="at least one row"):
        log.empty(0)
