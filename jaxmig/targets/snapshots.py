"""A process as a target: live, or from a snapshot with others that share its pages."""

from collections.abc import Sequence

import numpy as np

from jaxmig import resident
from jaxmig.frame import PMD_ORDER
from jaxmig.machine import PAGE_BYTES
from jaxmig.snapshot import PageFlag, Snapshot, SnapshotError
from jaxmig.targets.target import Target, TargetError
from jaxmig.terminal import printable


def of_snapshot(text: str, s: Snapshot, pid: int | None = None) -> Target:
    """A process of a snapshot; `pid` chooses where there are several."""
    which = _choose(text, s, pid)
    if s.page_size != PAGE_BYTES:
        raise SnapshotError(
            f"{text}: pages of {s.page_size} bytes; only page tables of 4 KiB pages "
            "can be modelled"
        )
    s, which = resident.around(s, which)
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
        build=lambda setting: resident.build(s, which, setting),
        nodes=int(s.node.max()) + 1,
        by_node=dict(enumerate(np.bincount(s.node).tolist())),
        foreign=int(np.maximum(s.mapcount, 1).astype(np.int64).sum()) - len(s),
        unmovable=tuple(only.unmovable()),
        missing=s.missing,
        assumed=resident.notes(s),
        own_sizes=True,
        thp=_share(s, mine),
        laid_out=s.laid_out,
    )


def _share(s: Snapshot, mine: slice) -> int:
    """Percent of the process's pages that are in THPs, rounded."""
    huge = (s.order[mine] >= PMD_ORDER) & ~s.has(PageFlag.HUGETLB)[mine]
    return round(100 * float(huge.mean()))


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
