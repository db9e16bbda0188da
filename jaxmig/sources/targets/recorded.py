"""The pages that a recorded trace touches, as a target."""

import itertools
from typing import Final

import numpy as np

from jaxmig.calls.syscalls import Area, Space
from jaxmig.programs.workloads import trace
from jaxmig.programs.workloads.trace import Tick, Trace
from jaxmig.sources.builder import Builder, Region
from jaxmig.sources.targets.target import Setting, Target
from jaxmig.state.frame import PMD_ORDER
from jaxmig.state.machine import PMD_PAGES, Machine

MAX_AREAS: Final = 4096  # a call walks them one by one


def of_trace(
    text: str, path: str, pid: int | None = None, tick: Tick = lambda n: None
) -> Target:
    """The different pages of a trace, on one node, mapped by the traced process alone.

    It runs on the CPUs of the trace; threads without one are assumed to run on 1, 2 ...

    Args:
      text: what the user wrote for the target.
      path: the trace's file.
      pid: the process to take from a trace of several.
      tick: called with the bytes that were read since the last call.
    Returns:
      The target; its pages are known, and nothing is built yet.
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


def _build(text: str, trace: Trace, setting: Setting) -> tuple[Machine, Space]:
    b = Builder(
        setting.nodes,
        setting.cpus,
        free=setting.free,
        tlb=setting.tlb,
        huge_tlb=setting.huge_tlb,
    )
    b.splits = setting.limited and trace.huge > 0
    process = b.process(text, setting.running, setting.lazy)
    huge = base = None
    if trace.huge:
        huge = b.mmap(process, trace.huge * PMD_PAGES, setting.node, order=PMD_ORDER)
    if len(trace.pages):
        base = b.mmap(process, len(trace.pages), setting.node)
    m = b.build(content=setting.content, seed=setting.seed)
    areas = _areas(huge, trace.blocks, PMD_PAGES, m.geometry.ptes) if huge else []
    areas += _areas(base, trace.pages, 1, m.geometry.ptes) if base else []
    return m, Space(sorted(areas, key=lambda area: area.start))


def _areas(region: Region, number: np.ndarray, unit: int, ptes: int) -> list[Area]:
    """Areas of consecutive pages, at most MAX_AREAS, cut at the widest gaps.

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
            first_pte=region.first_pte[0] + first * unit,
            first_pmd=ptes + region.first_pmd[0] + first if region.by_pmd else -1,
        )
        for first, last in itertools.pairwise(edges)
    ]
