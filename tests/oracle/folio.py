"""Folios, page-table entries, regions and the conditions a scenario puts on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Process

ANON = {"anon", "cow", "ksm", "swapcache"}
PMD_ORDER = 9
PIN_BIAS = 1024  # GUP_PIN_COUNTING_BIAS: what one FOLL_PIN adds to a small page


class SleepsForever(Exception):
    """The scenario makes Linux wait for something that never ends."""


class Refused(Exception):
    """The scenario asks for what this release does not have, or nobody models."""


@dataclass
class State:
    """One named state of one folio: what each condition said, and tests so far."""

    untils: list[str] = field(default_factory=list)
    tests: int = 0

    def active(self) -> bool:
        """Whether any of its conditions still holds after the tests made so far."""
        return any(
            not u.startswith("attempt:") or self.tests < int(u[8:]) for u in self.untils
        )

    def standing(self) -> bool:
        """Whether the next test would find it there."""
        return any(
            not u.startswith("attempt:") or self.tests + 1 < int(u[8:])
            for u in self.untils
        )

    def count(self) -> int:
        """How many conditions still hold: each extra_ref is one reference."""
        return len(self.untils) if self.active() else 0


@dataclass(eq=False)
class Region:
    """A VMA: the same pages at the same addresses in every listed process."""

    name: str
    kind: str
    order: int
    start: int  # first vpn
    pages: int
    writable: bool = True
    mlocked: bool = False
    migratable: bool = True
    buffers: bool = False
    prot_none: bool = False
    shared: bool = True  # VM_SHARED, of a file
    executable: bool = False
    migrate_folio: bool = True  # of a file system
    processes: list[Process] = field(default_factory=list)

    @property
    def anonymous(self) -> bool:
        """vma_is_anonymous() in include/linux/mm.h."""
        return self.kind in ANON

    @property
    def private(self) -> bool:
        """is_cow_mapping()."""
        return self.anonymous or (self.kind == "file" and not self.shared)


@dataclass(eq=False)
class Entry:
    """A PTE, a PMD or a hugetlb entry; also the reverse-map item of its folio.

    ``state`` is "present", "cleared" (between the clear and the entry's
    replacement), "migration" or "zero".
    """

    process: Process
    region: Region
    vpn: int
    nr: int
    sub: int
    folio: Folio | None
    level: str  # pte, pmd, huge
    state: str = "present"
    write: bool = False
    young: bool = True
    dirty: bool = False
    soft_dirty: bool = False
    uffd_wp: bool = False
    exclusive: bool = False
    hint: bool = False  # PROT_NONE set by NUMA balancing
    kind: str = ""  # WRITE, READ_EXCLUSIVE or READ while a migration entry

    @property
    def accessible(self) -> bool:
        """pte_accessible(): could a CPU hold a translation made from it?"""
        return not (self.hint or self.region.prot_none)


@dataclass(eq=False)
class Folio:
    """A folio with its frames; migration makes a second one and drops the first."""

    order: int
    kind: str
    node: int
    contents: list[int]
    maps: list[Entry] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    isolated: bool = False
    anon: bool = False  # folio_test_anon(), also true of private hugetlb pages
    locked: bool = False
    dirty: bool = False
    mlocked: bool = False
    buffers: bool = False
    poison: set[int] = field(default_factory=set)  # base pages whose copy fails
    hugetlb_refs: int = 1  # what the page cache holds of a hugetlb page
    migrate_folio: bool = True  # the file system has that operation
    index: int = 0  # place among all pages: the first vpn that has ever mapped it
    copied: bool = False  # batch-copy: the engine has filled this new folio

    @property
    def nr(self) -> int:
        """Base pages."""
        return 1 << self.order

    @property
    def large(self) -> bool:
        """folio_test_large() of a folio that is not hugetlb."""
        return self.order > 0 and self.kind != "hugetlb"

    @property
    def pmd_mappable(self) -> bool:
        """folio_test_pmd_mappable() of a folio that is not hugetlb."""
        return self.large and self.order >= PMD_ORDER

    @property
    def hugetlb(self) -> bool:
        """folio_test_hugetlb()."""
        return self.kind == "hugetlb"

    @property
    def movable_ops(self) -> bool:
        """A page whose driver moves it; never on the LRU."""
        return self.kind == "movable_ops"

    @property
    def sharers(self) -> int:
        """folio_estimated_sharers(): mappings of the first base page."""
        return sum(e.sub == 0 for e in self.maps)

    def mapped(self) -> bool:
        """folio_mapped()."""
        return any(e.state == "present" for e in self.maps)

    def mapcounts(self) -> list[int]:
        """How often each base page is mapped right now."""
        counts = [0] * self.nr
        for e in self.maps:
            if e.state == "present":
                for i in range(e.sub, e.sub + e.nr):
                    counts[i] += 1
        return counts

    def cache_refs(self) -> int:
        """References of the page or swap cache, and of private data."""
        # The cache holds one reference for each base page, and buffers hold one.
        # Reading: buffers that a condition gives to any other kind hold none.
        if self.kind in ("file", "shmem", "swapcache"):
            return self.nr + self.buffers
        return self.hugetlb_refs if self.kind == "hugetlb" else 0

    @property
    def refcount(self) -> int:
        """folio_ref_count(), put together from who holds it (section 3.2)."""
        maps = sum(e.state == "present" for e in self.maps)
        return self.isolated + maps + self.cache_refs() + self.extra_refs()

    def extra_refs(self) -> int:
        """References migration does not expect."""
        extra = self.states["extra_ref"].count() if "extra_ref" in self.states else 0
        # Reading: a folio is pinned or not, however many of its pages are named.
        pins = "pinned" in self.states and self.states["pinned"].active()
        # A large folio counts its pins exactly, one reference each.
        return extra + pins * (1 if self.order else PIN_BIAS)

    def has(self, state: str) -> bool:
        """What a look that is no attempt finds: what the next attempt would find."""
        return state in self.states and self.states[state].standing()

    def held(self, state: str) -> bool:
        """The same of references: they are there until the attempt that ends them."""
        return state in self.states and self.states[state].active()

    def maybe_pinned(self) -> bool:
        """folio_maybe_dma_pinned(): small pages know pins only by their number."""
        return self.held("pinned") or (not self.order and self.refcount >= PIN_BIAS)

    def test(self, state: str) -> bool:
        """Linux looks at a state: count the test, say whether it holds."""
        it = self.states.get(state)
        if it is None:
            return False
        # Reading: every look counts, that of a split as well.
        it.tests += 1
        return it.active()

    def sleep_on(self, state: str) -> None:
        """Linux sleeps until a state ends; one that never ends is refused."""
        # Sleeping ends "waited" and "attempt:n" alike.
        if "forever" in self.states[state].untils:
            raise SleepsForever(
                f"the call would sleep for ever: a page of kind {self.kind!r} on "
                f"node {self.node} stays {state!r} for ever"
            )
        del self.states[state]
