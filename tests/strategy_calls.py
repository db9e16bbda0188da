"""Calls for the scenario documents of strategies.py, and what they need compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from oracle import RELEASES
from oracle.releases import Release

Document = dict[str, Any]
Draw = Any
NODES, CPUS = 3, 4
OWNERS = ("a", "b", "c", "d")
# Every caller, and the modes in which it may be asked; the first is its own.
CALLERS = {
    "compaction": ("sync_light", "async", "sync"),
    "cma": ("sync",),
    "memory_offline": ("sync",),
    "numa_balancing": ("async",),
    "demotion": ("async",),
    "damon": ("async",),
    "longterm_pin": ("sync",),
    "soft_offline": ("sync",),
}

# Keys that only some calls look at.
ODD = {
    "migrate_pages": ("pid", "fault_at", "maxnode", "cpuset", "caller_cpuset"),
    "move_pages": ("pid", "fault_at", "fault_at", "cpuset"),
    "mbind": ("fault_at", "maxnode", "caller_cpuset"),
}


@dataclass(frozen=True)
class Program:
    """What is compiled for an example."""

    kernel: str
    large: bool = False
    mode: str = "sync"  # "any": each call has its own
    arch: str = "x86"
    caller: str | None = None  # one that has rules of its own

    @property
    def content(self) -> bool:
        """Contents are carried where that does not take a hundred megabytes."""
        return not self.large


def has_caller(kernel: str, caller: str | None) -> bool:
    """Whether a release has a caller at all."""
    return caller != "damon" or Release(kernel).has("damon")


def caller_programs(large: bool) -> list[Program]:
    """Each release with each caller that it has, in every mode of that caller."""
    return [
        Program(kernel, large, mode, caller=caller)
        for kernel in RELEASES
        for caller, modes in CALLERS.items()
        for mode in modes
        if has_caller(kernel, caller)
    ]


def pages_of(region: Document) -> int:
    """Base pages of a region."""
    return int(region["size"][:-1]) // 4


@st.composite
def calls(draw: Draw, program: Program, regions: list[Document]) -> list[Document]:
    outside = program.mode in ("sync", "any") and program.caller is None
    kinds = ["kernel"]
    if outside:
        kinds += ["migrate_pages", "move_pages", "mbind"]
    made = []
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(kinds))
        call: Document = {
            "syscall": name,
            # The first owns every region, the others what they share.
            "process": draw(st.sampled_from(("a", "a", "a", "b", "c"))),
            "cpu": draw(st.integers(0, CPUS - 1)),
        }
        if name in ("kernel", "migrate_pages"):
            # Most pages are on node 0: from elsewhere lists are short or empty.
            call["from"] = draw(st.sampled_from(("0", "0", "0-2", "0,1", "1")))
            call["to"] = draw(st.sampled_from(("1", "2", "1,2", "0")))
        if name == "kernel":
            call |= draw(_kernel(program))
        elif name == "move_pages":
            call |= draw(_move_pages(regions))
        elif name == "mbind":
            call |= draw(_mbind(regions))
        if name != "kernel" and draw(st.integers(0, 4)) == 4:
            call |= draw(_unusual(name))
        made.append(call)
    return made


@st.composite
def _unusual(draw: Draw, name: str) -> Document:
    """What a call without privileges, or with a mistake in it, has besides."""
    sets = st.sampled_from(("0", "0,1", "1,2", "0-2"))
    key = draw(st.sampled_from(("privileged", "privileged", *ODD[name])))
    if key == "privileged":
        return {key: False} | draw(st.sampled_from(({}, {"cpuset": "0,1"})))
    if key == "fault_at":
        return {key: draw(st.integers(0, 20 if name == "move_pages" else 1))}
    if key == "maxnode":
        return {key: draw(st.sampled_from((0, 1, 2, 3, 64, 32769, 32770)))}
    return {key: draw(sets) if "cpuset" in key else 999999}


@st.composite
def _kernel(draw: Draw, program: Program) -> Document:
    mode = program.mode
    if mode == "any":
        mode = draw(st.sampled_from(("sync", "async", "sync_light")))
    callers = [c for c, modes in CALLERS.items() if mode in modes]
    here = [None, *(c for c in callers if has_caller(program.kernel, c))]
    caller = program.caller or draw(st.sampled_from(here))
    call: Document = {"mode": mode}
    if caller == "compaction":
        call |= draw(_wanted(mode))
    return call | ({"caller": caller} if caller else {})


def _wanted(mode: str) -> st.SearchStrategy[Document]:
    """What compaction is asked for; an asynchronous one is always for some order."""
    blocks = (1, 2, 3, 4, 5, 6, 8, 9)
    orders = st.sampled_from(blocks if mode == "async" else (*blocks, -1))
    order = orders.map(lambda o: {"order": o})
    # An allocation wants a block.
    both = st.sampled_from(blocks).map(lambda o: {"order": o, "direct": True})
    return st.one_of(st.just({}), order, both if mode == "sync_light" else order)


@st.composite
def _move_pages(draw: Draw, regions: list[Document]) -> Document:
    # Now and then a node that the machine lacks.
    node = st.sampled_from((1, 1, 0, 2, 1, 1, 0, 2, 1, 7))
    flags = draw(st.sampled_from(("move", "move_all")))
    small = [r for r in regions if pages_of(r) <= 64]
    if small and draw(st.booleans()):
        region = draw(st.sampled_from(small))
        return {"pages": region["name"], "nodes": draw(node), "flags": flags}
    pages = []
    for _ in range(draw(st.integers(1, 12))):
        region = draw(st.sampled_from(regions))
        pages.append([region["name"], draw(st.integers(0, pages_of(region)))])
    one = st.lists(node, min_size=len(pages), max_size=len(pages))
    call: Document = {"pages": pages, "flags": flags}
    if draw(st.integers(0, 7)) < 7:  # else it only asks where pages are
        call["nodes"] = draw(st.one_of(node, one))
    return call


@st.composite
def _mbind(draw: Draw, regions: list[Document]) -> Document:
    region = draw(st.sampled_from(regions))
    policies = ("bind", "interleave", "preferred", "interleave", "preferred_many")
    policies += ("local",)
    policy = draw(st.sampled_from(policies))
    call: Document = {
        "pages": region["name"],
        "policy": policy,
        "flags": draw(st.sampled_from(("move", "move_all", "move|strict", "strict"))),
    }
    if policy != "local":
        call["nodes"] = draw(st.sampled_from(("1,2", "1", "0-2", "0")))
    return call
