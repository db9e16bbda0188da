"""The running kernel: release, architecture, the calling CPU, and what it counts."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from .folio import Entry, Folio
from .releases import Release
from .world import Between, Cpu, Process, World

EAGAIN, ENOMEM, EBUSY = -errno.EAGAIN, -errno.ENOMEM, -errno.EBUSY
EIO, EDEADLK = -errno.EIO, -errno.EDEADLK
EHWPOISON = -133  # Python's errno has no name for it

VMSTAT = (
    "pgmigrate_success",
    "pgmigrate_fail",
    "thp_migration_success",
    "thp_migration_fail",
    "thp_migration_split",
    "nr_tlb_remote_flush",
    "nr_tlb_remote_flush_received",
    "nr_tlb_local_flush_all",
    "nr_tlb_local_flush_one",
)


@dataclass
class Unmapped:
    """The task's tlb_ubc: flushes put off so far (include/linux/mm_types_task.h)."""

    required: bool = False
    cpumask: set[int] = field(default_factory=set)
    # arm64: ranges whose invalidation was issued but not yet waited for.
    issued: list[tuple[Process, int, int]] = field(default_factory=list)


@dataclass
class Stats:
    """struct migrate_pages_stats in mm/migrate.c."""

    succeeded: int = 0
    failed_pages: int = 0
    thp_succeeded: int = 0
    thp_failed: int = 0
    thp_split: int = 0
    split: int = 0


@dataclass
class Request:
    """What one caller asks of migrate_pages()."""

    target: Callable[[Folio], int | list[int]]  # source -> node, or nodes to try
    mode: str = "sync"
    reason: str = "syscall"
    memalloc: bool = False  # PF_MEMALLOC: the caller is reclaiming memory
    placed: Callable[[int], None] | None = None  # told where a folio was allocated

    @property
    def nosplit(self) -> bool:
        """NUMA balancing gives up rather than split."""
        return self.reason == "numa_misplaced"


@dataclass(eq=False)
class Kernel:
    """One call's view of the machine."""

    world: World
    release: Release
    arch: str
    batch: int
    ubc: Unmapped
    number: int = 0  # the CPU that migrates
    call: int = 0
    lists: int = -1  # the list (serial: the attempt) that is being unmapped
    moves: int = -1  # the folio that is being moved; both are told to the hook
    between: Between | None = None
    vmstat: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VMSTAT, 0))
    ipis: list[int] = field(default_factory=list)
    batches: int = 0
    allocs: int = 0
    sent: int = 0  # calls of migrate_pages() that a caller made
    reclaimed: int = 0  # base pages dropped instead of migrated
    copies_wasted: int = 0
    nr_isolated: int = 0  # NR_ISOLATED_ANON and _FILE, as the call leaves them
    engine: bool = False  # batch-copy: somebody has registered for copies
    trimmed: set[str] = field(default_factory=set)  # mms whose mask this call trimmed

    @property
    def cpu(self) -> Cpu:
        """The migrating CPU."""
        return self.world.cpus[self.number]

    def hook(self, phase: str) -> None:
        """Let a test act between two phases."""
        if self.between is not None:
            # Unmapping and flushing belong to a list, the rest to a folio.
            index = self.lists if phase in ("unmap", "flush") else self.moves
            self.between(self.world, self.call, index, phase)

    def allocate(self, request: Request, src: Folio) -> Folio | None:
        """The caller's get_new_page(): the first wanted node that has room."""
        # Reading: one allocation is one test, however many nodes it falls back to.
        if src.order and src.test("huge_dst_unavailable"):
            return None
        nodes = request.target(src)
        for node in [nodes] if isinstance(nodes, int) else nodes:
            dst = self.world.allocate(src, node)
            # Locked at once: nobody else knows the folio yet.
            if dst is not None:
                dst.locked = True
                self.allocs += 1
                if request.placed is not None:
                    request.placed(node)
                return dst
        return None

    def account(self, stats: Stats) -> None:
        """count_vm_events() at the end of migrate_pages()."""
        self.vmstat["pgmigrate_success"] += stats.succeeded
        self.vmstat["pgmigrate_fail"] += stats.failed_pages
        self.vmstat["thp_migration_success"] += stats.thp_succeeded
        self.vmstat["thp_migration_fail"] += stats.thp_failed
        self.vmstat["thp_migration_split"] += stats.thp_split

    def is_thp(self, folio: Folio) -> bool:
        """Which folios the thp_migration_* events count.

        6.1 asks PageTransHuge(), which is true of every compound head.
        """
        if self.release.has("thp_means_pmd"):
            return folio.pmd_mappable
        return folio.large

    def free_source(self, request: Request, src: Folio) -> None:
        """migrate_folio_done(): the last reference goes, except to poisoned pages."""
        # Reclaim takes what it has demoted off NR_ISOLATED_* by itself, too; DAMON has
        # never put its folios there.
        late = self.release.has("demotion_lowers_once")
        if request.reason == "damon" or (request.reason == "demotion" and not late):
            self.nr_isolated -= src.nr
        # A poisoned frame is never used again.
        if request.reason != "memory_failure":
            self.world.release(src)

    def freed_under_us(self, request: Request, folio: Folio) -> bool:
        """Only our reference is left: nothing to migrate, only to free."""
        # Drivers hold references of their own; 6.18 does not look.
        if folio.movable_ops and self.release.has("movable_not_freed"):
            return False
        # Nothing maps a piece whose contents were zero: our reference is the last.
        lost = not folio.maps and folio.refcount == 1
        if not lost and not folio.test("freed"):
            return False
        self.world.unmap_for_good(folio)
        self.free_source(request, folio)
        return True


def share_refused(folio: Folio, entry: Entry) -> bool:
    """page_try_share_anon_rmap(): an exclusive page that may be pinned stays put."""
    if not entry.exclusive:
        return False
    if folio.test("pinned"):
        return True
    # A small page knows its pins only as 1024 references each.
    return folio.order == 0 and folio.refcount >= 1024


def mapped_shared(k: Kernel, folio: Folio) -> bool:
    """Whether a folio counts as mapped by several, as each release estimates it."""
    # Up to 6.8 the first base page stands for all of them.
    if not k.release.has("guesses_shared") and not k.release.has("shared_exactly"):
        return folio.sharers > 1
    mapped = len(folio.maps)
    if mapped <= 1 or not folio.large:
        return mapped > 1
    if k.release.has("shared_exactly"):
        return len({e.process.name for e in folio.maps}) > 1
    # folio_likely_mapped_shared(): 6.10 to 6.14 guess where they cannot know.
    entire = any(e.level == "pmd" for e in folio.maps)
    return entire or mapped > folio.nr or folio.sharers > 1
