"""NUMA hint faults: the scan (mm/mprotect.c), the fault (mm/memory.c), one folio each."""

from __future__ import annotations

from .folio import Entry, Folio, Region
from .isolate import isolate
from .job import Job
from .kernel import Kernel, mapped_shared

FILES = ("file", "shmem")


def hint_faults(job: Job) -> None:
    """Every page of the process whose PTE the scan would make PROT_NONE faults once."""
    for page in job.pages:
        entries = [e for e in page.folio.maps if e.process is job.process]
        if not _scanned(job.k, page.folio, entries[0]):
            continue
        # Reading: the caller implies the hint, in this process's entries alone.
        for entry in entries:
            entry.hint = True
            # The scan, long before, has flushed what it made inaccessible.
            for cpu in job.k.world.cpus:
                cpu.drop_range(entry.process, entry.vpn, entry.nr)
        if _worth_moving(job, page.folio, entries[0]) and isolate(page.folio):
            job.send([page.folio])
        # Moved or not, the fault leaves an ordinary entry.
        for entry in entries:
            entry.hint = False


def _scanned(k: Kernel, folio: Folio, entry: Entry) -> bool:
    """task_numa_work(), change_pte_range() and change_huge_pmd()."""
    region = entry.region
    if folio.hugetlb or folio.movable_ops or not _area(region):
        return False
    if folio.kind == "ksm" or (folio.kind == "file" and folio.dirty):
        return False
    pinned = k.release.has("hints_no_pinned") and folio.maybe_pinned()
    if entry.level == "pmd":
        # Before, the scan of PMDs had no test for shared or pinned pages.
        late = k.release.has("hints_no_pinned") and region.private
        return not (pinned or (late and mapped_shared(k, folio)))
    if not region.private:
        return not pinned
    if k.release.has("hints_by_pin"):
        return not (folio.maybe_pinned() or mapped_shared(k, folio))
    return folio.refcount == 1 and not folio.has("private")


def _area(region: Region) -> bool:
    """Areas that are scanned: migratable, accessible, no read-only file."""
    readonly = region.kind in FILES and not region.writable
    return region.migratable and not region.prot_none and not readonly


def _worth_moving(job: Job, folio: Folio, entry: Entry) -> bool:
    """do_numa_page() and what migrate_misplaced_folio() refuses before isolation."""
    k = job.k
    if folio.node == job.target:
        return False
    if entry.level == "pte" and folio.large and not k.release.has("hints_by_pin"):
        return False
    several = entry.level == "pmd" and len(folio.maps) > 1
    if several and not k.release.has("hints_shared_thp"):
        return False
    # A shared library, most likely.
    shared = mapped_shared(k, folio)
    if folio.kind == "file" and entry.region.executable and shared:
        return False
    # migrate_balanced_pgdat(): without room the fault does not even try.
    return k.world.free.get(job.target, 0) >= folio.nr
