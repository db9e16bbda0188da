"""From a snapshot of real processes to a Machine.

Every resident mapping becomes an entry, rows that share a frame become one folio with
several mappings.  What a page table does not tell is filled in as follows:

- A folio is kept whole if all of its pages are mapped here; pages of others (a file's
  large folio of which a library maps a part) become folios of their own.
- Mappings counted by Linux but not in the snapshot belong to other processes.  They
  become entries of one more process that runs on no CPU: reference counts are right
  and shared pages count as shared, but these mappings cost no IPI.
- References that no mapping explains (pins, I/O under way) cannot be seen: none.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxmig.procfs import Areas, Processes
from jaxmig.resident import whatif
from jaxmig.resident.layout import FRAMELESS, foreign_count, lay_out
from jaxmig.resident.machine import build
from jaxmig.snapshot import Snapshot

__all__ = ["around", "build", "notes", "only", "whatif"]


def only(s: Snapshot, process: int) -> Snapshot:
    """The rows of one process."""
    return _rows(s, s.select(process))


def around(s: Snapshot, process: int) -> tuple[Snapshot, int]:
    """The rows of one process, and those by which others map folios of its.

    So a process of a whole machine's snapshot costs what it maps itself, and its shared
    pages are shared with whom they were: their CPUs are interrupted too.

    Returns:
      The snapshot without processes and areas of no such row, and the process's row in it.
    """
    mine = np.zeros(len(s), np.bool_)
    mine[s.select(process)] = True
    pfn, real = s.pfn.astype(np.int64), ~s.has(FRAMELESS)
    order = np.clip(s.order.astype(np.int64), 0, 62)
    head = pfn >> order << order
    # A folio of which the process maps a part is whole with the others' rows only.
    shared = np.isin(pfn, pfn[mine & real]) | np.isin(head, head[mine & real])
    cut = _rows(s, np.flatnonzero(mine | (shared & real)))
    processes = np.union1d(cut.process, [process])
    areas = np.unique(cut.area)
    made = dataclasses.replace(
        cut,
        process=np.searchsorted(processes, cut.process).astype(np.int32),
        area=np.searchsorted(areas, cut.area).astype(np.int32),
        areas=_areas(s.areas, areas, processes),
        processes=_processes(s.processes, processes),
    )
    return made, int(np.searchsorted(processes, process))


def _areas(a: Areas, kept: np.ndarray, processes: np.ndarray) -> Areas:
    columns = {
        f.name: _take(getattr(a, f.name), kept) for f in dataclasses.fields(Areas)
    }
    columns["process"] = np.searchsorted(processes, columns["process"]).astype(np.int32)
    return Areas(**columns)


def _processes(p: Processes, kept: np.ndarray) -> Processes:
    threads = np.isin(p.thread_process, kept)
    return Processes(
        pid=p.pid[kept],
        rss=p.rss[kept],
        statm=p.statm[kept],
        thread_process=np.searchsorted(kept, p.thread_process[threads]).astype(
            np.int32
        ),
        tid=p.tid[threads],
        thread_cpu=p.thread_cpu[threads],
        comm=_take(p.comm, kept),
    )


def _take(column: Any, kept: np.ndarray) -> Any:
    """Some rows of a column, which is an array or a tuple of words."""
    if isinstance(column, tuple):
        return tuple(column[i] for i in kept.tolist())
    return column[kept]


def _rows(s: Snapshot, rows: slice | np.ndarray) -> Snapshot:
    columns = ("process", "area", "vpn", "pfn", "flags", "node", "order", "mapcount")
    cut = {name: getattr(s, name)[rows] for name in (*columns, "kpageflags")}
    return dataclasses.replace(s, **cut)


def notes(s: Snapshot) -> tuple[str, ...]:
    """What the machine leaves out or assumes, each as one line."""
    place = lay_out(s)
    said = []
    parts = (s.order > 0) & (place.folio >= 0)
    parts &= place.order[np.maximum(place.folio, 0)] == 0
    if parts.any():
        said.append(
            f"{int(parts.sum()):,} pages of large folios not wholly mapped here are "
            "taken as pages of their own"
        )
    if others := foreign_count(s, place):
        said.append(
            f"{others:,} mappings of these pages by processes "
            "outside the snapshot, which are taken to run on no CPU"
        )
    return tuple(said)
