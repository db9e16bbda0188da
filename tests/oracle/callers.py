"""Callers inside the kernel: which release has them, what they list and how.

Written from section 16 of the kernel specification.  A page that isolation skips is on
no list and counted nowhere; a listed page that cannot move is a failure.

Reading: what a caller looks at before migrate_pages() is no attempt, and wears out no
condition; only isolation itself is one.
"""

from __future__ import annotations

from collections.abc import Callable

from . import compaction, damon, demotion, hints, offline, softoffline
from .folio import Folio, Refused
from .isolate import isolate, putback
from .job import Job
from .kernel import EBUSY, ENOMEM, Kernel
from .world import Process


def everything(job: Job) -> None:
    """migrate_pages() as such: one list in address order."""
    job.send([p.folio for p in job.pages if isolate(p.folio, by_driver=True)])


def longterm_pin(job: Job) -> None:
    """collect_longterm_unpinnable_folios(): one list in address order, until it is empty.

    Reading: GUP unshares KSM and forked pages first, so those stay where they are.
    """
    pages = [p.folio for p in job.pages if not _unshared(p.folio)]
    folios = [folio for folio in pages if isolate(folio)]
    rc = 0
    # After a success GUP starts again, and finds what lies where it must not.  Reading:
    # only pieces of folios whose split was not counted, so up to 6.6.
    while folios and not rc:
        rc = job.send(folios)
        # Whatever the result, what is left on the list goes back.
        putback(folios)
        left = sorted(folios, key=lambda f: f.index)
        folios = [] if rc else [folio for folio in left if isolate(folio)]


def _unshared(folio: Folio) -> bool:
    """gup_must_unshare(): KSM's pages, and what fork() left, in the swap cache or not."""
    forked = len({e.process.name for e in folio.maps}) > 1
    return folio.kind in ("ksm", "cow") or (folio.kind == "swapcache" and forked)


# Name: who lists, and the mode and reason of its calls.
Row = tuple[Callable[[Job], None], str, str]
CALLERS: dict[str, Row] = {
    "syscall": (everything, "sync", "syscall"),
    "mempolicy_mbind": (everything, "sync", "mempolicy_mbind"),
    "compaction": (compaction.compact, "sync_light", "compaction"),
    "contig_range": (compaction.alloc_contig_range, "sync", "contig_range"),
    "memory_hotplug": (offline.do_migrate_range, "sync", "memory_hotplug"),
    "numa_misplaced": (hints.hint_faults, "async", "numa_misplaced"),
    "demotion": (demotion.shrink_lists, "async", "demotion"),
    "damon": (damon.damon_pa_migrate, "async", "damon"),
    "longterm_pin": (longterm_pin, "sync", "longterm_pin"),
    "memory_failure": (softoffline.soft_offline, "sync", "memory_failure"),
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
RECLAIM = ("demotion", "damon")  # they run as PF_MEMALLOC


def kernel_call(k: Kernel, call: dict, process: Process) -> tuple[int, int]:
    """A caller's run: folios left or -ENOMEM, and what it reports upwards."""
    name = str(call.get("caller", "syscall"))
    work, mode, reason = CALLERS[ALIASES.get(name, name)]
    if reason == "damon" and not k.release.has("damon"):
        raise Refused(f"{k.release.name} has no caller {name!r}")
    job = Job.of(k, call, process, mode, reason, reason in RECLAIM)
    work(job)
    return job.error or job.failed, _told(job)


def _told(job: Job) -> int:
    """What the caller tells its own caller about a failure."""
    rc = job.error or job.failed
    # GUP gives up with -ENOMEM whatever the reason was.
    if job.reason == "longterm_pin":
        return ENOMEM if rc else 0
    # Both look at the page or the range again, whatever was listed.
    if job.reason in ("memory_failure", "contig_range"):
        return job.error or (EBUSY if rc or job.busy else 0)
    # Compaction stops as contended, offlining begins again, others put pages back.
    return 0
