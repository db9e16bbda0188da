"""Windows of many folios against the same calls folio by folio.

A call that keeps a log is worked one folio at a time, in the kernel's own order; without
a log, as many at once as nothing couples.  Counts, and the machine that is left, must be
the same.  Frames need not have the same numbers: machines are compared as pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from differential import diff, to_toml
from engine_snapshot import Before
from hypothesis import HealthCheck, given, seed, settings, strategies as st
from jaxmig import Builder, folios_on, migrate_pages
from jaxmig.calls.syscalls.scan import kernel_list
from jaxmig.calls.syscalls.space import View
from jaxmig.engine import migrate, windows
from jaxmig.engine.migrate import Result
from jaxmig.linux import flush_requests
from jaxmig.sources.assemble import Entries, Folios, Hardware, assemble
from jaxmig.sources.scenario import loads
from jaxmig.state import frame, pte, xla
from jaxmig.state.machine import NOWHERE, Machine, Tlb
from jaxmig.tools import player
from strategies import Document, Example, Program, examples
from test_invariants_engine import warm

MODES = ("sync", "async", "sync_light")
SINCE = ("6.3", "6.5", "6.7", "6.12", "6.14", "6.17", "6.18", "7.3", "batch-copy")
# One compiled program serves all of a line: what they differ in is its data.
SERIAL = [Program(k, mode=mode) for k in ("6.1", "6.2") for mode in MODES]
BATCHED = [Program(k, mode=mode) for k in SINCE for mode in MODES]
BATCHED += [Program("6.18", arch="x86-invlpgb")]
POSTED = [Program("v4", mode=mode) for mode in MODES]
ARM64 = [Program(k, arch="arm64", mode=mode) for k in ("6.3", "6.6") for mode in MODES]
SERIAL_ARM64 = [Program("6.2", arch="arm64", mode=mode) for mode in MODES]
REASONS = {"numa_balancing": "numa_misplaced", "longterm_pin": "longterm_pin"}
LIST = 1024
ENOUGH = 0.8  # of all examples must be compared


def large(choice: list[Program]) -> list[Program]:
    """The same programs on machines with folios of other sizes, and for more callers."""
    found = [dataclasses.replace(p, large=True) for p in choice]
    callers = {"async": "numa_balancing", "sync": "longterm_pin"}
    odd = [
        p
        for p in found
        if p.kernel in ("6.2", "6.3", "6.17", "6.18") and p.mode in callers
    ]
    return found + [dataclasses.replace(p, caller=callers[p.mode]) for p in odd]


@dataclasses.dataclass
class Tally:
    """What became of the examples of a test."""

    drawn: int = 0
    empty: int = 0  # no folio on the list
    sleeping: int = 0  # in both forms: they have no result
    compared: int = 0
    folios: int = 0  # of the calls that were compared
    in_order: int = 0  # of these, folios that had no window
    mixed: int = 0  # calls of which some folios had one and others had not

    def check(self, windows: float) -> None:
        """Enough must have been compared, and enough of it in windows."""
        assert self.compared + self.empty + self.sleeping == self.drawn, self
        assert self.compared >= ENOUGH * self.drawn, self
        assert self.folios - self.in_order >= windows * self.folios, self

    def add(self, folios: int, in_order: int) -> None:
        """One more call that was compared."""
        self.compared += 1
        self.folios += folios
        self.in_order += in_order
        self.mixed += 0 < in_order < folios


@dataclasses.dataclass(frozen=True)
class Where:
    """From where, to where and how a call goes."""

    sources: frozenset[int]
    node: int
    cpu: int
    memalloc: bool


WHERE = st.builds(
    Where,
    sources=st.sampled_from([frozenset(x) for x in ({0}, {0, 1}, {0, 1, 2})]),
    node=st.sampled_from((1, 1, 1, 2, 0)),
    cpu=st.integers(0, 3),
    memalloc=st.sampled_from((False, False, False, True)),
)
# Shared pages and something that may stand in the way, of which nothing is left.
RICH: Document = {
    "region": [
        {"process": ["a", "c", "d"], "name": "rich", "size": "4k", "folio": "4k"}
    ],
    "condition": [
        {"region": "rich", "pages": [0], "state": "locked", "until": "attempt:1"}
    ],
}
HUGETLB: Document = {
    "region": [
        {
            "process": ["d"],
            "name": "pool",
            "size": "2m",
            "folio": "2m",
            "kind": "hugetlb",
        }
    ],
    "condition": [{"region": "pool", "pages": "all", "state": "untouched"}],
}
# A page of the process that is migrated: no list is empty.
ONE: Document = {"process": ["a"], "name": "one", "size": "4k", "folio": "4k"}
# Of a machine without conditions; what only several processes can have becomes theirs.
KINDS = {kind: kind for kind in ("shmem", "file", "swapcache")}
ANYWHERE: Document = {"syscall": "kernel", "process": "a", "from": "0-2", "to": "0-2"}


def migratable(e: Example) -> list[Document]:
    """The regions, all of which a list may have."""
    regions = e.document["region"]
    return [{k: v for k, v in r.items() if k != "migratable"} for r in regions]


def rich(e: Example) -> Document:
    """Machines with shared pages and conditions, whether or not they are drawn."""
    more = [RICH, HUGETLB] if e.program.large else [RICH]
    document = {**e.document, "region": migratable(e), "call": [ANYWHERE]}
    for key in ("region", "condition"):
        document[key] = [*document[key], *(x for m in more for x in m[key])]
    large = [r for r in document["region"] if r.get("folio", "4k") != "4k"]
    document["condition"] += [
        {"region": r["name"], "pages": "every:3", "state": "zero"} for r in large
    ]
    # Nobody sleeps for ever, mostly.
    for i, c in enumerate(document["condition"]):
        if c.get("until") == "forever" and i % 4:
            document["condition"][i] = {**c, "until": "attempt:12"}
    return document


def bare(e: Example) -> Document:
    """Machines without either, and without drivers' pages and hugetlb pools."""
    regions = [
        {**r, "process": r["process"][:1], "kind": KINDS.get(r.get("kind"), "anon")}
        for r in [*migratable(e), ONE]
    ]
    for region in regions:
        region.pop("mapped_twice", None)  # that is sharing, too
    frameless = [c for c in e.document["condition"] if c["state"] == "untouched"]
    document = {**e.document, "region": regions, "condition": frameless}
    return {**document, "call": [ANYWHERE]}


