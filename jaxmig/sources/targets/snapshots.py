"""A process as a target: live, or from a snapshot with others that share its pages."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxmig.host.naming import TargetError
from jaxmig.host.terminal import printable
from jaxmig.sources import resident
from jaxmig.sources.snapshot import PINS, PageFlag, Snapshot, SnapshotError
from jaxmig.sources.targets.target import Target, WhatIf
from jaxmig.state.frame import PMD_ORDER
from jaxmig.state.machine import PAGE_BYTES


def of_snapshot(text: str, snapshot: Snapshot, pid: int | None = None) -> Target:
    """A process of a snapshot; `pid` chooses one of several."""
    which = _choose(text, snapshot, pid)
    if snapshot.page_size != PAGE_BYTES:
        raise SnapshotError(
            f"{text}: pages of {snapshot.page_size} bytes; only page tables of 4 KiB pages "
            "can be modelled"
        )
    return _target(text, *resident.around(snapshot, which), WhatIf())


def _target(text: str, snapshot: Snapshot, row: int, what_if: WhatIf) -> Target:
    """The target of the snapshot as it is; only `pinned` of `what_if` is applied."""
    mine = snapshot.select(row)
    number, comm = (
        int(snapshot.processes.pid[row]),
        printable(snapshot.processes.comm[row]),
    )
    pages = int(snapshot.rss_pages[row])
    if not len(snapshot.vpn[mine]):
        raise SnapshotError(f"{text}: PID {number} ({comm}) has no resident page")
    gigantic = int(
        (snapshot.has(PageFlag.HUGETLB) & (snapshot.order > PMD_ORDER)).sum()
    )
    if gigantic:
        raise SnapshotError(
            f"{text}: PID {number} ({comm}) maps {gigantic:,} base pages of gigantic "
            "hugetlb pages (1g), which are not modelled; choose a process without them"
        )
    only = resident.only(snapshot, row)
    return Target(
        name=text,
        description=f"PID {number} ({comm}), {pages:,} pages resident (Rss)",
        pages=len(snapshot),
        running=tuple(snapshot.processes.running(row)),
        ran="where its threads last ran; see --running",
        build=lambda setting: resident.build(snapshot, row, setting, what_if.pinned),
        changed=lambda more: _changed(text, snapshot, row, what_if, more),
        nodes=int(snapshot.node.max()) + 1,
        by_node=dict(enumerate(np.bincount(snapshot.node).tolist())),
        foreign=int(np.maximum(snapshot.mapcount, 1).astype(np.int64).sum())
        - len(snapshot),
        unmovable=tuple(only.unmovable()),
        missing=(*snapshot.missing, PINS),
        assumed=(*resident.notes(snapshot), *_pins(what_if.pinned)),
        own_sizes=True,
        thp=resident.whatif.share(snapshot, row),
        areas=snapshot.named(row),
        laid_out=snapshot.laid_out,
    )


def _changed(
    text: str, snapshot: Snapshot, row: int, old: WhatIf, new: WhatIf
) -> Target:
    said = []
    if new.place is not None:
        snapshot = resident.whatif.placed(snapshot, new.place)
        said.append(f"all pages on node {new.place}")
    if new.thp is not None:
        snapshot, line = resident.whatif.thps(snapshot, row, new.thp)
        said.append(line)
    if new.folio is not None:
        snapshot, line = resident.whatif.folios(snapshot, row, new.folio)
        said.append(line)
    kept = WhatIf(pinned=new.pinned or old.pinned)
    made = _target(text, snapshot, row, kept)
    return dataclasses.replace(made, assumed=(*said, *made.assumed))


def _pins(percent: float) -> tuple[str, ...]:
    return (f"{percent:g} % of the folios are pinned",) if percent else ()


def _choose(text: str, snapshot: Snapshot, pid: int | None) -> int:
    pids = snapshot.processes.pid.tolist()
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
