"""Who gets onto a list: isolation, and the page-table scans of mm/mempolicy.c."""

from __future__ import annotations

from dataclasses import dataclass, field

from .folio import Entry, Folio
from .kernel import EIO, Kernel, mapped_shared
from .world import Process

PMD_PAGES = 512
STRICT, MOVE, MOVE_ALL = 1, 2, 4


def isolate(folio: Folio, by_driver: bool = False) -> bool:
    """folio_isolate_lru() or isolate_hugetlb(); movable_ops needs its driver."""
    if folio.isolated or (folio.movable_ops and not by_driver):
        return False
    if folio.test("isolated"):
        return False
    # From here on nobody else can queue it.
    folio.isolated = True
    return True


def isolate_page(folio: Folio) -> bool:
    """folio_isolate_lru(), isolate_hugetlb(), or isolate_movable_page(), a trylock."""
    if folio.movable_ops and folio.has("locked"):
        return False
    return isolate(folio, by_driver=True)


def putback(folios: list[Folio]) -> None:
    """putback_movable_pages()."""
    for folio in folios:
        folio.isolated = False


def run(k: Kernel, request, folios: list[Folio]) -> int:
    """migrate_pages() of this release, and the putback that every caller does."""
    from . import batched, serial, v4

    if k.release.policy == "serial":
        rc = serial.migrate_pages(k, request, folios)
    elif k.release.has("async_first"):
        rc = batched.migrate_pages(k, request, folios)
    else:
        rc = v4.migrate_pages(k, request, folios)
    # Reading: what a refused walk put off, and -ENOMEM kept from being sent, is dropped:
    # its entries are as they were, so nobody misses it.
    k.ubc.required = False
    k.ubc.issued.clear()
    k.ubc.cpumask.clear()
    # A result of 0 says that nothing is left, so nobody puts anything back.
    if rc:
        putback(folios)
        # The last reference of a piece that the zero page has replaced.
        for folio in folios:
            if folio.refcount == 0:
                k.world.release(folio)
    return rc


@dataclass
class Scan:
    """struct queue_pages: what a scan collects and what it could not take."""

    k: Kernel
    flags: int
    wanted: set[int]
    invert: bool = False
    folios: list[Folio] = field(default_factory=list)
    failed: int = 0
    large: Folio | None = None
    stopped: bool = False  # up to 6.6 a strict scan ends behind what it can't move
    refused: set[int] = field(default_factory=set)

    def wants(self, folio: Folio) -> bool:
        """queue_folio_required()."""
        return (folio.node in self.wanted) != self.invert


def queue_pages_range(scan: Scan, process: Process, start: int, end: int) -> int:
    """queue_pages_range(): 0, or -EIO for MPOL_MF_STRICT on its own."""
    block = None
    for entry in process.entries_in(start, end):
        strict_only = scan.flags & (STRICT | MOVE | MOVE_ALL) == STRICT
        # queue_pages_test_walk() skips the whole area.
        if not entry.region.migratable and not scan.flags & STRICT:
            continue
        # The walk visits one PMD range at a time and looks at results after each.
        here = entry.vpn // PMD_PAGES, entry.region.name
        if scan.stopped and here != block:
            break
        block = here
        if entry.state == "migration":
            # From 6.7 each adds one, whatever its node.
            scan.failed += scan.k.release.has("count_unisolated")
            continue
        folio = entry.folio
        if folio is None or not scan.wants(folio):
            continue
        # STRICT alone only reports a page on a wrong node.
        if strict_only:
            return EIO
        _queue(scan, entry, folio)
    return 0


def _queue(scan: Scan, entry: Entry, folio: Folio) -> None:
    """queue_folios_pte_range() and its PMD and hugetlb siblings, for one entry."""
    counts = scan.k.release.has("count_unisolated")
    # From 6.7 a large folio mapped by PTEs is looked at once.
    if counts and folio.large and entry.level == "pte":
        if folio is scan.large:
            return
        scan.large = folio
    if entry.region.migratable and _add(scan, folio):
        return
    # From 6.16 a batch of PTEs is counted PTE by PTE.
    whole = entry.level == "pte" and scan.k.release.has("count_unisolated_ptes")
    scan.failed += folio.nr if whole else 1
    # Reading: as in Linux, the second PTE of an isolated large folio counts too,
    # so MOVE|STRICT on such folios gives -EIO up to 6.6.
    scan.stopped = scan.stopped or (not counts and bool(scan.flags & STRICT))


def _add(scan: Scan, folio: Folio) -> bool:
    """migrate_folio_add(): not wanting to take a shared folio is no failure."""
    if not scan.flags & MOVE_ALL and mapped_shared(scan.k, folio):
        return True
    # Reading: what somebody else has isolated is looked at once in a scan.
    if id(folio) in scan.refused or not isolate(folio):
        scan.refused.add(id(folio))
        return False
    scan.folios.append(folio)
    return True
