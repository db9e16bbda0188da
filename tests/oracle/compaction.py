"""mm/compaction.c: isolate_migratepages_block(), for compaction and for CMA."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from .folio import Folio
from .isolate import isolate, isolate_page, putback
from .job import Job, Page
from .kernel import ENOMEM
from .reclaim import reclaim_clean_pages_from_list

CLUSTER = 32  # COMPACT_CLUSTER_MAX
BLOCK = 512  # base pages of a pageblock
BLOCK_ORDER = 9
MAX_ORDER = 10
TRIES = 5


@dataclass
class Zone:
    """struct compact_control, and the local variables of compact_zone()."""

    job: Job
    pages: list[Page]  # those of this zone
    order: int  # what is wanted; -1: everything
    direct: bool
    at: int = 0  # migrate_pfn
    last: int = 0  # last_migrated_pfn, 0: forgotten
    whole: bool = False  # finish_pageblock, up to 6.2 "rescan"

    @property
    def all_or_nothing(self) -> bool:
        """skip_on_failure: one page that stays makes its block useless."""
        return self.direct and self.job.mode == "async" and self.order > 0


def start_of(pfn: int, order: int) -> int:
    """block_start_pfn()."""
    return pfn >> order << order


def compact(job: Job) -> None:
    """Zone after zone: each node has one, and pages of others are holes in it."""
    frames = job.frames
    for node in sorted({p.folio.node for p in frames}):
        if not job.error:
            compact_zone(job, [p for p in frames if p.folio.node == node])


def compact_zone(job: Job, pages: list[Page]) -> None:
    """compact_zone() over everything; the mode tells who asks (16.2)."""
    # Reading: none is kcompactd, async direct compaction, sync compact_memory.
    order = job.call.get("order", -1 if job.mode == "sync" else BLOCK_ORDER)
    direct = job.call.get("direct", job.mode == "async")
    zone = Zone(job, pages, order, direct, start_of(pages[0].vpn, BLOCK_ORDER))
    end = pages[-1].vpn + 1
    while zone.at < end and not job.error:
        # A round that begins in the pageblock of the one before takes all of the rest.
        here = start_of(zone.at, BLOCK_ORDER)
        zone.whole = bool(zone.last) and start_of(zone.last, BLOCK_ORDER) == here
        _round(zone)
        if zone.order > 0 and zone.last < start_of(zone.at, zone.order):
            zone.last = 0


def _round(zone: Zone) -> None:
    """One turn of the loop, with its second scan of a block that failed."""
    job, start = zone.job, zone.at
    while True:
        found = _isolate_block(zone)
        if not found:
            return
        # Up to 6.5 remembered by where the round began (release inferred).
        remembers = job.k.release.has("remembers_scanned_block")
        zone.last = start_of(zone.at - 1, BLOCK_ORDER) if remembers else start
        rc = job.send(found)
        if rc == 0 or rc == ENOMEM:
            return
        if not _rescans(zone):
            return
        zone.whole = True
        if zone.order == BLOCK_ORDER:
            zone.last = 0


def _rescans(zone: Zone) -> bool:
    """After a failure: whether the rest of the pageblock follows at once."""
    has = zone.job.k.release.has
    if not has("finishes_block"):
        # 6.1, 6.2: the rest of the wanted block is given up.
        if zone.all_or_nothing:
            zone.at = start_of(zone.at - 1, zone.order) + (1 << zone.order)
            zone.last = 0
        return False
    if zone.whole or zone.job.mode == "sync":
        return False
    # 6.3 and 6.4 do not ask whether the pageblock has a rest: the next one is taken.
    if not has("finishes_for_hints"):
        return zone.direct
    return zone.order != -1 and zone.at % BLOCK != 0


def _isolate_block(zone: Zone) -> list[Folio]:
    """isolate_migratepages_block(): from the scanner to the end of its pageblock."""
    pages = zone.pages
    end = start_of(zone.at, BLOCK_ORDER) + BLOCK
    first = bisect_left(pages, zone.at, key=lambda p: p.vpn)
    step = 1 << zone.order if zone.all_or_nothing else 0
    limit = start_of(zone.at, zone.order) + step if step else end
    found: list[Folio] = []
    total, low = 0, zone.at
    for page in pages[first:]:
        if page.vpn >= end:
            break
        if step and page.vpn >= limit:
            if found:
                zone.at = max(low, limit)
                return found[::-1]
            limit = start_of(page.vpn, zone.order) + step
        # Thrown away together with the block that failed.
        if page.vpn < low:
            continue
        low = page.vpn + page.folio.nr
        if not _compacts(zone, page):
            if step:
                putback(found)
                found, total = [], 0
            if step and low <= limit:
                low, limit = limit, limit + step
            continue
        found.append(page.folio)
        total += page.folio.nr
        if total >= CLUSTER and not zone.whole:
            zone.at = min(low, end)
            return found[::-1]
    # A block that gave something ends the scan, pages behind it or not.
    zone.at = min(max(low, limit), end) if step and found else end
    return found[::-1]


def _compacts(zone: Zone, page: Page) -> bool:
    """Whether compaction isolates a page."""
    folio, job = page.folio, zone.job
    if folio.hugetlb or not page.migratable:
        return False
    if folio.large and not _small_enough(zone, folio):
        return False
    if folio.movable_ops:
        return isolate_page(folio)
    if _held(folio):
        return False
    if folio.mlocked and not job.k.world.compact_unevictable:
        return False
    # ISOLATE_ASYNC_MIGRATE, which SYNC_LIGHT has as well.
    if job.mode != "sync" and folio.has("writeback"):
        return False
    dirty = folio.kind == "shmem" or (folio.kind == "file" and folio.dirty)
    if job.mode != "sync" and folio.dirty and not folio.migrate_folio:
        return False
    look = job.mode != "sync" and dirty
    if (look or _unevictable_file(job, folio)) and folio.has("locked"):
        return False
    return isolate(folio)


def _small_enough(zone: Zone, folio: Folio) -> bool:
    """skip_isolation_on_order(); up to 6.8 no compound page is taken at all."""
    if not zone.job.k.release.has("compacts_large"):
        return False
    wanted = zone.order == -1 or folio.order < zone.order
    return wanted and folio.order < BLOCK_ORDER


def _held(folio: Folio) -> bool:
    """Without a mapping, any reference beyond the page tables' is one too many.

    Reading: this look at the references is no attempt.
    """
    no_mapping = folio.kind in ("anon", "cow", "ksm") or folio.has("private")
    return no_mapping and bool(folio.extra_refs() or folio.has("private"))


def _unevictable_file(job: Job, folio: Folio) -> bool:
    """From 6.9 the mapping of an unevictable page is looked at under its lock."""
    mapping = folio.kind in ("file", "shmem", "swapcache")
    looked = job.k.release.has("unevictable_trylock")
    return looked and mapping and folio.mlocked


# CMA --------------------------------------------------------------------------


def alloc_contig_range(job: Job) -> None:
    """__alloc_contig_migrate_range(): list by list, and the first that fails ends it."""
    pages = list(job.frames)
    while pages:
        folios = _isolate_range(job, pages)
        if folios is None:
            job.count(ENOMEM)
            return
        if folios and not _try_range(job, folios):
            return


def _isolate_range(job: Job, pages: list[Page]) -> list[Folio] | None:
    """isolate_migratepages_range(): the next 32 pages; None for a gigantic page."""
    found: list[Folio] = []
    pool: list[Folio] = []
    total = 0
    while pages and total < CLUSTER:
        page = pages.pop(0)
        folio = page.folio
        if folio.hugetlb and folio.order > MAX_ORDER and page.migratable:
            putback(found + pool)
            return None
        if not (page.migratable and _contiguous(job, folio)):
            # test_pages_isolated() will find it in the range.
            job.busy = True
            continue
        if folio.hugetlb:
            pool.append(folio)
        else:
            found.insert(0, folio)
        total += folio.nr
    return found + pool


def _contiguous(job: Job, folio: Folio) -> bool:
    """Whether CMA isolates a page, of whatever size."""
    if folio.movable_ops:
        return isolate_page(folio)
    if folio.hugetlb:
        return isolate(folio)
    if _held(folio):
        return False
    if _unevictable_file(job, folio) and folio.has("locked"):
        return False
    return isolate(folio)


def _try_range(job: Job, folios: list[Folio]) -> bool:
    """Up to five calls for what is left; clean file pages go before each.

    True if the list got empty: up to 6.6 a result of 0 does not say so.
    """
    rc = 0
    for _ in range(TRIES):
        reclaim_clean_pages_from_list(job.k, folios)
        # Even an empty list is a call.
        rc = job.migrate(folios, job.request())
        if rc == ENOMEM or not folios:
            break
        # The list was never put back in between.
        for folio in folios:
            folio.isolated = True
    job.count(rc)
    putback(folios)
    job.busy = job.busy or bool(folios)
    return not folios
