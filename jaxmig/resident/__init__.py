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

import numpy as np

from jaxmig.resident.layout import FRAMELESS, foreign, lay_out
from jaxmig.resident.machine import build
from jaxmig.snapshot import Snapshot

__all__ = ["around", "build", "notes", "only"]


def only(s: Snapshot, process: int) -> Snapshot:
    """The rows of one process."""
    return _rows(s, s.select(process))


def around(s: Snapshot, process: int) -> Snapshot:
    """The rows of one process, and those by which others map folios of its.

    So a process of a whole machine's snapshot costs what it maps itself, and its shared
    pages are shared with whom they were: their CPUs are interrupted too.
    """
    mine = np.zeros(len(s), np.bool_)
    mine[s.select(process)] = True
    if mine.all():
        return s
    pfn, real = s.pfn.astype(np.int64), ~s.has(FRAMELESS)
    order = np.clip(s.order.astype(np.int64), 0, 62)
    head = pfn >> order << order
    # A folio of which the process maps a part is whole with the others' rows only.
    shared = np.isin(pfn, pfn[mine & real]) | np.isin(head, head[mine & real])
    return _rows(s, np.flatnonzero(mine | (shared & real)))


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
    others, leaves = foreign(s, place)
    if others.size or leaves.size:
        said.append(
            f"{others.size + leaves.size:,} mappings of these pages by processes "
            "outside the snapshot, which are taken to run on no CPU"
        )
    return tuple(said)