def lags(m: Machine) -> list[bool]:
    """CPUs that have flushes to catch up with."""
    c = m.cpus
    loaded = np.clip(np.asarray(c.mm), 0, c.mm_gen.shape[0] - 1)
    behind = np.asarray(c.gen) != np.asarray(c.mm_gen)[loaded]
    return (np.asarray(c.mask.any(0)) & behind).tolist()


def cached(m: Machine, t: Tlb) -> list[list[int]]:
    """Set, slot and entry of what TLBs hold.

    A CPU that is behind drops all of it before it uses any.
    """
    entry = np.asarray(t.entry)
    ways = entry.shape[1] // len(m.cpus.lazy)
    usable = (entry != NOWHERE) & ~np.repeat(lags(m), ways)
    sets, slots = usable.nonzero()
    return np.stack([sets, slots, entry[sets, slots]], axis=1).tolist()


def told(m: Machine, result: Result) -> dict[str, Any]:
    """What a caller sees of a call, and what CPUs know afterwards."""
    return {
        "failed": int(result.failed),
        "error": int(result.error),
        "counts": result.events.counts(),
        "ipis": result.events.ipis_per_cpu(),
        "lags": lags(m),
        "cpus": [np.asarray(a).tolist() for a in (m.cpus.mask, m.cpus.mm, m.cpus.lazy)],
        "tlb": cached(m, m.tlb),
        "huge_tlb": cached(m, m.huge_tlb),
    }


def compare(e: Example, document: Document, at: Where, tally: Tally) -> None:
    """One example in both forms."""
    tally.drawn += 1
    scenario = loads(to_toml(document))
    state, layout = player.build(scenario, content=e.program.content)
    before = Before(scenario, state, layout)
    view, space = View.of(state), layout.spaces["a"]
    heads = kernel_list(view, space, at.sources)
    if not heads.size:
        heads = kernel_list(view, space, frozenset(range(state.geometry.nodes)))
    if not heads.size:
        tally.empty += 1
        return
    state = warm(state)
    # Only the host asks whether a page is poisoned: one program for both.
    geometry = dataclasses.replace(state.geometry, poisoned=False)
    state = dataclasses.replace(state, geometry=geometry)
    p = e.program
    how = {
        "kernel": p.kernel,
        "mode": p.mode,
        "arch": p.arch,
        "reason": REASONS.get(p.caller or "", "syscall_or_cpuset"),
        "memalloc": at.memalloc,
        "engine": True,
    }
    padded = np.zeros(LIST, np.int32)
    padded[: heads.size] = heads
    made = []
    for log in (1, 0):
        m, result = migrate_pages(
            state,
            padded,
            at.node,
            size=heads.size,
            cpu=at.cpu,
            batch=e.batch,
            log=log,
            **how,
        )
        picture = told(m, result) | before.snapshot(m)
        made.append((result.sleeps, int(result.in_order), picture))
    (slept, every, one), (sleeps, some, other) = made
    assert slept == sleeps
    assert every == heads.size
    if sleeps:
        tally.sleeping += 1
        return
    assert list(diff(one, other)) == []
    tally.add(heads.size, some)


