"""The modelled machine: processes, CPUs with TLBs, nodes with free memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .folio import Entry, Folio, Region

Between = Callable[["World", int, int, str], None]


@dataclass(eq=False)
class Process:
    """A process: its page table (vpn of an entry's first page -> entry) and mm."""

    name: str
    entries: dict[int, Entry] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)
    tlb_gen: int = 1
    cpumask: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)  # CPUs that run something else by now

    def lookup(self, vpn: int) -> Entry | None:
        """The entry that covers a base page, if any."""
        region = self.region_of(vpn)
        if region is None:
            return None
        if (found := self.entries.get(vpn)) is not None:
            return found
        # A huge mapping is stored once, at its first page.
        head = vpn - vpn % (1 << region.order)
        found = self.entries.get(head)
        return found if found and vpn < head + found.nr else None

    def region_of(self, vpn: int) -> Region | None:
        """vma_lookup()."""
        for region in self.regions:
            if region.start <= vpn < region.start + region.pages:
                return region
        return None

    def entries_in(self, start: int, end: int) -> list[Entry]:
        """Entries that overlap [start, end), in address order."""
        found = [
            e for e in self.entries.values() if e.vpn < end and e.vpn + e.nr > start
        ]
        return sorted(found, key=lambda e: e.vpn)


@dataclass
class Translation:
    """One TLB entry: which page of which folio, and what may be done with it."""

    folio: Folio
    sub: int
    write: bool
    dirty: bool


