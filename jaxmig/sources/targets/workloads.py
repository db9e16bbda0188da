"""Workloads as targets: memory that memhog or pmbench has written before."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from jaxmig.calls.syscalls import Area, Space
from jaxmig.host.naming import TargetError
from jaxmig.sources.builder import Builder, Region
from jaxmig.sources.regions import spread
from jaxmig.sources.scenario.words import size_of, size_text
from jaxmig.sources.targets.target import Setting, Target, WhatIf
from jaxmig.state.frame import PMD_ORDER
from jaxmig.state.machine import PAGE_BYTES, PMD_PAGES, Machine

MEMHOG_CPU: Final = 5  # the published run bound it with `numactl -C 5`
PMBENCH_SETSIZE: Final = 128 << 20  # its default, as are the others below
PMBENCH_KEYS: Final = ("setsize", "mapsize", "pattern", "jobs", "ratio", "shape")
PMBENCH_PATTERNS: Final = ("linear", "uniform", "normal", "normal_ih", "pareto", "zipf")
MAX_BYTES: Final = 8 << 40  # frame numbers are 31 bits wide


def memhog(text: str, arguments: Sequence[str]) -> Target:
    """`memhog:SIZE[,thp]`: private anonymous memory, written once from end to end."""
    size = _bytes(text, arguments[0])
    huge = list(arguments[1:]) == ["thp"]
    if len(arguments) > 1 and not huge:
        raise TargetError(f"{text}: {arguments[1]!r} is unknown; only thp may follow")
    what = f"{size_text(size)} written by memhog"
    return _touched(text, size, huge, (MEMHOG_CPU,), what)


def pmbench(text: str, arguments: Sequence[str]) -> Target:
    """`pmbench:setsize=SIZE,jobs=N,...`: its working set after the warm-up.

    Thread k of N runs on CPU k, counted from 1.
    """
    values = dict(_pairs(text, arguments, PMBENCH_KEYS))
    size = _bytes(text, values["setsize"]) if "setsize" in values else PMBENCH_SETSIZE
    pattern = values.get("pattern", "uniform")
    if pattern not in PMBENCH_PATTERNS:
        known = ", ".join(PMBENCH_PATTERNS)
        raise TargetError(f"{text}: pattern {pattern!r} is unknown; use one of {known}")
    jobs = values.get("jobs", "1")
    if not (jobs.isascii() and jobs.isdigit() and 1 <= int(jobs) <= 8192):
        raise TargetError(f"{text}: jobs={jobs}: give 1 to 8192 threads")
    what = f"working set of {size_text(size)}, warmed up by pmbench with {jobs} threads"
    return _touched(text, size, False, tuple(range(1, int(jobs) + 1)), what)


def _touched(
    text: str, size: int, huge: bool, running: tuple[int, ...], what: str
) -> Target:
    """A process that wrote `size` bytes of anonymous memory."""
    pages = -(-size // PAGE_BYTES)
    w = WhatIf(thp=100 * huge, folio=0)
    return _written(text, pages, running, what, w)


def _written(
    text: str, pages: int, running: tuple[int, ...], what: str, what_if: WhatIf
) -> Target:
    """`pages` of anonymous memory: THPs first, then folios of the chosen order."""
    blocks, order = pages // PMD_PAGES, what_if.folio or 0
    large = min(round(pages * (what_if.thp or 0) / 100 / PMD_PAGES), blocks) * PMD_PAGES
    middle = (pages - large) >> order << order if order else 0

    def build(setting: Setting) -> tuple[Machine, Space]:
        b = Builder(
            setting.nodes,
            setting.cpus,
            free=setting.free,
            tlb=setting.tlb,
            huge_tlb=setting.huge_tlb,
        )
        b.splits = setting.limited and large + middle > 0
        process = b.process(text, setting.running, setting.lazy)
        regions = []
        node = setting.node if what_if.place is None else what_if.place
        parts = ((large, PMD_ORDER), (middle, order), (pages - large - middle, 0))
        for size, folio in parts:
            if size:
                regions.append(b.mmap(process, size, node, order=folio))
        held = spread(np.arange(sum(r.folios for r in regions)), what_if.pinned)
        first = 0
        for r in regions if len(held) else ():
            mine = held[(held >= first) & (held < first + r.folios)] - first
            b.condition(r, "pinned", (mine << r.order).tolist())
            first += r.folios
        m = b.build(content=setting.content, seed=setting.seed)
        return m, Space([_area(r, m.geometry.ptes) for r in regions])

    kinds = (
        (large // PMD_PAGES, "2 MiB"),
        (middle >> order, f"{4 << order} KiB"),
        (pages - large - middle, "4 KiB"),
    )
    folios = " and ".join(f"{n:,} pages of {size}" for n, size in kinds if n)
    said = (f"{what_if.pinned:g} % of the folios are pinned",) if what_if.pinned else ()
    return Target(
        text,
        f"{what}: {folios}",
        pages,
        running,
        build,
        nodes=1 + (what_if.place or 0),
        by_node={} if what_if.place is None else {what_if.place: pages},
        changed=lambda more: _written(text, pages, running, what, _both(what_if, more)),
        thp=round(100 * large / pages),
        assumed=said,
    )


def _both(old: WhatIf, new: WhatIf) -> WhatIf:
    """The changes of `new`, and those of `old` that it leaves alone."""
    asked: dict[str, Any] = dataclasses.asdict(new)
    given = {name: value for name, value in asked.items() if value not in (None, 0)}
    if new.thp is not None:
        given["thp"] = new.thp
    return dataclasses.replace(old, **given)


def _area(region: Region, ptes: int) -> Area:
    """The area of a region in its only process."""
    return Area(
        start=region.start // PAGE_BYTES,
        pages=region.pages,
        first_pte=region.first_pte[0],
        first_pmd=ptes + region.first_pmd[0] if region.by_pmd else -1,
    )


def _bytes(text: str, size: str) -> int:
    """The bytes of a size above 0."""
    n = size_of(size)
    if n is None:
        raise TargetError(f"{text}: {size!r} is no size; give one like 64m or 1g")
    if not 0 < n <= MAX_BYTES:
        most = f"a modelled machine holds at most {size_text(MAX_BYTES)}"
        raise TargetError(f"{text}: {size} of memory: give more than 0; {most}")
    return n


def _pairs(
    text: str, arguments: Sequence[str], known: Sequence[str]
) -> list[tuple[str, str]]:
    pairs = [a.partition("=") for a in arguments if a]
    for key, _, value in pairs:
        if key not in known or not value:
            raise TargetError(
                f"{text}: {key!r} is unknown or has no value; write "
                f"{known[0]}=128m,... with {', '.join(known)}"
            )
    return [(key, value) for key, _, value in pairs]


WORKLOADS: Final[dict[str, Callable[[str, Sequence[str]], Target]]] = {
    "memhog": memhog,
    "pmbench": pmbench,
}
