"""From a snapshot of real processes to a Machine.

Every resident mapping becomes an entry; rows that share a frame become one folio with
several mappings.  Where the page table has no data:

- A large folio is kept whole if all its pages are mapped here.  Otherwise (a library maps
  a part of a file's large folio) each mapped page becomes a folio of one page.
- Mappings counted by Linux but not in the snapshot belong to other processes.  They
  become entries of one more process that runs on no CPU: reference counts are right
  and shared pages count as shared, but these mappings cost no IPI.
- References that no mapping explains (pins, I/O) cannot be seen, and are left out.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxmig.sources.procfs import Areas, Processes
from jaxmig.sources.resident import whatif
from jaxmig.sources.resident.layout import FRAMELESS, foreign_count, lay_out
from jaxmig.sources.resident.machine import build
from jaxmig.sources.snapshot import Snapshot

__all__ = ["around", "build", "notes", "only", "whatif"]


def only(snapshot: Snapshot, process: int) -> Snapshot:
    """The rows of one process."""
    return _rows(snapshot, snapshot.select(process))


def around(snapshot: Snapshot, process: int) -> tuple[Snapshot, int]:
    """The rows of one process, and the rows of others that map its folios.

    So the machine is no larger than the process's own memory, and its shared pages are
    shared with the same processes, whose CPUs are interrupted too.

    Returns:
      The snapshot with these rows and their processes and areas, and the process's row
      in `processes`.
    """
    mine = np.zeros(len(snapshot), np.bool_)
    mine[snapshot.select(process)] = True
    pfn, real = snapshot.pfn.astype(np.int64), ~snapshot.has(FRAMELESS)
    order = np.clip(snapshot.order.astype(np.int64), 0, 62)
    head = pfn >> order << order
    # A folio of which the process maps a part may be whole with the others' rows.
    shared = np.isin(pfn, pfn[mine & real]) | np.isin(head, head[mine & real])
    cut = _rows(snapshot, np.flatnonzero(mine | (shared & real)))
    processes = np.union1d(cut.process, [process])
    areas = np.unique(cut.area)
    made = dataclasses.replace(
        cut,
        process=np.searchsorted(processes, cut.process).astype(np.int32),
        area=np.searchsorted(areas, cut.area).astype(np.int32),
        areas=_areas(snapshot.areas, areas, processes),
        processes=_processes(snapshot.processes, processes),
    )
    return made, int(np.searchsorted(processes, process))


def _areas(table: Areas, kept: np.ndarray, processes: np.ndarray) -> Areas:
    columns = {
        f.name: _take(getattr(table, f.name), kept) for f in dataclasses.fields(Areas)
    }
    columns["process"] = np.searchsorted(processes, columns["process"]).astype(np.int32)
    return Areas(**columns)


def _processes(table: Processes, kept: np.ndarray) -> Processes:
    threads = np.isin(table.thread_process, kept)
    return Processes(
        pid=table.pid[kept],
        rss=table.rss[kept],
        statm=table.statm[kept],
        thread_process=np.searchsorted(kept, table.thread_process[threads]).astype(
            np.int32
        ),
        tid=table.tid[threads],
        thread_cpu=table.thread_cpu[threads],
        comm=_take(table.comm, kept),
    )


def _take(column: Any, kept: np.ndarray) -> Any:
    """Some rows of a column, which is an array or a tuple of words."""
    if isinstance(column, tuple):
        return tuple(column[i] for i in kept.tolist())
    return column[kept]


def _rows(snapshot: Snapshot, kept: slice | np.ndarray) -> Snapshot:
    columns = ("process", "area", "vpn", "pfn", "flags", "node", "order", "mapcount")
    cut = {name: getattr(snapshot, name)[kept] for name in (*columns, "kpageflags")}
    return dataclasses.replace(snapshot, **cut)


def notes(snapshot: Snapshot) -> tuple[str, ...]:
    """Lines about what the machine leaves out or assumes."""
    place = lay_out(snapshot)
    said = []
    parts = (snapshot.order > 0) & (place.folio >= 0)
    parts &= place.order[np.maximum(place.folio, 0)] == 0
    if parts.any():
        said.append(
            f"{int(parts.sum()):,} pages of large folios not wholly mapped here are "
            "taken as pages of their own"
        )
    if others := foreign_count(snapshot, place):
        said.append(
            f"{others:,} more mappings of these pages by processes outside the "
            "snapshot, which run on no CPU: each is walked, none costs an IPI"
        )
    return tuple(said)
