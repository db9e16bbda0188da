"""Page tables read on the host: where each virtual page is, and what Linux would list.

A virtual page is a PTE's number; pages below a PMD leaf have a PTE number too.
"""

import numpy as np
from jaxtyping import Bool, Int32

from jaxmig import conditions as cond, frame, pte
from jaxmig.machine import NOWHERE, PMD_PAGES, Geometry, Machine

Frames = Int32[np.ndarray, " pages"]


def frames(m: Machine) -> Frames:
    """The frame behind each virtual page of all processes; NOWHERE if there is none."""
    entry = np.asarray(m.pte)
    n = m.geometry.ptes
    present = (entry[:, pte.BITS] & pte.PRESENT) != 0
    found = np.where(present[:n], entry[:n, pte.PFN], NOWHERE).astype(np.int32)
    leaves = np.flatnonzero(present[n:])
    if leaves.size:
        first = np.asarray(m.pmd_table)[leaves]
        inside = np.arange(PMD_PAGES, dtype=np.int32)
        pages = (first[:, None] + inside).ravel()
        found[pages] = (entry[n + leaves, pte.PFN][:, None] + inside).ravel()
    return found


def of_process(m: Machine, mm: int) -> Bool[np.ndarray, " pages"]:
    """Which virtual pages belong to a process."""
    bits: np.ndarray = np.asarray(m.pte)[: m.geometry.ptes, pte.BITS]
    mine: np.ndarray = (bits >> pte.MM_SHIFT) == mm
    return mine


def nodes_of(m: Machine, mm: int) -> dict[str, int]:
    """Base pages of a process on each node."""
    pages = frames(m)[of_process(m, mm)]
    node = pages[pages != NOWHERE] // m.geometry.frames_per_node
    count = np.bincount(node, minlength=m.geometry.nodes)
    return {str(n): int(pages) for n, pages in enumerate(count)}


def heads(m: Machine, mm: int, node: int, move_all: bool = True) -> Frames:
    """Head frames of the folios that migrate_pages(2) isolates, in address order.

    Args:
      move_all: MPOL_MF_MOVE_ALL; otherwise folios mapped more than once stay.
    Source: queue_folios_pte_range() in mm/mempolicy.c, Linux 6.3.
    """
    pages = frames(m)[of_process(m, mm)]
    here = pages[(pages != NOWHERE) & (pages // m.geometry.frames_per_node == node)]
    rows = np.asarray(m.frame)
    head = _head(m.geometry, here, rows[here, frame.FLAGS])
    if (head[1:] <= head[:-1]).any() or len(m.geometry.orders) > 1:
        first = np.sort(np.unique(head, return_index=True)[1])
        head = head[first]
    flags = rows[head, frame.FLAGS]
    listed = (flags & frame.LRU) != 0
    if not move_all:
        listed &= rows[head, frame.MAPCOUNT] == 1
    if m.conditions is not None:
        marks = np.asarray(m.conditions.flags)[head]
        listed &= (marks & cond.ISOLATED) == 0
    return head[listed].astype(np.int32)


def _head(g: Geometry, pfn: Frames, flags: np.ndarray) -> np.ndarray:
    """The head of the folio that each frame belongs to."""
    order = flags & frame.ORDER
    start = np.zeros(frame.ORDER + 1, np.int64)
    for k, o in enumerate(g.orders):
        start[o] = g.pool_start(k)
    base = pfn // g.frames_per_node * np.int64(g.frames_per_node) + start[order]
    head: np.ndarray = base + ((pfn - base) >> order << order)
    return head
