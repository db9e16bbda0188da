"""What holds in the oracle after any call, and what a racing CPU sees during one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from oracle import RELEASES, SleepsForever, World, play
from strategies import Example, examples
from strategy_calls import caller_programs


def document(conditions: list, size: str, folio: str = "4k", kind: str = "anon"):
    """Two nodes and four CPUs; the victim runs on three, lazily on the fourth."""
    return {
        "machine": {"nodes": 2, "cpus": 4, "node_size": "64m"},
        "process": [{"name": "victim", "running": [1, 2, 3], "lazy": [0]}],
        "region": [
            {
                "process": "victim",
                "name": "heap",
                "size": size,
                "folio": folio,
                "kind": kind,
            }
        ],
        "condition": [{"region": "heap", **c} for c in conditions],
        "call": [{"syscall": "migrate_pages", "from": "0", "to": "1"}],
    }


@pytest.mark.parametrize("kernel", RELEASES)
def test_a_store_through_a_stale_translation_arrives(kernel):
    """Between unmap and flush a CPU may still write; after it, it has to wait."""
    vpn, waited, done = 0x10000, {}, []

    def between(world: World, call: int, index: int, phase: str) -> None:
        if phase not in waited and vpn in world.processes["victim"].entries:
            token = 1000 + len(waited)
            waited[phase] = world.store(1, "victim", vpn, token)
            done.append(token)

    world = play(document([], "4k"), kernel, between=between, prepare=World.warm).world
    assert waited["unmap"] is False
    assert waited["flush"] is waited["copy"] is True
    assert world.load(2, "victim", vpn) == done[-1]


KINDS = ["anon", "cow", "shmem", "file", "ksm", "swapcache", "movable_ops", "hugetlb"]
STATES = [
    *("extra_ref", "pinned", "locked", "writeback", "freed", "private", "released"),
    *("buffers_locked", "temp_stack", "isolated", "partially_mapped", "prot_none"),
    *("driver_eagain", "driver_error", "zero_page", "huge_dst_unavailable"),
]


@st.composite
def documents(draw) -> dict:
    """Small machines with one region, some conditions and one or two calls."""
    folio = draw(st.sampled_from(["4k", "16k", "2m"]))
    kind = draw(st.sampled_from(KINDS))
    folio = {"ksm": "4k", "hugetlb": "2m"}.get(kind, folio)
    size = {"4k": "80k", "16k": "160k", "2m": "4m"}[folio]
    conditions = [
        {
            "pages": draw(st.sampled_from([[0], [3, 3, 17], "every:7"])),
            "state": draw(st.sampled_from(STATES)),
            "until": draw(st.sampled_from(["forever", "waited", "attempt:3"])),
        }
        for _ in range(draw(st.integers(0, 3)))
    ]
    calls = [
        {"syscall": "migrate_pages", "from": "0", "to": "1"},
        {"syscall": "move_pages", "pages": "heap", "nodes": 1, "cpu": 1},
        {"syscall": "kernel", "from": "0", "to": "1", "mode": "sync_light"},
        {"syscall": "kernel", "from": "0", "to": "1", "caller": "demotion"},
        {"syscall": "mbind", "pages": "heap", "policy": "interleave", "nodes": "0,1"},
    ]
    doc = document(conditions, size, folio, kind)
    doc["call"] = draw(st.lists(st.sampled_from(calls), min_size=1, max_size=2))
    doc["machine"]["free"] = {"1": draw(st.sampled_from(["8k", "2100k", "64m"]))}
    return doc


def contents(world: World) -> dict:
    """Token of every mapped page of the victim."""
    pages = world.snapshot()["pages"]["victim"]
    return {vpn: page["token"] for vpn, page in pages.items() if "token" in page}


def check_at_rest(world: World) -> None:
    """Nothing locked or half mapped, and no TLB leads to an old frame."""
    shot = world.snapshot()
    for pages in shot["pages"].values():
        assert {p["state"] for p in pages.values()} <= {"present", "zero"}
    assert not any(folio["locked"] for folio in shot["folios"])
    assert all(free >= 0 for free in shot["free"].values())
    for cpu in world.cpus:
        for (name, vpn, size), entry in cpu.tlb.items():
            if not cpu.lazy and cpu.loaded is world.processes[name]:
                now = world.processes[name].lookup(vpn * (512 if size == "2m" else 1))
                assert now is not None
                assert now.folio is entry.folio


@settings(max_examples=60, deadline=None)
@given(doc=documents(), kernel=st.sampled_from(RELEASES), arch=st.integers(0, 2))
def test_invariants(doc, kernel, arch):
    """Contents, frames and translations survive whatever happens to a call."""
    before: dict = {}

    def prepare(world: World) -> None:
        world.warm()
        before.update(contents(world), memory=memory(world))

    try:
        world = play(
            doc, kernel, arch=["x86", "arm64", "x86-invlpgb"][arch], prepare=prepare
        ).world
    except SleepsForever:
        return
    check_at_rest(world)
    assert memory(world) == before["memory"]
    assert contents(world).items() <= before.items()


@settings(max_examples=150, deadline=None)
@given(examples(caller_programs(large=False) + caller_programs(large=True)))
def test_invariants_of_callers(e: Example):
    """No caller of any release loses a frame, but soft offline, which keeps them."""
    had: list[int] = []

    def prepare(world: World) -> None:
        world.warm()
        had.append(memory(world))

    try:
        world = play(e.document, e.program.kernel, prepare=prepare).world
    except SleepsForever:
        return
    check_at_rest(world)
    if e.program.caller != "soft_offline":
        assert memory(world) == had[0]


def memory(world: World) -> int:
    """Free and used base pages together, hugetlb's apart."""
    folios = world.snapshot()["folios"]
    used = sum(1 << f["order"] for f in folios if f["kind"] != "hugetlb")
    return used + sum(world.free.values())
