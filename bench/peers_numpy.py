"""A batched migration as one would write it with numpy: all pages of a call at once."""

import time

import numpy as np
from engine import Task, view
from jaxmig.state import frame, pte
from jaxmig.state.machine import NOWHERE, Machine

CARRIED = pte.STAYS | pte.CARRIED


def migrate(task: Task, m: Machine, folios: np.ndarray) -> float:
    """Seconds of numpy, which changes the arrays of `m` where they are.

    Anonymous pages with the entries of uniform.py only: what every entry becomes is
    worked out anyway, as the others do.

    Raises:
      RuntimeError: if a page could not be moved.
    """
    rows, entries, free = view(m.frame), view(m.pte), view(m.free)
    top, nfree, tags = view(m.top), view(m.nfree), view(m.tlb.entry)
    memory = None if m.memory is None else view(m.memory)
    told = np.repeat(np.asarray(m.cpus.mask[0]), tags.shape[1] // task.cpus)
    g, n = m.geometry, task.pages
    start = time.perf_counter()
    src = folios[:n]
    entry = rows[src, frame.RMAP]
    waits = _unmap(rows, entries, src, entry)
    tags[:, told] = NOWHERE
    ok = rows[src, frame.REFCOUNT] == frame.cache_refs(rows[src, frame.FLAGS])
    if not ok.all():
        raise RuntimeError("numpy: a page is held")
    top[1, 0] -= n
    nfree[1] -= n
    first = g.slots_per_node + top[1, 0]
    dst = free[first : first + n][::-1].copy()
    if memory is not None:
        memory[dst] = memory[src]
    rows[dst] = rows[src]
    rows[src] = (0, 0, 0, NOWHERE)
    _remap(rows, entries, dst, entry, waits)
    free[top[0, 0] : top[0, 0] + n] = src
    top[0, 0] += n
    nfree[0] += n
    return time.perf_counter() - start


def _unmap(
    rows: np.ndarray, entries: np.ndarray, src: np.ndarray, entry: np.ndarray
) -> np.ndarray:
    bits = entries[entry, pte.BITS]
    shared = np.where(bits & pte.EXCLUSIVE, pte.READ_EXCLUSIVE, pte.READ)
    kind = np.where(bits & pte.WRITE, pte.WRITABLE, shared)
    waits = (bits & CARRIED) | pte.MIGRATION | kind
    entries[entry, pte.BITS] = waits
    rows[src, frame.REFCOUNT] -= 1
    rows[src, frame.MAPCOUNT] = 0
    dirty = np.where(bits & pte.DIRTY, frame.DIRTY, 0)
    rows[src, frame.FLAGS] |= frame.LOCKED | frame.UNMAPPED | dirty
    return waits


def _remap(
    rows: np.ndarray,
    entries: np.ndarray,
    dst: np.ndarray,
    entry: np.ndarray,
    waits: np.ndarray,
) -> None:
    flags = rows[dst, frame.FLAGS]
    kind = waits & pte.KIND
    bits = (waits & (pte.STAYS | pte.YOUNG | pte.SOFT_DIRTY)) | pte.PRESENT
    writable = (kind == pte.WRITABLE) & ((waits & pte.VM_WRITE) != 0)
    bits |= np.where(writable, pte.WRITE, 0)
    bits |= np.where(flags & frame.DIRTY, waits & pte.DIRTY, 0)
    anon = (flags & frame.KIND) == frame.ANON
    bits |= np.where(anon & (kind != pte.READ), pte.EXCLUSIVE, 0)
    entries[entry, pte.PFN] = dst
    entries[entry, pte.BITS] = bits
    rows[dst, frame.REFCOUNT] += 1
    rows[dst, frame.MAPCOUNT] += 1
    rows[dst, frame.FLAGS] = flags & ~(frame.LOCKED | frame.UNMAPPED)
