"""Workloads of one's own as targets: whatever a Builder can lay out.

def redis(text, arguments):
    def fill(b, setting):
        both = [b.process("redis", setting.running), b.process("bgsave", [7])]
        return [b.mmap(both, 1024, setting.node)]
    return custom.workload(text, "after a fork", 1024, (1, 2), fill)

targets.WORKLOADS["redis"] = redis
"""

from collections.abc import Callable, Sequence

from jaxmig.build import Builder, Region
from jaxmig.machine import PAGE_BYTES, Machine
from jaxmig.syscalls import Area, Space
from jaxmig.targets import Setting, Target

Fill = Callable[[Builder, Setting], Sequence[Region]]


def workload(
    text: str, description: str, pages: int, running: tuple[int, ...], fill: Fill
) -> Target:
    """A target that a Builder makes; of several processes the first is migrated.

    Args:
      text: what the user wrote to get it.
      pages: base pages of all regions.
      running: CPUs on which it runs unless the user says other ones.
      fill: adds processes and regions, and returns the first process's regions.
    """

    def build(s: Setting) -> tuple[Machine, Space]:
        b = Builder(s.nodes, s.cpus, free=s.free, tlb=s.tlb, huge_tlb=s.huge_tlb)
        regions = fill(b, s)
        # Only where memory may end does a large folio need room for its pieces.
        b.splits = s.limited and any(r.order for r in regions)
        m = b.build(content=s.content, seed=s.seed)
        return m, Space([_area(r, m.geometry.ptes) for r in regions])

    return Target(text, description, pages, running, build)


def _area(r: Region, ptes: int) -> Area:
    """Where the first process has a region."""
    return Area(
        start=r.start // PAGE_BYTES,
        pages=r.pages,
        first_pte=r.first_pte[0],
        first_pmd=ptes + r.first_pmd[0] if r.by_pmd else -1,
    )
