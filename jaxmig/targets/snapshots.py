"""A process as a target: live, or from a snapshot with others that share its pages."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmig import resident
from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PAGE_BYTES
from jaxmig.naming import TargetError
from jaxmig.snapshot import PageFlag, Snapshot, SnapshotError
from jaxmig.targets.target import Target, WhatIf
from jaxmig.terminal import printable


def of_snapshot(text: str, s: Snapshot, pid: int | None = None) -> Target:
    """A process of a snapshot; `pid` chooses where there are several."""
    which = _choose(text, s, pid)
    if s.page_size != PAGE_BYTES:
        raise SnapshotError(
            f"{text}: pages of {s.page_size} bytes; only page tables of 4 KiB pages "
            "can be modelled"
        )
    return _target(text, *resident.around(s, which), WhatIf())


def _target(text: str, s: Snapshot, which: int, w: WhatIf) -> Target:
    """The target of the snapshot as it is; of `w` only what is no matter of rows."""
    mine = s.select(which)
    number, comm = int(s.processes.pid[which]), printable(s.processes.comm[which])
    pages = int(s.rss_pages[which])
    if not len(s.vpn[mine]):
        raise SnapshotError(f"{text}: PID {number} ({comm}) has no resident page")
    gigantic = int((s.has(PageFlag.HUGETLB) & (s.order > PMD_ORDER)).sum())
    if gigantic:
        raise SnapshotError(
            f"{text}: PID {number} ({comm}) maps {gigantic:,} base pages of gigantic "
            "hugetlb pages (1g), which are not modelled; choose a process without them"
        )
    only = resident.only(s, which)
    return Target(
        name=text,
        description=f"PID {number} ({comm}), {pages:,} pages resident (Rss)",
        pages=len(s),
        running=tuple(s.processes.running(which)),
        build=lambda setting: resident.build(s, which, setting, w.pinned),
        changed=lambda more: _changed(text, s, which, w, more),
        nodes=int(s.node.max()) + 1,
        by_node=dict(enumerate(np.bincount(s.node).tolist())),
        foreign=int(np.maximum(s.mapcount, 1).astype(np.int64).sum()) - len(s),
        unmovable=tuple(only.unmovable()),
        missing=s.missing,
        assumed=(*resident.notes(s), *_pins(w.pinned)),
        own_sizes=True,
        thp=resident.whatif.share(s, which),
        areas=s.named(which),
        laid_out=s.laid_out,
    )


def _changed(text: str, s: Snapshot, which: int, old: WhatIf, w: WhatIf) -> Target:
    said = []
    if w.place is not None:
        s = resident.whatif.placed(s, w.place)
        said.append(f"all pages on node {w.place}")
    if w.thp is not None:
        s, line = resident.whatif.thps(s, which, w.thp)
        said.append(line)
    if w.folio is not None:
        s, line = resident.whatif.folios(s, which, w.folio)
        said.append(line)
    kept = WhatIf(pinned=w.pinned or old.pinned)
    made = _target(text, s, which, kept)
    return dataclasses.replace(made, assumed=(*said, *made.assumed))


def _pins(percent: int) -> tuple[str, ...]:
    return (f"{percent} % of the folios are pinned",) if percent else ()


def _choose(text: str, s: Snapshot, pid: int | None) -> int:
    pids = s.processes.pid.tolist()
    if pid is not None and pid not in pids:
        raise SnapshotError(f"{text}: holds no PID {pid}; it has {_few(pids)}")
    if pid is None and len(pids) != 1:
        raise TargetError(
            f"{text}: holds {len(pids)} processes; choose one as {text}:PID or with "
            f"--pid: {_few(pids)}"
        )
    return 0 if pid is None else pids.index(pid)


def _few(pids: Sequence[int]) -> str:
    more = f" and {len(pids) - 8} more" if len(pids) > 8 else ""
    return ", ".join(map(str, pids[:8])) + more
