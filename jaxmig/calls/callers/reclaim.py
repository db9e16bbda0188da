"""Reclaim of clean pages of files, which are dropped instead of moved.

Source: reclaim_clean_pages_from_list(), shrink_folio_list() in mm/vmscan.c, Linux 6.1
to 7.1.  Not modelled: demotion instead, on a machine with a lower tier.
"""

import functools
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.calls.callers.candidates import Candidates, Mask
from jaxmig.calls.callers.releases import since
from jaxmig.calls.syscalls.session import Session
from jaxmig.engine.migrate import listed, replace
from jaxmig.linux import tlb
from jaxmig.linux.folio import pages_of
from jaxmig.linux.in_order import entry as entries
from jaxmig.linux.in_order.rmap import RmapState, walked_pages
from jaxmig.linux.phases import alloc
from jaxmig.linux.phases.copypage import free_folio
from jaxmig.linux.releases import Defers
from jaxmig.linux.rules import Rules, from_word
from jaxmig.state import conditions as cond, events, frame, xla
from jaxmig.state.events import Events
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT, RMAP
from jaxmig.state.machine import NOWHERE, Geometry, Machine

FOLIO_BATCH: Final = 31  # PAGEVEC_SIZE: folios that are freed together, since 6.9
Index = Int32[Array, ""]
State = tuple[Machine, tlb.Cached, Events]


def clean(candidates: Candidates) -> Mask:
    """Folios that reclaim considers: clean and evictable pages of files."""
    return (
        (candidates.kind == frame.FILE)
        & ~candidates.dirty
        & ~candidates.has(frame.MLOCKED)
    )


def unmaps(candidates: Candidates) -> Mask:
    """Those that it tries to unmap: neither locked nor under writeback."""
    held = (
        candidates.blocked(cond.LOCKED)
        | candidates.blocked(cond.WRITEBACK)
        | candidates.marked(cond.FREED)
    )
    return clean(candidates) & ~held


def reclaim(
    session: Session, candidates: Candidates, on_list: np.ndarray
) -> tuple[Mask, int]:
    """Unmap the clean folios of some lists, and free those without other references.

    Args:
      on_list: int[folios], the list that each folio is on, ascending.
    Returns:
      Which folios were freed, and their base pages.
    """
    tried = unmaps(candidates)
    gone = tried & (candidates.extra == 0) & ~candidates.blocked(cond.BUFFERS_LOCKED)
    if not tried.any():
        return gone, 0
    room, size = listed(candidates.head[tried])

    def padded(flag: np.ndarray) -> Array:
        return jnp.asarray(np.pad(flag, (0, room.shape[0] - size)))

    flushes = _flushes(session.kernel, gone[tried], on_list[tried])
    session.work(program, room, jnp.int32(size), padded(gone[tried]), padded(flushes))
    return gone, int(candidates.size[gone].sum())


def _flushes(kernel: str, gone: Mask, on_list: np.ndarray) -> Mask:
    """Folios after which pending entries are flushed: the last of a list or a batch."""
    last = np.diff(on_list, append=on_list[-1] + 1) != 0
    if not since(kernel, "6.9"):
        return last
    before = np.concatenate([[0], np.cumsum(gone)])
    freed = before[1:] - before[np.searchsorted(on_list, on_list)]
    return last | (gone & (freed % FOLIO_BATCH == 0))


@functools.cache
def program(defers: Defers | None) -> xla.Program:
    """The program that drops folios one after the other."""

    def drop(
        m: Machine,
        heads: Int32[Array, " folios"],
        size: Index,
        frees: Bool[Array, " folios"],
        flushes: Bool[Array, " folios"],
        cpu: Index,
        bits: Index,
    ) -> tuple[Machine, Events, None]:
        r = from_word(bits, defers)

        def one(i: Index, state: State) -> State:
            m, cached, ev = _drop(r, *state, heads[i], frees[i], cpu)
            cached, ev = tlb.flush_batch(r, cached, ev, cpu, flushes[i])
            return m, cached, ev

        start = (m, tlb.cached(m), events.none(m.cpus.lazy.shape[0]))
        m, cached, ev = jax.lax.fori_loop(0, size, one, start)
        return tlb.put_back(m, cached), ev, None

    return xla.Program(drop)


def _drop(
    rules: Rules,
    m: Machine,
    cached: tlb.Cached,
    ev: Events,
    head: Index,
    frees: Bool[Array, ""],
    cpu: Index,
) -> State:
    """try_to_unmap() of one folio, which is freed afterwards if it `frees`."""
    g = m.geometry
    row = xla.read(head, lambda: m.frame[head])
    flags, pages = row[FLAGS], pages_of(row[FLAGS])
    walk = entries.Walk(
        # SPLIT unmaps the pages of a file in the same way.
        action=jnp.int32(entries.SPLIT),
        head=head,
        pages=walked_pages(g, row, pages),
        flags=flags,
        refuses=jnp.asarray(False),
        batch=jnp.asarray(True),
        cpu=cpu,
        pmd_table=m.pmd_table,
        leaves=jnp.int32(NOWHERE),
        zeros=jnp.asarray(False),
        first=None,
    )
    none = jnp.int32(0)
    arrays = (m.frame, m.pte, m.rmap_next, cached, ev)
    seen = RmapState(*arrays, none, none > 0, none, jnp.int32(NOWHERE))
    seen = entries.walk(rules, g, seen, walk)
    rows = _unmapped(seen.frame, head, seen.count, pages)
    rows = free_folio(rows, head, jnp.where(frees, pages, 0))
    m = replace(m, frame=rows, pte=seen.pte, rmap_next=seen.rmap_next)
    return _give_back(g, m, head, flags, frees), seen.cached, seen.ev


def _unmapped(rows: Array, head: Index, count: Index, pages: Index) -> Array:
    """Rows of a folio that is no longer mapped, after `count` of its entries went."""

    def page(i: Index, rows: Array) -> Array:
        old = xla.read(i, lambda: rows[head + i])
        refs = old[REFCOUNT] - jnp.where(i == 0, count, 0)
        column = jnp.arange(frame.COLUMNS)
        new = jnp.where(column == REFCOUNT, refs, old)
        new = jnp.where(column == MAPCOUNT, 0, new)
        return xla.put(rows, head + i, jnp.where(column == RMAP, NOWHERE, new))

    return jax.lax.fori_loop(0, pages, page, rows)


def _give_back(
    geometry: Geometry, m: Machine, head: Index, flags: Index, frees: Bool[Array, ""]
) -> Machine:
    """Return the frames of a folio to the free stacks, if it `frees`."""
    free, top = alloc.give(geometry, m.free, m.top, head, frame.order(flags), frees)
    node = jnp.arange(geometry.nodes) == m.node_of(head)
    back = jnp.where(node & frees, pages_of(flags), 0)
    m = replace(m, free=free, top=top, nfree=m.nfree + back)
    if m.conditions is None:
        return m
    old = xla.read(head, lambda: m.conditions[head])
    return replace(m, conditions=xla.put(m.conditions, head, jnp.where(frees, 0, old)))
