"""The pages that a recorded trace touches, as a target."""

import itertools
from typing import Final

import numpy as np

from jaxmig.build import Builder, Region
from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PMD_PAGES, Machine
from jaxmig.syscalls import Area, Space
from jaxmig.targets.target import Setting, Target
from jaxmig.workloads import trace
from jaxmig.workloads.trace import Tick, Trace

MAX_AREAS: Final = 4096  # a call walks them one by one


def of_trace(
    text: str, path: str, pid: int | None = None, tick: Tick = lambda n: None
) -> Target:
    """Its different pages, on one node, each mapped by the traced process alone.

    It runs on the CPUs of the trace; threads without one are taken to run on CPUs 1, 2 ...

    Raises:
      TraceError: the trace cannot be read, or is of several processes.
    """
    t = trace.load(path, pid=pid, tick=tick)
    kinds = ((t.huge, "2 MiB"), (len(t.pages), "4 KiB"))
    folios = " and ".join(f"{n:,} pages of {size}" for n, size in kinds if n)
    return Target(
        name=text,
        description=f"{sum(t.accesses):,} accesses of {t.title}: {folios} touched",
        pages=t.base_pages,
        running=t.cpus,
        build=lambda setting: _build(text, t, setting),
        missing=tuple(f"left out: {n:,} {what}" for what, n in t.notes.items()),
        assumed=t.assumed,
        own_sizes=True,
        thp=round(100 * t.huge * PMD_PAGES / t.base_pages),
    )


def _build(text: str, t: Trace, s: Setting) -> tuple[Machine, Space]:
    b = Builder(s.nodes, s.cpus, free=s.free, tlb=s.tlb, huge_tlb=s.huge_tlb)
    b.splits = s.limited and t.huge > 0
    process = b.process(text, s.running, s.lazy)
    huge = base = None
    if t.huge:
        huge = b.mmap(process, t.huge * PMD_PAGES, s.node, order=PMD_ORDER)
    if len(t.pages):
        base = b.mmap(process, len(t.pages), s.node)
    m = b.build(content=s.content, seed=s.seed)
    areas = _areas(huge, t.blocks, PMD_PAGES, m.geometry.ptes) if huge else []
    areas += _areas(base, t.pages, 1, m.geometry.ptes) if base else []
    return m, Space(sorted(areas, key=lambda area: area.start))


def _areas(r: Region, number: np.ndarray, unit: int, ptes: int) -> list[Area]:
    """Runs of neighbours at their own addresses; beyond MAX_AREAS, the widest gaps.

    Addresses without a page have no entry: an area here is the list of its pages.
    """
    gap = np.diff(number)
    cut = np.flatnonzero(gap > 1)
    if len(cut) >= MAX_AREAS:
        cut = np.sort(cut[np.argsort(-gap[cut], kind="stable")[: MAX_AREAS - 1]])
    edges = np.r_[0, cut + 1, len(number)].tolist()
    return [
        Area(
            start=int(number[first]) * unit,
            pages=(last - first) * unit,
            first_pte=r.first_pte[0] + first * unit,
            first_pmd=ptes + r.first_pmd[0] + first if r.by_pmd else -1,
        )
        for first, last in itertools.pairwise(edges)
    ]
