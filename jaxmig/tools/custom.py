"""A user's own workloads as targets: any memory that a Builder can lay out.

def redis(text, arguments):
    def fill(b, setting):
        both = [b.process("redis", setting.running), b.process("bgsave", [7])]
        return [b.mmap(both, 1024, setting.node)]
    return custom.workload(text, "after a fork", 1024, (1, 2), fill)

targets.WORKLOADS["redis"] = redis
"""

from collections.abc import Callable, Sequence

from jaxmig.calls.syscalls import Area, Space
from jaxmig.sources.builder import Builder, Region
from jaxmig.sources.targets import Setting, Target
from jaxmig.state.machine import PAGE_BYTES, Machine

Fill = Callable[[Builder, Setting], Sequence[Region]]


def workload(
    text: str, description: str, pages: int, running: tuple[int, ...], fill: Fill
) -> Target:
    """A target that a Builder makes; of several processes the first is migrated.

    Args:
      text: what the user wrote for the target.
      description: of its memory, for the first line of output.
      pages: base pages of all regions.
      running: CPUs on which it runs unless the user chooses others.
      fill: adds processes and regions to a Builder, and returns the first process's
        regions.
    Returns:
      A target without THPs, pins or other changes.
    """

    def build(setting: Setting) -> tuple[Machine, Space]:
        b = Builder(
            setting.nodes,
            setting.cpus,
            free=setting.free,
            tlb=setting.tlb,
            huge_tlb=setting.huge_tlb,
        )
        regions = fill(b, setting)
        # A large folio can only be split, and need room for pieces, where memory may end.
        b.splits = setting.limited and any(r.order for r in regions)
        m = b.build(content=setting.content, seed=setting.seed)
        return m, Space([_area(r, m.geometry.ptes) for r in regions])

    return Target(text, description, pages, running, build)


def _area(region: Region, ptes: int) -> Area:
    """The area of a region in the first process."""
    return Area(
        start=region.start // PAGE_BYTES,
        pages=region.pages,
        first_pte=region.first_pte[0],
        first_pmd=ptes + region.first_pmd[0] if region.by_pmd else -1,
    )
