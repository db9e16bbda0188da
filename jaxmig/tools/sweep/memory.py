"""A target as a machine without contents, some of it in huge pages."""

import dataclasses

from jaxmig.calls.syscalls import Space
from jaxmig.host import nodes
from jaxmig.sources.builder import Builder
from jaxmig.sources.targets import Setting, Target, WhatIf
from jaxmig.state.machine import Cpus, Machine

# Counts do not depend on the contents of TLBs, as masks decide which CPUs are
# interrupted.  The smallest TLB shortens serial releases' search for stale entries.
TLB = (1, 1)


@dataclasses.dataclass(frozen=True)
class Memory:
    """The nodes of a sweep's pages, and the CPUs on which their process runs."""

    target: Target
    nodes: int
    source: int
    cpus: int  # of the largest machine; smaller ones leave some idle
    everywhere: bool  # runs on all CPUs but the migrating one, not on the target's own
    cpu: int = 0
    given: tuple[int, ...] | None = None  # CPUs on which it runs, before all else

    def running(self, cpus: int) -> tuple[int, ...]:
        """CPUs of a machine of `cpus` on which the target runs."""
        if self.given is not None:
            return tuple(c for c in self.given if c < cpus)
        if self.everywhere:
            return tuple(c for c in range(cpus) if c != self.cpu)
        return tuple(nodes.fold(self.target.running, cpus))

    @property
    def own_sizes(self) -> bool:
        """Whether the target has its own page sizes, as a process or a trace has."""
        return self.target.own_sizes

    def build(self, thp: int) -> tuple[Machine, Space]:
        """The machine with the most CPUs.

        Raises:
          TargetError: a changed share of THPs for a target whose pages are not known.
        """
        return self.shaped(thp).build(self._setting(self.cpus))

    def shaped(self, thp: int) -> Target:
        """The target with about `thp` percent of its pages in THPs."""
        if thp == self.target.thp:
            return self.target
        return self.target.what_if(WhatIf(thp=thp))

    def cpus_of(self, cpus: int) -> Cpus:
        """Masks of a machine of `cpus` CPUs, padded to the largest one."""
        setting = self._setting(cpus)
        if self.own_sizes:
            return self.target.build(setting)[0].cpus
        b = Builder(setting.nodes, setting.cpus)
        b.mmap(b.process(self.target.name, setting.running), 1, setting.node)
        return b.build(content=False).cpus

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