@dataclass(eq=False)
class Cpu:
    """A CPU; the TLB is as large as it needs to be."""

    number: int
    node: int
    loaded: Process | None = None
    lazy: bool = False
    tlb_gen: int = 1  # of the loaded mm, as far as this CPU has caught up
    tlb: dict[tuple[str, int, str], Translation] = field(default_factory=dict)

    def drop_all(self, process: Process) -> None:
        """Forget every translation of one address space."""
        self.tlb = {k: v for k, v in self.tlb.items() if k[0] != process.name}

    def drop_range(self, process: Process, start: int, pages: int) -> None:
        """Forget translations that overlap a range, of whatever size they are."""
        if not self.tlb:
            return
        name = process.name
        for vpn in range(start, start + pages):
            self.tlb.pop((name, vpn, "4k"), None)
            self.tlb.pop((name, vpn // 512, "2m"), None)


@dataclass(eq=False)
class World:
    """Everything that a call reads and changes."""

    cpus: list[Cpu]
    free: dict[int, int]  # node -> free base pages
    memory: set[int] = field(default_factory=set)  # nodes that have memory
    processes: dict[str, Process] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)
    unmapped: list[Folio] = field(default_factory=list)  # page cache only
    lru_gen: bool = False
    compact_unevictable: bool = True  # vm.compact_unevictable_allowed
    keeps_mask: bool = False  # from 6.14 a CPU that switches away stays in the mask
    parked: list[tuple[int, str, int, int]] = field(default_factory=list)

    # Memory -----------------------------------------------------------------

    def allocate(self, src: Folio, node: int) -> Folio | None:
        """alloc_migration_target() in mm/migrate.c, on exactly one node."""
        if not src.hugetlb:
            # No fragmentation and no watermarks: room is all that counts.
            if self.free.get(node, 0) < src.nr:
                return None
            self.free[node] -= src.nr
        zeros = [0] * src.nr
        return Folio(src.order, src.kind, node, zeros, anon=src.anon, index=src.index)

    def release(self, folio: Folio) -> None:
        """Give a folio's frames back to its node (hugetlb: to the pool)."""
        if not folio.hugetlb:
            self.free[folio.node] += folio.nr

    def unmap_for_good(self, folio: Folio) -> None:
        """Take a page from its processes, as their own munmap() would have."""
        self.forget(folio)
        for entry in folio.maps:
            entry.process.entries.pop(entry.vpn, None)
        folio.maps = []
        if folio in self.unmapped:
            self.unmapped.remove(folio)

    def forget(self, folio: Folio) -> None:
        """Drop a folio's translations where somebody else did the flushing."""
        for entry in folio.maps:
            for cpu in self.cpus:
                cpu.drop_range(entry.process, entry.vpn, entry.nr)

    # What an application thread does -----------------------------------------

    def store(self, cpu: int, process: str, vpn: int, token: int) -> bool:
        """Write a page from a CPU; True if it had to wait for a migration.

        A store that waits is parked and done as soon as the page is mapped again.
        """
        entry = self._translate(cpu, process, vpn, write=True)
        if entry is None:
            self.parked.append((cpu, process, vpn, token))
            return True
        entry.folio.contents[entry.sub] = token
        return False

    def load(self, cpu: int, process: str, vpn: int) -> int | None:
        """Read a page from a CPU; None if it would wait for a migration."""
        entry = self._translate(cpu, process, vpn, write=False)
        return None if entry is None else entry.folio.contents[entry.sub]

    def warm(self) -> None:
        """Fill the TLB of every running CPU with what its process has mapped."""
        for cpu in self.cpus:
            if cpu.loaded is None or cpu.lazy:
                continue
            for entry in cpu.loaded.entries.values():
                if entry.state == "present" and entry.accessible:
                    self._fill(cpu, entry)

    def wake(self) -> None:
        """Folio lock released: retry every parked store, oldest first."""
        parked, self.parked = self.parked, []
        for item in parked:
            self.store(*item)

    def _translate(self, number: int, name: str, vpn: int, write: bool):
        """TLB hit, or a walk with the accessed and dirty bits set as x86 does."""
        cpu, process = self.cpus[number], self.processes[name]
        self._run(cpu, process)
        for key in ((name, vpn, "4k"), (name, vpn // 512, "2m")):
            hit = cpu.tlb.get(key)
            # A clean translation has to walk before its first write (dirty assist).
            if hit is not None and (not write or (hit.write and hit.dirty)):
                offset = 0 if key[2] == "4k" else vpn % 512
                return Translation(hit.folio, hit.sub + offset, hit.write, hit.dirty)
        entry = process.lookup(vpn)
        if entry is None or entry.folio is None:
            raise LookupError(f"{name} has no page at {vpn:#x}")
        # migration_entry_wait(): the thread sleeps on the folio lock.
        if entry.state != "present":
            return None
        entry.hint = False  # do_numa_page(): the hint fault restores the PTE
        if entry.region.prot_none or (write and not entry.write):
            raise PermissionError(f"{name} may not access {vpn:#x} in this way")
        entry.young = True
        if write:
            entry.dirty = entry.soft_dirty = True
        self._fill(cpu, entry, vpn)
        return Translation(entry.folio, entry.sub + vpn - entry.vpn, write, write)

    def _fill(self, cpu: Cpu, entry: Entry, vpn: int | None = None) -> None:
        """Cache a present entry; a hugetlb page smaller than 2 MiB page by page."""
        name, folio = entry.process.name, entry.folio
        assert folio is not None
        if entry.nr == 512:
            item = Translation(folio, 0, entry.write, entry.dirty)
            cpu.tlb[name, entry.vpn // 512, "2m"] = item
            return
        span = range(entry.nr) if vpn is None else [vpn - entry.vpn]
        for i in span:
            item = Translation(folio, entry.sub + i, entry.write, entry.dirty)
            cpu.tlb[name, entry.vpn + i, "4k"] = item

    def _run(self, cpu: Cpu, process: Process) -> None:
        """switch_mm_irqs_off(): load the mm, flush if this CPU is behind."""
        if cpu.loaded is process and not cpu.lazy:
            return
        # A CPU that was lazy may have missed flushes.
        if cpu.loaded is not process or cpu.tlb_gen != process.tlb_gen:
            cpu.drop_all(process)
        if cpu.loaded not in (None, process) and not self.keeps_mask:
            cpu.loaded.cpumask.discard(cpu.number)
        cpu.loaded, cpu.lazy, cpu.tlb_gen = process, False, process.tlb_gen
        process.cpumask.add(cpu.number)

    # Reading it -----------------------------------------------------------------

    def nodes_of(self, process: Process) -> dict[str, int]:
        """Base pages of a process on each node."""
        counts = dict.fromkeys(sorted(self.free), 0)
        for entry in process.entries.values():
            if entry.folio is not None:
                counts[entry.folio.node] += entry.nr
        return {str(node): count for node, count in counts.items()}

    def snapshot(self) -> dict:
        """A plain, canonical picture of the world; see snapshot.py."""
        from .snapshot import snapshot

        return snapshot(self)
