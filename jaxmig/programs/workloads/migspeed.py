"""migspeed: a process that times one mbind(2) of its own memory.

No other CPU is in its mm_cpumask, so that every release flushes page by page, locally.

Source: migspeed.c of numactl 2.0.19; should_defer_flush() in mm/rmap.c, Linux 6.3.
"""

from typing import Final

from jaxmig.state.machine import PAGE_BYTES
from jaxmig.time import cost
from jaxmig.time.machines import Profile

PMD_ORDER: Final = 9
MIB: Final = 1 << 20


def call_ns(
    profile: Profile, order: int, folios: int, copy: str, policy: cost.Policy
) -> int:
    """Modelled time of a call that moves folios of its own process.

    Args:
      order: log2 of the base pages of each folio.
      folios: how many are moved; none fails.
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      policy: whether the release batches.
    Returns:
      ns of the call.
    """
    pages, huge = folios << order, order == PMD_ORDER
    ptes = 0 if huge else pages
    counts = dict.fromkeys(cost.PRICED, 0) | {
        "allocs": folios,
        "alloc_pages": pages,
        "tries": folios,
        "ptes_cleared": ptes,
        "pmds_cleared": folios if huge else 0,
        "nr_tlb_local_flush_one": ptes,
        "nr_tlb_local_flush_all": folios if huge else 0,
        "moves": folios,
        "folios_moved": folios,
        "pages_copied": ptes,
        "pages_copied_huge": pages if huge else 0,
        "ptes_set": ptes,
        "pmds_set": folios if huge else 0,
        "calls": 1,
    }
    # A local flush is INVLPG, also where shootdowns are broadcast.
    arch = "arm64" if profile.arch == "arm64" else "x86"
    return cost.price(counts, profile, copy=copy, policy=policy, arch=arch).total


def lines(pages: int, ns: int, old: int, new: int, start: int) -> list[str]:
    """The tool's output: its line of numa_maps before and after, and the rate.

    Args:
      pages: base pages moved.
      ns: of the call.
      old, new: the nodes before and after.
      start: address of the memory.
    Returns:
      Lines without their ends.
    """
    size, seconds = pages * PAGE_BYTES / MIB, ns / 1e9
    maps = [
        f"{start:08x} bind:{node} anon={pages} dirty={pages} N{node}={pages} "
        "kernelpagesize_kB=4"
        for node in (old, new)
    ]
    rate = size / seconds
    return [
        *maps,
        f"{size:1.1f} Mbyte migrated in {seconds:1.2f} secs. {rate:3.1f} Mbytes/second",
    ]
