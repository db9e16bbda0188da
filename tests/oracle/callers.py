"""Callers inside the kernel: mode, reason, length of lists, what a failure means."""

from __future__ import annotations

from dataclasses import dataclass

from .folio import Folio
from .isolate import kernel_list, putback, run
from .kernel import EBUSY, ENOMEM, Kernel, Request
from .nodes import parse
from .world import Process

CLUSTER = 32  # COMPACT_CLUSTER_MAX and SWAP_CLUSTER_MAX


@dataclass(frozen=True)
class Caller:
    """One row of section 7."""

    mode: str
    reason: str
    pages: int = 0  # base pages that close a list; 0: one list of everything
    tries: int = 1  # migrate_pages() calls on the same list
    goes_on: bool = False  # -ENOMEM does not keep it from its next list
    memalloc: bool = False


CALLERS = {
    "syscall": Caller("sync", "syscall"),
    # Reading: direct compaction by default, which is asynchronous; large folios
    # are taken too, since the list is everything on the node.
    "compaction": Caller("async", "compaction", CLUSTER),
    "memory_hotplug": Caller("sync", "memory_hotplug"),
    # Reading: one list of the whole range.
    "contig_range": Caller("sync", "contig_range", tries=5),
    "longterm_pin": Caller("sync", "longterm_pin"),
    "memory_failure": Caller("sync", "memory_failure", 1, goes_on=True),
    "mempolicy_mbind": Caller("sync", "mempolicy_mbind"),
    "numa_misplaced": Caller("async", "numa_misplaced", 1, goes_on=True),
    "demotion": Caller("async", "demotion", CLUSTER, goes_on=True, memalloc=True),
    "damon": Caller("async", "damon"),
}
ALIASES = {
    "hotplug": "memory_hotplug",
    "memory_offline": "memory_hotplug",
    "offline": "memory_hotplug",
    "alloc_contig": "contig_range",
    "cma": "contig_range",
    "soft_offline": "memory_failure",
    "mbind": "mempolicy_mbind",
    "numa": "numa_misplaced",
    "numa_balancing": "numa_misplaced",
    "gup": "longterm_pin",
    "migrate_pages": "syscall",
    "move_pages": "syscall",
}


def kernel_call(k: Kernel, call: dict, process: Process) -> tuple[int, int]:
    """migrate_pages() by a caller: folios left or -ENOMEM, and the caller's view."""
    name = str(call.get("caller", "syscall"))
    caller = CALLERS[ALIASES.get(name, name)]
    nodes = len(k.world.free)
    target = min(parse(call.get("to", "1"), nodes), default=0)
    memalloc = call.get("memalloc", caller.memalloc)
    mode = call.get("mode", caller.mode)
    request = Request(lambda src: target, mode, caller.reason, memalloc)
    todo = kernel_list(process, parse(call.get("from", "0"), nodes))
    if caller.reason == "numa_misplaced":
        todo = _worth_moving(todo)
    failed = error = 0
    while todo:
        folios = _cut(todo, caller.pages)
        if caller.reason == "numa_misplaced" and not _has_room(k, folios, target):
            putback(folios)
            continue
        # Each list is a migrate_pages() call of its own.
        rc = _tries(k, request, folios, caller.tries)
        if rc < 0 and not caller.goes_on:
            putback(todo)
            return rc, outcome(caller, rc)
        # Reading: the result is -ENOMEM if any of the lists met it.
        error = min(error, rc)
        failed += max(rc, 0)
    return error or failed, outcome(caller, error or failed)


def outcome(caller: Caller, rc: int) -> int:
    """What the caller tells its own caller about a failure."""
    # GUP gives up with -ENOMEM whatever the reason was.
    if caller.reason == "longterm_pin":
        return ENOMEM if rc else 0
    if caller.reason in ("memory_failure", "contig_range") and rc > 0:
        return EBUSY
    # Compaction stops as contended; these two put pages back and say nothing.
    return rc if caller.reason not in ("demotion", "numa_misplaced") else 0


def _cut(todo: list[Folio], pages: int) -> list[Folio]:
    """The next list: it closes with the folio that brings it to ``pages``."""
    taken = total = 0
    while taken < len(todo) and not (pages and total >= pages):
        total += todo[taken].nr
        taken += 1
    folios = todo[:taken]
    del todo[:taken]
    return folios


def _tries(k: Kernel, request: Request, folios: list[Folio], tries: int) -> int:
    """alloc_contig_range() calls up to five times for what is left of a list."""
    rc = 0
    for _ in range(tries):
        rc = run(k, request, folios)
        if rc <= 0:
            break
        # The list was never put back in between.
        for folio in folios:
            folio.isolated = True
    putback(folios if rc else [])
    return rc


def _worth_moving(folios: list[Folio]) -> list[Folio]:
    """migrate_misplaced_page(): dirty file pages and shared THPs are left alone."""
    kept = []
    for folio in folios:
        shared_thp = folio.pmd_mappable and folio.sharers > 1
        if shared_thp or (folio.kind == "file" and folio.dirty):
            putback([folio])
        else:
            kept.append(folio)
    return kept


def _has_room(k: Kernel, folios: list[Folio], node: int) -> bool:
    """migrate_balanced_pgdat(): without room the hint fault does not even try.

    It asks for free pages of the node whatever the folio is, one of the pool's too.
    """
    return sum(f.nr for f in folios) <= k.world.free.get(node, 0)
