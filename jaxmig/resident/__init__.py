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

from jaxmig.resident.layout import foreign, lay_out
from jaxmig.resident.machine import build
from jaxmig.snapshot import Snapshot

__all__ = ["build", "notes", "only"]


def only(s: Snapshot, process: int) -> Snapshot:
    """The rows of one process."""
    rows = s.select(process)
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