def play(
    choice: list[Program],
    make: Callable[[Example], Document],
    count: int,
    windows: float = 0.0,
) -> None:
    """Compare `count` examples of some programs.

    Args:
      windows: the share of their folios that must have been worked in windows.
    """
    tally = Tally()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(examples(choice), WHERE)
    def one(e: Example, at: Where) -> None:
        compare(e, make(e), at, tally)

    seed(0)(one)()
    print(tally)
    tally.check(windows)


MANY = int(os.environ.get("JAXMIG_EXAMPLES", "0"))
QUICK = [
    pytest.param(SERIAL, id="serial"),
    pytest.param(BATCHED, id="batched"),
    pytest.param(POSTED, id="as posted"),
    pytest.param(ARM64, id="arm64", marks=pytest.mark.slow),
    pytest.param(SERIAL_ARM64, id="serial arm64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("choice", QUICK)
def test_base_pages_some_shared_or_held(choice: list[Program]) -> None:
    play(choice, rich, 60)


@pytest.mark.parametrize("choice", QUICK)
def test_base_pages_that_nobody_shares_or_holds(choice: list[Program]) -> None:
    # Memory may be short: then it is not known beforehand that nothing couples them.
    play(choice, bare, 40, windows=0.4)


LARGE = [
    pytest.param(large(SERIAL), id="serial"),
    pytest.param(large(BATCHED), id="batched"),
    pytest.param(large(POSTED), id="as posted", marks=pytest.mark.slow),
    pytest.param(large(ARM64), id="arm64", marks=pytest.mark.slow),
    pytest.param(large(SERIAL_ARM64), id="serial arm64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("choice", LARGE)
def test_folios_of_every_size_some_shared_or_held(choice: list[Program]) -> None:
    play(choice, rich, 60)


@pytest.mark.parametrize("choice", LARGE)
def test_folios_of_every_size_that_nobody_shares(choice: list[Program]) -> None:
    play(choice, bare, 40, windows=0.4)


def by_leaves(make: Callable[[Example], Document]) -> Callable[[Example], Document]:
    """Machines whose large folios are all mapped by PMD leaves, if they are mapped."""

    def made(e: Example) -> Document:
        document = make(e)
        regions = [
            {**r, "folio": "2m" if r.get("folio") == "2m" else "4k"}
            for r in document["region"]
        ]
        return {**document, "region": regions}

    return made


# Programs of their own, which all tests of a process share.
in_two_forms = functools.cache(migrate.program.__wrapped__)


@pytest.fixture
def two_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pages are worked in the forms that windows of many have, few processes, too."""
    monkeypatch.setattr(windows, "many", lambda lanes: True)
    monkeypatch.setattr(flush_requests, "FEW_MMS", 0)
    monkeypatch.setattr(migrate, "program", in_two_forms)


@pytest.mark.usefixtures("two_forms")
@pytest.mark.parametrize("make", [by_leaves(bare), rich], ids=["bare", "rich"])
def test_windows_in_which_only_heads_have_entries(
    make: Callable[[Example], Document],
) -> None:
    choice = large(SERIAL) + large(BATCHED)
    play(choice, make, MANY or 40, windows=0.4 * (make is not rich))


@pytest.mark.usefixtures("two_forms")
def test_contents_of_folios_of_which_only_heads_have_entries() -> None:
    b = Builder(nodes=2, cpus=4)
    app = b.process("app", running=[1, 2])
    b.mmap(app, 1024, order=9)
    b.mmap(app, 70)
    held = b.mmap(app, 512, order=9)
    b.mmap(app, 512, order=9, kind="hugetlb")
    b.condition(held, "extra_ref")
    before = b.build(seed=1)
    heads, memory = folios_on(before, 0), np.asarray(before.memory)
    old = np.asarray(before.pte)
    for kernel in ("6.2", "6.3"):
        after, result = migrate_pages(before, heads, 1, kernel=kernel)
        assert (result.ret, result.vmstat["pgmigrate_success"]) == (1, 1024 + 70 + 512)
        assert int(result.in_order) == 0
        new, found = np.asarray(after.pte), np.asarray(after.memory)
        for entry in np.flatnonzero((old[:, pte.BITS] & pte.PRESENT) != 0):
            pages = np.arange(512 if entry >= before.geometry.ptes else 1)
            here, there = old[entry, pte.PFN] + pages, new[entry, pte.PFN] + pages
            np.testing.assert_array_equal(found[there], memory[here])


@functools.cache
def for_others(*how: Any, log: int = 0, **more: Any) -> xla.Program:
    """A call as other devices than CPUs run it; one with a log as ever."""
    as_ever = in_two_forms(*how, log=log, **more)

    def call(*args: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax.lax, "platform_dependent", default_of)
            patch.setattr(xla, "asks_host", lambda: True)
            return as_ever.function(*args)

    return as_ever if log else xla.Program(call, as_ever.donate)


def default_of(*args: Any, default: Callable[..., Any], **platforms: Any) -> Any:
    """What JAX chooses for a device that is not named."""
    return default(*args)


@pytest.mark.parametrize("make", [rich, pytest.param(bare, marks=pytest.mark.slow)])
def test_other_devices_do_what_a_cpu_does(
    make: Callable[[Example], Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They skip nothing, have no loop for a single window, and walls of another kind."""
    monkeypatch.setattr(migrate, "program", for_others)
    choice = large(SERIAL) + large(BATCHED)
    play(choice, make, MANY or 25, windows=0.4 * (make is bare))


@pytest.mark.skipif(not MANY, reason="JAXMIG_EXAMPLES says how many to play")
@pytest.mark.parametrize(
    "choice", [p.values[0] for p in QUICK + LARGE], ids=lambda c: f"{c[0]}"
)
@pytest.mark.parametrize("make", [rich, bare])
def test_many_more(choice: list[Program], make: Callable[[Example], Document]) -> None:
    play(choice, make, MANY)


@pytest.mark.parametrize(("kernel", "wasted"), [("6.2", 0), ("6.3", 2)])
def test_a_page_that_stays_wastes_a_copy_a_stage(kernel: str, wasted: int) -> None:
    # Only a batch is copied before its references are looked at.
    b = Builder(nodes=2, cpus=4)
    heap = b.mmap(b.process("app", running=[1, 2, 3]), pages=8)
    b.condition(heap, "extra_ref", [3])
    m = b.build()
    for log in (1, 0):
        heads = np.asarray(m.pte)[:8, 0]
        _, result = migrate_pages(m, heads, 1, kernel=kernel, log=log)
        assert result.events.counts()["copies_wasted"] == wasted


def partly_mapped() -> Machine:
    """A THP of shmem that one process maps by a leaf, and another but for its head.

    So a snapshot of several processes may have it.
    """
    bits = pte.PRESENT | pte.WRITE | pte.YOUNG | pte.DIRTY
    nothing, pages = np.full(512, -1), np.arange(512)
    other = np.where(pages == 0, -1, 0)
    ptes = Entries(
        np.concatenate([nothing, other]),
        np.concatenate([pages * 0, pages]).astype(np.int32),
        np.repeat(np.array([0, 1], np.int32) << pte.MM_SHIFT | bits, 512),
    )
    one = np.zeros(1, np.int32)
    leaf = Entries(one.astype(np.int64), one, one + bits)
    folio = Folios(one + 9, one, one + frame.SHMEM + frame.LRU, one)
    running = np.array([[False, True, False], [False, False, True]])
    hw = Hardware(2, running, np.zeros(3, bool), free=[4096, 4096])
    return assemble(hw, folio, ptes, leaf, one, seed=1)


@pytest.mark.usefixtures("two_forms")
@pytest.mark.parametrize("log", [0, 1])
@pytest.mark.parametrize("kernel", ["6.3", "6.2"])
def test_ptes_of_others_where_a_leaf_maps_the_head(kernel: str, log: int) -> None:
    before = partly_mapped()
    heads = folios_on(before, 0)
    after, result = migrate_pages(before, heads, 1, kernel=kernel, log=log)
    counts = result.events.counts()
    assert (result.ret, result.vmstat["pgmigrate_success"]) == (0, 512)
    assert (counts["ptes_cleared"], counts["pmds_cleared"]) == (511, 1)
    old, new = np.asarray(before.pte), np.asarray(after.pte)
    present = (old[:, pte.BITS] & pte.PRESENT) != 0
    mapped = present & (old[:, pte.PFN] != NOWHERE)
    assert mapped.sum() == 512
    memory = np.asarray(before.memory)[old[mapped, pte.PFN]]
    np.testing.assert_array_equal(after.memory[new[mapped, pte.PFN]], memory)
    assert (after.node_of(new[mapped, pte.PFN]) == 1).all()
