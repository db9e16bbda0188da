"""Scenario documents for property tests: legal, small, and of few static shapes.

Every number of folios, entries or processes that changes an array's size would mean one
more compilation; regions that nobody touches fill each document up to the same sizes.
What an example needs compiled is its `Program`, drawn first from a list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from oracle import RELEASES
from oracle.releases import Release
from strategy_calls import CPUS, NODES, OWNERS, Program, calls, pages_of

Document = dict[str, Any]
Draw = Any
SMALL_KINDS = ("anon", "cow", "shmem", "file", "ksm", "swapcache", "movable_ops")
LARGE_KINDS = ("anon", "cow", "shmem", "file", "swapcache")
PAGES = {"4k": 1, "16k": 4, "64k": 16, "2m": 512}
# Folios of each size that regions may use; one more, untouched, is always there.
MOST = {"16k": 3, "64k": 3, "2m": 1}
FOREVER_ONLY = (
    *("freed", "released", "partially_mapped", "prot_none"),
    *("dirty", "young", "zero", "poisoned"),
)
FRAMELESS = ("zero_page", "untouched")
STATES = (
    "extra_ref",
    "pinned",
    "locked",
    "writeback",
    "temp_stack",
    "private",
    "buffers_locked",
    "driver_eagain",
    "driver_error",
    "huge_dst_unavailable",
    "isolated",
    *FOREVER_ONLY,
    *FRAMELESS,
)
SLEEPABLE = ("locked", "writeback", "buffers_locked")
UNEVICTABLE = {"compact_unevictable": 0}
BATCHES = (512, 8, 7, 1, 0)


@dataclass(frozen=True)
class Example:
    """A document and how to play it."""

    program: Program
    document: Document
    batch: int


def programs(large: bool, kernels: tuple[str, ...] = tuple(RELEASES)) -> list[Program]:
    """Everything that may be compiled for one shape."""
    found = [Program(k, large, "any") for k in kernels]
    found += [Program(k, large, arch="arm64") for k in ("6.2", "v4", "6.3", "6.6")]
    found += [Program("6.18", large, arch="x86-invlpgb")]
    if large:
        for kernel in ("6.2", "6.3", "6.18"):
            found += [Program(kernel, large, "async", caller="numa_balancing")]
            found += [Program(kernel, large, "sync", caller="longterm_pin")]
    return [p for p in found if p.kernel in kernels]


@st.composite
def examples(draw: Draw, choice: list[Program]) -> Example:
    """A machine, its pages, what stands in their way, and up to three calls."""
    program = draw(st.sampled_from(choice))
    regions = draw(_regions(program.large))
    conditions = draw(_conditions(regions, _states(program)))
    document = {
        "machine": draw(_machine(program.large)),
        "process": draw(_processes()),
        "region": regions,
        "condition": conditions,
        "call": draw(calls(program, regions)),
    }
    if program.kernel == "batch-copy":
        copy = st.sampled_from(("dma:1", "dma:4", "cpu"))
        document["machine"]["copy"] = draw(copy)
    if program.large:
        _fill(document)
    return Example(program, document, draw(st.sampled_from(BATCHES)))


def _states(program: Program) -> tuple[str, ...]:
    """What may be said of pages: no poison where it is refused."""
    refused = program.kernel == "batch-copy" or program.caller == "memory_offline"
    fails = Release(program.kernel).has("copy_can_fail") and not refused
    return tuple(s for s in STATES if fails or s != "poisoned")


@st.composite
def _machine(draw: Draw, large: bool) -> Document:
    machine: Document = {"nodes": NODES, "cpus": CPUS, "node_size": "1g"}
    most = 1100 if large else 40
    sizes = st.one_of(st.integers(0, 8), st.integers(0, 40), st.integers(0, most))
    # Calls go to node 1 more often than elsewhere: memory should end there, too.
    limited = draw(st.sampled_from(((), (1,), (), (1, 2), (2,), (0, 1))))
    if limited:
        machine["free"] = {str(n): f"{4 * draw(sizes)}k" for n in limited}
    # What one caller alone looks at.
    machine |= draw(st.sampled_from(({}, {}, {"lru_gen": True}, UNEVICTABLE)))
    return machine


@st.composite
def _processes(draw: Draw) -> list[Document]:
    """Four processes, since their number is a size; each CPU belongs to one at most."""
    owned = [*OWNERS[:3], None]
    running: dict[str, list[int]] = {name: [] for name in OWNERS}
    lazy: dict[str, list[int]] = {name: [] for name in OWNERS}
    for cpu in range(CPUS):
        owner = draw(st.sampled_from(owned))
        if owner is not None:
            (lazy if draw(st.booleans()) else running)[owner].append(cpu)
    return [{"name": n, "running": running[n], "lazy": lazy[n]} for n in OWNERS]


@st.composite
def _regions(draw: Draw, large: bool) -> list[Document]:
    """Up to four regions."""
    left = dict(MOST)
    count = draw(st.integers(1, 4))
    return [draw(_region(f"r{i}", large, left)) for i in range(count)]


@st.composite
def _region(draw: Draw, name: str, large: bool, left: dict[str, int]) -> Document:
    sizes = ["4k", *(f for f, n in left.items() if n)] if large else ["4k"]
    folio = draw(st.sampled_from(sizes[::-1]))
    kinds = SMALL_KINDS if folio == "4k" else LARGE_KINDS
    kinds = (*kinds, "hugetlb") if folio == "2m" else kinds
    kind = draw(st.sampled_from(kinds))
    folios = draw(st.integers(1, left.get(folio, 12)))
    if folio in left:
        left[folio] -= folios
    owners = 2 if folio == "2m" else 3
    region: Document = {
        "process": list(OWNERS[: draw(st.integers(1, owners))]),
        "name": name,
        "size": f"{4 * PAGES[folio] * folios}k",
        "folio": folio,
        "kind": kind,
        "node": draw(st.sampled_from((0, 0, 0, 1, 2))),
    }
    flags = {"mlocked": True, "prot_none": True, "writable": False, "migratable": False}
    if kind == "file":
        flags |= {"private": True, "shared": False, "exec": True}
        if folio == "4k":
            flags["migrate_folio"] = False
    if kind in ("file", "shmem") and folio in ("16k", "64k"):
        flags["mapped_twice"] = True
    for key in draw(st.lists(st.sampled_from(sorted(flags)), max_size=1)):
        region[key] = flags[key]
    return region


@st.composite
def _conditions(
    draw: Draw, regions: list[Document], choice: tuple[str, ...]
) -> list[Document]:
    """Some states of some folios, each state of a folio from one condition."""
    conditions: list[Document] = []
    seen: set[tuple[str, str, int]] = set()
    for _ in range(draw(st.integers(0, 6))):
        region = draw(st.sampled_from(regions))
        state = draw(st.sampled_from(choice))
        pages = draw(_some_pages(pages_of(region)))
        step = PAGES[region["folio"]]
        folios = {(region["name"], state, p // step) for p in pages}
        by_driver = state == "poisoned" and region["kind"] == "movable_ops"
        buffers = state == "buffers_locked" and "migrate_folio" in region
        if folios & seen or by_driver or buffers:
            continue
        seen |= folios
        made = {"region": region["name"], "pages": pages, "state": state}
        if state not in FOREVER_ONLY + FRAMELESS:
            made["until"] = draw(_until(state))
        conditions.append(made)
    return conditions


def _some_pages(total: int) -> st.SearchStrategy[list[int]]:
    one = st.integers(0, total - 1)
    few = st.lists(one, min_size=1, max_size=4)
    return few if total > 64 else st.one_of(few, st.just(list(range(total))))


@st.composite
def _until(draw: Draw, state: str) -> str:
    words = ["forever", "waited"]
    # What nobody may sleep on for ever would only be refused.
    if state in SLEEPABLE:
        words = ["waited", "waited", "waited", "forever"]
    if state == "isolated":
        words = ["forever"]
    attempt = st.integers(1, 12).map(lambda n: f"attempt:{n}")
    return draw(st.one_of(st.sampled_from(words), attempt))


def _fill(document: Document) -> None:
    """Untouched folios up to one size: every order is there, and so are its leaves."""
    used = [r for r in document["region"] if r["folio"] == "2m"]
    mappings = sum(len(r["process"]) for r in used)
    # Two huge folios and three mappings of them, whoever owns them.
    more = [["c", "d"]] if mappings < 2 else []
    more += [["d"]] if len(used) + len(more) < 2 else []
    filler = [("2m", owners) for owners in more] + [("16k", ["d"]), ("64k", ["d"])]
    for i, (folio, owners) in enumerate(filler):
        name = f"filler{i}"
        region = {"process": owners, "name": name, "size": folio, "folio": folio}
        document["region"].append(region)
        state = {"region": name, "pages": "all", "state": "untouched"}
        document["condition"].append(state)
