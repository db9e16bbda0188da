"""Wrong arguments of the Python API: refused with value and range, wherever given."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
import pytest
from invariants import VIOLATIONS
from jaxmig.calls import syscalls
from jaxmig.calls.callers import call
from jaxmig.calls.syscalls import Area, Space
from jaxmig.engine import shard
from jaxmig.state import frame, xla
from jaxmig.tools import sweep


def machine(order: int = 0) -> jaxmig.Machine:
    b = jaxmig.Builder(nodes=2, cpus=4)
    b.mmap(b.process("app", running=[1, 2]), pages=64, order=order)
    return b.build(content=False)


STATE = machine()
LARGE = machine(order=2)
FOLIOS = jaxmig.folios_on(STATE, 0)
LAST = STATE.geometry.frames - 1
RANGE = f"must be 0 to {LAST}"

FOLIO_LISTS = {
    "twice": (np.repeat(FOLIOS, 2), r"folios\[1\] is frame 0, which is listed before"),
    "twice apart": ([5, 7, 5], r"folios\[2\] is frame 5, which is listed before"),
    "free": ([3, 64], r"folios\[1\] is frame 64, which is free"),
    "outside": ([10**6], rf"folios\[0\] is frame 1000000: {RANGE}"),
    "one outside": ([LAST + 1], rf"frame {LAST + 1}: {RANGE}"),
    "negative": ([1, -1], rf"folios\[1\] is frame -1: {RANGE}"),
    "int64": (np.array([2**32], np.int64), rf"frame 4294967296: {RANGE}"),
    "uint64": (np.array([2**63], np.uint64), rf"frame 9223372036854775808: {RANGE}"),
    "huge": ([0, 2**70], r"folios\[1\] is 1180591620717411303424: no whole number"),
    "floats": ([0.5, 1.7], r"folios\[0\] is .*0.5.*: no whole number within"),
    "whole floats": (np.ones(1), r"folios\[0\] is .*1.0.*: no whole number within"),
    "booleans": ([True], r"folios\[0\] is .*True.*: no whole number within"),
    "text": ("abc", "folios has 0 dimensions: give a list of frames"),
    "words": (["a"], r"folios\[0\] is .*'a'.*: no whole number"),
    "nothing": (None, "folios has 0 dimensions"),
    "one number": (3, "folios has 0 dimensions"),
    "two dimensions": ([[1, 2]], "folios has 2 dimensions"),
    "jax": (jnp.asarray([1, 5000]), rf"folios\[1\] is frame 5000: {RANGE}"),
}
NUMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "node jax": (
        {"node": jnp.int32(7)},
        "node 7: the machine has 2 nodes; must be 0 to 1",
    ),
    "node array": (
        {"node": np.array(7)},
        "node 7: the machine has 2 nodes; must be 0 to 1",
    ),
    "node 1.9": ({"node": 1.9}, "node is float 1.9: give a whole number"),
    "node -1": ({"node": -1}, "node -1: the machine has 2 nodes; must be 0 to 1"),
    "node bool": ({"node": True}, "node is bool True"),
    "node text": ({"node": "1"}, "node is str '1'"),
    "node list": ({"node": [1]}, r"node is list \[1\]"),
    "node vector": ({"node": jnp.asarray([1])}, "node is .*give a whole number"),
    "node nan": ({"node": np.float32("nan")}, "node is float32 .*nan"),
    "node None": ({"node": None}, "node is NoneType None"),
    "batch -1": ({"batch": -1}, "batch -1: must be 0 to 2147483647"),
    "batch 2.5": ({"batch": 2.5}, "batch is float 2.5"),
    "batch 2^31": ({"batch": 2**31}, "batch 2147483648: must be 0"),
    "cpu 99": ({"cpu": 99}, "cpu 99: the machine has 4 CPUs; must be 0 to 3"),
    "cpu -1": ({"cpu": np.int8(-1)}, "cpu -1: the machine has 4 CPUs; must be 0 to 3"),
    "size long": ({"size": 1000}, "size 1000: must be 0 to 64"),
    "size -1": ({"size": -1}, "size -1: must be 0 to 64"),
}
MORE: dict[str, tuple[dict[str, Any], str]] = {
    "stop -1": ({"stop": (-1, "flush")}, "stop: batch -1: must be 0 to"),
    "stop 0.5": ({"stop": (0.5, "flush")}, "stop: batch is float 0.5"),
    "stop at": ({"stop": (0, "sleep")}, "stop: phase 'sleep': one of unmap"),
    "stop short": ({"stop": (0,)}, r"stop \(0,\): give \(batch, phase\)"),
    "stop 3": ({"stop": 3}, r"stop 3: give \(batch, phase\)"),
    "log": ({"log": -1}, "log -1: must be 0 to"),
}


def refused(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", FOLIO_LISTS)
def test_lists_that_name_no_folios_are_refused(name: str) -> None:
    given, words = FOLIO_LISTS[name]
    refused(lambda: jaxmig.migrate_pages(STATE, given, 1), words)
    dealt = shard.deal(STATE, jax.make_mesh((1,), ("pages",)))
    refused(lambda: shard.migrate_pages(dealt, given, 1), words)
    refused(lambda: sweep.count_many(STATE, given, 1), words)
    if "twice" not in name:  # what two areas map is isolated once
        refused(lambda: syscalls.Session(STATE).migrate(given, 1), words)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_are_none_are_refused(name: str) -> None:
    how, words = NUMBERS[name]
    options = {"node": 1} | how
    refused(lambda: jaxmig.migrate_pages(STATE, FOLIOS, **options), words)
    dealt = shard.deal(STATE, jax.make_mesh((1,), ("pages",)))
    refused(lambda: shard.migrate_pages(dealt, FOLIOS, **options), words)
    if "size" not in how:
        refused(lambda: sweep.count_many(STATE, FOLIOS, **options), words)
    if how.keys() & {"cpu", "batch"}:
        refused(lambda: syscalls.Session(STATE, **how), words)


@pytest.mark.parametrize("name", MORE)
def test_other_options_are_refused(name: str) -> None:
    how, words = MORE[name]
    refused(lambda: jaxmig.migrate_pages(STATE, FOLIOS, 1, **how), words)


@pytest.mark.parametrize(
    ("states", "how", "words"),
    [
        (STATE, {"batch": [1, 2.5]}, r"batch\[1\] is float 2.5"),
        (STATE, {"batch": [8, -1]}, r"batch\[1\] -1: must be 0 to"),
        (STATE, {"batch": [[1, 2]]}, r"batch\[0\] is list"),
        (STATE, {"batch": np.ones((1, 2), int)}, "batch is ndarray"),
        (STATE, {"batch": "8"}, "batch is str '8'"),
        (STATE, {"at_once": 0}, "at_once 0: must be 1 to"),
        (STATE, {"at_once": 1.5}, "at_once is float 1.5"),
        ([STATE, 3], {}, "state is int 3: give a Machine"),
        (None, {}, "state is NoneType None: give a Machine"),
        ([STATE, LARGE], {}, "of different shapes|which is"),
    ],
)
def test_counts_of_many_are_asked_for_with_numbers(
    states: Any, how: dict[str, Any], words: str
) -> None:
    refused(lambda: sweep.count_many(states, FOLIOS, 1, **how), words)


def test_what_is_no_machine_is_refused() -> None:
    sharded = shard.deal(STATE, jax.make_mesh((1,), ("pages",)))
    for call_, words in (
        (lambda: jaxmig.migrate_pages(None, FOLIOS, 1), "state is NoneType None"),
        (lambda: jaxmig.migrate_pages(sharded, FOLIOS, 1), "state is Sharded"),
        (lambda: jaxmig.folios_on([], 0), r"state is list \[\]"),
        (lambda: shard.migrate_pages(STATE, FOLIOS, 1), "state is Machine: give what"),
    ):
        refused(call_, words)
    mesh = jax.make_mesh((1,), ("pages",))
    refused(lambda: shard.arrange(STATE, [0.5], 1, mesh), "no whole number")
    refused(lambda: shard.arrange(STATE, FOLIOS, 2, mesh), "node 2: the machine has")


def test_a_folio_is_named_by_its_first_frame() -> None:
    heads = jaxmig.folios_on(LARGE, 0)
    tail = [int(heads[0]), int(heads[1]) + 1]
    words = r"folios\[1\] is frame \d+, which is a tail"
    refused(lambda: jaxmig.migrate_pages(LARGE, tail, 1), words)


def test_a_size_leaves_out_what_is_behind_it() -> None:
    """Padding may be anything that lies in the machine."""
    after, result = jaxmig.migrate_pages(STATE, [3, 4, 4, LAST], 1, size=2)
    assert result.vmstat["pgmigrate_success"] == 2
    assert int(VIOLATIONS(after)) == 0


@pytest.mark.parametrize("one", [np.int64(1), np.uint8(1), np.array(1), jnp.int32(1)])
def test_scalars_of_numpy_and_jax_are_numbers(one: Any) -> None:
    heads = jnp.asarray(FOLIOS[:8])
    after, result = jaxmig.migrate_pages(STATE, heads, one, cpu=one, batch=one)
    assert result.vmstat["pgmigrate_success"] == 8
    assert int(VIOLATIONS(after)) == 0


def test_what_is_traced_ends_and_writes_nothing_outside() -> None:
    """Numbers are held within their range; a list is, too."""

    def moved(folios: Any, node: Any, cpu: Any, batch: Any, size: Any) -> Any:
        how = {"cpu": cpu, "batch": batch, "size": size}
        after, result = jaxmig.migrate_pages(STATE, folios, node, **how)
        return after, result.events

    call_ = jax.jit(moved, compiler_options=xla.quick_options())
    wild = (-(2**31), -1, 7, 2**31 - 1)
    heads = jnp.asarray(FOLIOS)
    for n in wild:
        after, events = call_(heads, n, 0, 512, 64)
        assert jaxmig.pages_by_node(after) in ([64, 0], [0, 64])
        assert int(VIOLATIONS(after)) == 0
        for cpu, batch, size in ((n, 512, 64), (0, n, 64), (0, 512, n)):
            after, events = call_(heads, 1, cpu, batch, size)
            assert events.counts()["pgmigrate_success"] in {min(max(size, 0), 64)}
            assert int(VIOLATIONS(after)) == 0
        call_(jnp.full(64, n, jnp.int32), 1, 0, 512, 64)[1].counts()
    with pytest.raises(ValueError, match="node is float32"):
        call_(heads, 1.5, 0, 512, 64)
    with pytest.raises(ValueError, match="folios is float32"):
        call_(heads * 1.5, 1, 0, 512, 64)


BUILDERS: dict[str, tuple[Callable[[], Any], str]] = {
    "nodes": (lambda: jaxmig.Builder(nodes=0), "nodes 0: must be 1 to 1024"),
    "nodes 2.5": (lambda: jaxmig.Builder(nodes=2.5), "nodes is float 2.5"),
    "cpus": (lambda: jaxmig.Builder(cpus=2**20), "cpus 1048576: must be 1 to"),
    "free": (lambda: jaxmig.Builder(free=[-1]), r"free\[0\] -1: must be 0 to"),
    "free long": (lambda: jaxmig.Builder(free=[1, 1, 1]), "free: its length 3"),
    "tlb": (lambda: jaxmig.Builder(tlb=(0, 1)), "tlb: sets 0: must be 1 to"),
    "tlb one": (lambda: jaxmig.Builder(tlb=(3,)), r"tlb \(3,\): give \(sets, ways\)"),
    "cpu 4": (lambda: jaxmig.Builder().process("a", [4]), "CPU 4: must be 0 to 3"),
    "cpu 1.5": (lambda: jaxmig.Builder().process("a", [1.5]), "CPU is float 1.5"),
    "cpu twice": (
        lambda: jaxmig.Builder().process("a", [1], lazy=[1]),
        "a CPU is named twice",
    ),
    "pages 0": (lambda: mapped(pages=0), "pages 0: must be 1 to"),
    "pages 1.0": (lambda: mapped(pages=1.0), "pages is float 1.0"),
    "pages 3": (lambda: mapped(pages=3, order=1), r"3 pages: not a multiple of 2\^1"),
    "order": (lambda: mapped(pages=8, order=-1), "order -1: must be 0 to 9"),
    "node": (lambda: mapped(pages=8, node=2), "node 2: must be 0 to 1"),
    "kind": (lambda: mapped(pages=8, kind="x"), "kind 'x': one of anon"),
    "folios": (lambda: files(order=2), "base pages without buffers may lack it"),
    "buffers": (lambda: files(private=True), "base pages without buffers may lack it"),
    "busy buffers": (lambda: busy(files()), "not modelled without migrate_folio"),
    "nobody": (lambda: jaxmig.Builder().mmap([], 8), "give at least one"),
    "stranger": (
        lambda: jaxmig.Builder().mmap(jaxmig.Builder().process("b"), 8),
        "none of this machine",
    ),
    "page 8": (lambda: under("locked", [8]), "page 8 of region0: must be 0 to 7"),
    "page -1": (lambda: under("locked", [-1]), "page -1 of region0"),
    "page 0.5": (lambda: under("locked", [0.5]), "pages .*0.5.*: give whole numbers"),
    "state": (lambda: under("tired", [1]), "state 'tired': one of"),
    "until": (lambda: under("locked", [1], "soon"), "until 'soon': one of"),
    "until 0": (lambda: under("locked", [1], 0), "until 0: must be 1 to 255"),
    "until 256": (lambda: under("locked", [1], 256), "until 256: must be 1"),
    "page range": (lambda: under("locked", range(10**12)), "page 999999999999 of"),
    "pages one": (lambda: under("locked", 3), "pages 3: give whole numbers"),
    "pages text": (lambda: under("locked", "12"), "pages '12': give whole numbers"),
    "free number": (lambda: jaxmig.Builder(free=3), "free 3: give a list"),
    "free by node": (lambda: jaxmig.Builder(free={0: 5}), "free {0: 5}: give a list"),
    "tlb None": (lambda: jaxmig.Builder(tlb=None), "tlb None: give"),
    "running 3": (lambda: jaxmig.Builder().process("a", 3), "running is int 3"),
    "running text": (lambda: jaxmig.Builder().process("a", "12"), "running is str"),
    "name": (lambda: jaxmig.Builder().process(5), "name is int 5: give text"),
    "too many": (
        lambda: [b := mapped(pages=1 << 30), b.mmap(b.processes, 1)],
        "pages 1: 1073741824 are mapped already",
    ),
    "seed -1": (lambda: mapped(pages=8).build(seed=-1), "seed -1: must be 0 to"),
    "seed 1.5": (lambda: mapped(pages=8).build(seed=1.5), "seed is float 1.5"),
    "refs": (lambda: under("extra_ref", [1] * 3000), "3000 references to a folio"),
}


def mapped(**options: Any) -> jaxmig.Builder:
    b = jaxmig.Builder()
    b.mmap(b.process("a"), **options)
    return b


def files(**more: Any) -> jaxmig.Builder:
    return mapped(pages=8, kind="file", migrate_folio=False, **more)


def busy(b: jaxmig.Builder) -> None:
    b.condition(b.regions[0], "buffers_locked", [1])


def under(state: str, pages: Any, until: Any = "forever") -> None:
    b = mapped(pages=8)
    b.condition(b.regions[0], state, pages, until)


@pytest.mark.parametrize("name", BUILDERS)
def test_machines_that_cannot_be_are_refused(name: str) -> None:
    make, words = BUILDERS[name]
    refused(make, words)


def test_sessions_and_questions() -> None:
    space = Space([Area(start=0x10000, pages=64, first_pte=0)])
    refused(
        lambda: jaxmig.folios_on(STATE, 2),
        "node 2: the machine has 2 nodes; must be 0 to 1",
    )
    refused(lambda: syscalls.Session(STATE, "5.4"), "kernel '5.4': not modelled")
    refused(lambda: syscalls.Session(STATE, arch="vax"), "arch 'vax'")
    s = syscalls.Session(STATE)
    refused(lambda: call(s, space, frozenset({0}), 1.5), "node is float 1.5")
    refused(lambda: call(s, space, frozenset({0}), 1, caller="me"), "caller 'me'")


PAGE = 0x10000 << 12
NODES = frozenset({0}), frozenset({1})
CALLS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "floats": (
        lambda s, a: syscalls.migrate_pages(s, a, {0.5}, {1}),
        "old.0. is float",
    ),
    "text": (lambda s, a: syscalls.migrate_pages(s, a, "0", "1"), "old is str '0'"),
    "no set": (lambda s, a: syscalls.migrate_pages(s, a, {0}, None), "new is NoneType"),
    "maxnode": (
        lambda s, a: syscalls.migrate_pages(s, a, *NODES, maxnode=2.5),
        "maxnode",
    ),
    "pid": (
        lambda s, a: syscalls.migrate_pages(s, a, *NODES, pid="x"),
        "pid is str 'x'",
    ),
    "cpuset": (
        lambda s, a: syscalls.migrate_pages(s, a, *NODES, cpuset=3),
        "cpuset is int",
    ),
    "a node": (
        lambda s, a: syscalls.move_pages(s, a, [PAGE], 1.5),
        "nodes is float 1.5",
    ),
    "nodes": (
        lambda s, a: syscalls.move_pages(s, a, [PAGE], [1.5]),
        "nodes.0. is float",
    ),
    "few": (
        lambda s, a: syscalls.move_pages(s, a, [PAGE, PAGE], [1]),
        "nodes: 1 for 2",
    ),
    "many": (lambda s, a: syscalls.move_pages(s, a, [PAGE], [1, 1]), "nodes: 2 for 1"),
    "address": (lambda s, a: syscalls.move_pages(s, a, [0.5], 1), "pages.0. is float"),
    "long": (lambda s, a: syscalls.move_pages(s, a, [2**70], 1), "pages.0. 1180591620"),
    "flags": (
        lambda s, a: syscalls.move_pages(s, a, [PAGE], 1, "move"),
        "flags is str",
    ),
    "fault": (
        lambda s, a: syscalls.move_pages(s, a, [PAGE], 1, fault_at=0.5),
        "fault_at",
    ),
    "policy": (
        lambda s, a: syscalls.mbind(s, a, PAGE, 1, "x", {1}),
        "policy 'x': one of",
    ),
    "start": (lambda s, a: syscalls.mbind(s, a, 0.5, 1, "bind", {1}), "start is float"),
    "home": (
        lambda s, a: syscalls.mbind(s, a, PAGE, 1, 4, (), home=9),
        "home 9: must be",
    ),
    "order": (
        lambda s, a: call(s, a, {0}, 1, caller="compaction", order=99),
        "order 99",
    ),
    "old": (lambda s, a: call(s, a, {"a"}, 1), "old.0. is str 'a'"),
    "tier": (
        lambda s, a: call(s, a, {0}, 1, caller="demotion", tier=3),
        "tier is int 3",
    ),
    "listed": (lambda s, a: syscalls.kernel_list(s.view(), a, 0), "nodes is int 0"),
    "batch": (lambda s, a: s.migrate(FOLIOS, 1, batch=2.5), "batch is float 2.5"),
    "more nodes": (
        lambda s, a: syscalls.Session(STATE, nodes=7),
        "nodes 7: must be 1 to 2",
    ),
    "no CPUs": (
        lambda s, a: syscalls.Session(STATE, cpus=-3),
        "cpus -3: must be 1 to 4",
    ),
    "memory": (
        lambda s, a: syscalls.Session(STATE, memory={9}),
        "memory.0. 9: must be 0",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_made_with_numbers(name: str) -> None:
    make, words = CALLS[name]
    space = Space([Area(start=0x10000, pages=64, first_pte=0)])
    refused(lambda: make(syscalls.Session(STATE), space), words)


def test_areas_lie_in_the_machine_and_apart() -> None:
    def made(*areas: Area) -> None:
        s, space = syscalls.Session(STATE), Space(areas)
        for one in (
            lambda: syscalls.migrate_pages(s, space, *NODES),
            lambda: syscalls.move_pages(s, space, [PAGE], 1),
            lambda: syscalls.mbind(s, space, PAGE, 1, "bind", {1}),
            lambda: call(s, space, *NODES),
        ):
            with pytest.raises(ValueError, match="the machine has entries 0 to"):
                one()
        raise ValueError("entries of another machine")

    entries = STATE.pte.shape[0]
    refused(lambda: made(Area(0, entries + 1, 0)), "entries of another")
    refused(lambda: made(Area(0, 8, entries)), "entries of another")
    refused(lambda: made(Area(0, 8, 0, first_pmd=3)), "entries of another")
    refused(lambda: made(Area(0, 8, -1)), r"area: first_pte\[0\] -1")
    refused(lambda: made(Area(0, 8.5, 0)), r"area: pages\[0\] is float 8.5")
    refused(lambda: made(Area(0, 8, 0), Area(4, 8, 8)), "page 0x4 lies in two")


@pytest.mark.parametrize(
    "nodes", [np.int64(1), np.array(1), jnp.int32(1), np.ones(1, int)]
)
def test_nodes_of_numpy_and_jax_are_nodes(nodes: Any) -> None:
    space = Space([Area(start=0x10000, pages=64, first_pte=0)])
    pages = np.array([PAGE], np.uint64)
    s = syscalls.Session(STATE)
    assert syscalls.move_pages(s, space, pages, nodes) == (0, [1])


def test_what_is_left_free_is_marked_so() -> None:
    """The check reads the flags that the machine itself keeps."""
    flags = np.asarray(STATE.frame)[:, frame.FLAGS]
    assert (frame.kind(flags[:64]) != frame.FREE).all()
    assert (frame.kind(flags[64:]) == frame.FREE).all()
