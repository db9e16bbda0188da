"""A target as a machine without contents, some of it in huge pages."""

import dataclasses

from jaxmig import nodes
from jaxmig.build import Builder
from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PAGE_BYTES, PMD_PAGES, Cpus, Machine
from jaxmig.syscalls import Area, Space
from jaxmig.targets import Setting, Target, TargetError

# What a call counts does not depend on what TLBs hold: masks say who is interrupted.
# The least TLB makes the serial releases' search for stale entries short.
TLB = (1, 1)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Where a sweep's pages are, and on which CPUs their process runs."""

    target: Target
    nodes: int
    source: int
    cpus: int  # of the largest machine: the others leave some idle
    everywhere: bool  # runs on all CPUs but the migrating one, not on its own
    cpu: int = 0
    given: tuple[int, ...] | None = None  # it runs on these, whatever else is said

    def running(self, cpus: int) -> tuple[int, ...]:
        """CPUs of a machine of `cpus` on which the target runs."""
        if self.given is not None:
            return tuple(c for c in self.given if c < cpus)
        if self.everywhere:
            return tuple(c for c in range(cpus) if c != self.cpu)
        return tuple(nodes.fold(self.target.running, cpus))

    @property
    def own_sizes(self) -> bool:
        """A process or a trace: its page sizes are its own."""
        return self.target.own_sizes

    def build(self, thp: int) -> tuple[Machine, Space]:
        """The machine with the most CPUs.

        Raises:
          TargetError: a share of huge pages for a process that has its own.
        """
        setting = self._setting(self.cpus)
        if not self.own_sizes:
            return _mixed(self.target, setting, thp)
        if thp != self.target.thp:
            raise TargetError(
                f"{self.target.name}: has page sizes of its own; leave out --thp"
            )
        return self.target.build(setting)

    def cpus_of(self, cpus: int) -> Cpus:
        """Masks of a machine of `cpus` CPUs, padded to the largest one."""
        setting = self._setting(cpus)
        if self.own_sizes:
            return self.target.build(setting)[0].cpus
        small = dataclasses.replace(self.target, pages=1)
        return _mixed(small, setting, 0)[0].cpus

    def _setting(self, cpus: int) -> Setting:
        return Setting(
            nodes=self.nodes,
            cpus=self.cpus,
            running=self.running(cpus),
            tlb=TLB,
            huge_tlb=TLB,
            content=False,
            node=self.source,
        )


def _mixed(target: Target, s: Setting, thp: int) -> tuple[Machine, Space]:
    """Written memory of which `thp` percent, in whole huge pages, are THPs."""
    large = round(target.pages * thp / 100 / PMD_PAGES) * PMD_PAGES
    large = min(large, target.pages // PMD_PAGES * PMD_PAGES)
    b = Builder(s.nodes, s.cpus, tlb=s.tlb, huge_tlb=s.huge_tlb)
    process = b.process(target.name, s.running)
    regions = []
    if large:
        regions.append(b.mmap(process, large, s.node, order=PMD_ORDER))
    if target.pages > large:
        regions.append(b.mmap(process, target.pages - large, s.node))
    m = b.build(content=False, seed=s.seed)
    areas = [
        Area(
            start=r.start // PAGE_BYTES,
            pages=r.pages,
            first_pte=r.first_pte[0],
            first_pmd=m.geometry.ptes + r.first_pmd[0] if r.by_pmd else -1,
        )
        for r in regions
    ]
    return m, Space(areas)
