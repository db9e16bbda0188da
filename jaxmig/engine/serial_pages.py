"""Serial migration of base pages that are mapped at most once, in one loop for CPUs.

The same attempt as in `in_order/run.py`, one folio an iteration: unmap, flush, copy,
remap.  Without conditions and shared pages an attempt has no inner loops: an iteration
is one block of reads and one row of writes.  IPIs, which no iteration needs, are counted
afterwards as flushes times masks.

Source: migrate_pages(), unmap_and_move() in mm/migrate.c, Linux 6.1 and 6.2.
"""

import dataclasses
import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt32

from jaxmig.linux import tlb
from jaxmig.linux.call import CallState
from jaxmig.linux.folio import ENOMEM, Where
from jaxmig.linux.phases import flush
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, pte, xla
from jaxmig.state.events import Events
from jaxmig.state.frame import FLAGS, REFCOUNT, RMAP
from jaxmig.state.machine import BLANK, NOWHERE, Geometry, Machine
from jaxmig.state.pytree import pytree

PASSES: Final = 10

Index = Int32[Array, ""]


# Registers: counts of an iteration, in one array, since each array that a loop carries
# costs instructions of its own.  Behind them Machine.top and nfree of every node.
KEPT, MOVED, FREED, MAPPED, TRIES, WALKS, SHORT, CACHED = range(8)
REGISTERS: Final = 8


@pytree
class SerialState:
    """What one iteration hands to the next."""

    frame: Int32[Array, "frames 4"]
    memory: UInt32[Array, "frames 1024"] | None
    pte: Int32[Array, "entries 2"]
    tags: Int32[Array, "sets cpus*ways"]  # of the TLBs for base pages
    free: Int32[Array, " slots"]
    todo: Int32[Array, " folios"]  # `from`, compacted to what is retried
    reg: Int32[Array, " registers"]
    flushes: Int32[Array, " mms"]


@dataclasses.dataclass(frozen=True)
class FolioRead:
    """All that an iteration reads; its writes come afterwards."""

    src: Index
    row: Int32[Array, " 4"]
    old: Int32[Array, " 2"]
    dst: Index
    tags: Int32[Array, " cpus*ways"]
    reached: Array  # slots of `tags` of the CPUs that a flush reaches


def fits(m: Machine) -> bool:
    """Whether a machine has only base pages, unshared, and no conditions."""
    return m.geometry.orders == (0,) and not m.geometry.shared and m.conditions is None


def _read_folio(
    geometry: Geometry, state: SerialState, i: Index, at: Where, lanes: Array
) -> FolioRead:

    def reads() -> tuple[Any, ...]:
        src = state.todo[i]
        row = state.frame[src]
        entry = jnp.where(row[RMAP] == NOWHERE, 0, row[RMAP])
        old = state.pte[entry]
        # With nothing left the stack's first slot is read and not used.
        top = jnp.maximum(state.reg[REGISTERS + at.node] - 1, 0)
        dst = state.free[at.node * geometry.slots_per_node + top]
        tags = state.tags[entry % state.tags.shape[0]]
        if mms == 1:
            return src, row, old, dst, tags
        mm = jnp.clip(pte.mm_of(old[pte.BITS]), 0, mms - 1)
        return src, row, old, dst, tags, lanes[mm]

    mms = lanes.shape[0]
    seen = xla.read(i, reads)
    return FolioRead(*(seen if mms > 1 else (*seen, lanes[0])))


def _migrate_one(
    geometry: Geometry, state: SerialState, i: Index, at: Where, lanes: Array
) -> SerialState:
    look = _read_folio(geometry, state, i, at, lanes)
    src, row, old = look.src, look.row, look.old
    bits, flags = old[pte.BITS], row[FLAGS]
    mapped = row[RMAP] != NOWHERE
    entry = jnp.where(mapped, row[RMAP], 0)
    freed = row[REFCOUNT] == 0
    room = state.reg[REGISTERS + geometry.nodes + at.node]
    short = (room < 1) & ~freed
    going = ~freed & ~short
    walked = going & mapped
    flushed = walked & pte.accessible(bits)
    ok = going & (row[REFCOUNT] - mapped == frame.cache_refs(flags))
    target = jnp.where(ok, look.dst, src)
    # unmap: the entry is a migration entry during the flush
    waits = jnp.where(walked, pte.to_migration(bits), bits)
    entries = xla.put(state.pte, entry, pair(old[pte.PFN], waits))
    # flush: the CPUs of the mask drop this page
    dead = (look.tags == entry) & look.reached & flushed
    row_of_tags = jnp.where(dead, NOWHERE, look.tags)
    tags = xla.put(state.tags, entry % state.tags.shape[0], row_of_tags)
    # copy, and the row of the folio; without a destination the source is rewritten
    memory = _copy(state.memory, src, target)
    dirty = walked & pte.has(bits, pte.DIRTY)
    flags = flags | jnp.where(dirty, frame.DIRTY, 0)
    gone = ok | freed
    blank = jnp.asarray(BLANK, jnp.int32)
    whole = jnp.where(jnp.arange(4) == FLAGS, flags, row)
    rows = xla.put(state.frame, src, jnp.where(gone, blank, whole))
    rows = xla.put(rows, target, jnp.where(freed, blank, whole))
    # remap: to the destination, or to the source again
    word = pte.from_migration(
        pte.to_migration(bits), frame.is_anon(flags), frame.has(flags, frame.DIRTY)
    )
    zapped = freed & mapped
    word = jnp.where(walked, word, jnp.where(zapped, pte.empty(bits), bits))
    pfn = jnp.where(zapped, NOWHERE, jnp.where(walked, target, old[pte.PFN]))
    entries = xla.put(entries, entry, pair(pfn, word))
    # The slot above the top is unused: it may be written even if src is not pushed.
    home = src // jnp.int32(geometry.frames_per_node)
    # Within the target node the destination has just been popped.
    top = state.reg[REGISTERS + home] - (ok & (home == at.node))
    again = going & ~ok
    cached = ok & frame.in_page_cache(flags)
    counted = (again, ok, freed, ok & mapped, going, walked, short, cached)
    reg = _register(state.reg, counted, geometry.nodes, (home, gone), (at.node, ok))
    mm = pte.mm_of(bits) if lanes.shape[0] > 1 else jnp.int32(0)
    return SerialState(
        frame=rows,
        memory=memory,
        pte=entries,
        tags=tags,
        free=xla.put(state.free, home * geometry.slots_per_node + top, src),
        todo=xla.put(state.todo, state.reg[KEPT], src),
        reg=reg,
        flushes=state.flushes + (jnp.arange(state.flushes.shape[0]) == mm) * flushed,
    )


def _register(
    reg: Array, counted: tuple[Array, ...], nodes: int, back: Any, out: Any
) -> Array:
    """The registers after an iteration; sums of masks fuse, a stack would not."""
    index = jnp.arange(reg.shape[0])
    for i, happened in enumerate(counted):
        reg = reg + ((index == i) & happened)
    for first in (REGISTERS, REGISTERS + nodes):
        reg = reg + ((index == first + back[0]) & back[1])
        reg = reg - ((index == first + out[0]) & out[1])
    return reg


def pair(pfn: Index, word: Index) -> Int32[Array, " 2"]:
    """Both words of an entry."""
    return jnp.where(jnp.arange(2) == pte.PFN, pfn, word)


def _copy(memory: Array | None, src: Index, target: Index) -> Array | None:
    if memory is None:
        return None
    return xla.put(memory, target, xla.read(src, lambda: memory[src]))


def one_pass(
    geometry: Geometry, state: SerialState, size: Index, at: Where, lanes: Array
) -> tuple[SerialState, Index]:
    """One pass over the first `size` of the list.

    Args:
      size: int32.
      at: the migrating CPU and the target node.
      lanes: bool[mms, cpus*ways], TLB slots that a flush of each address space reaches.
    Returns:
      The state with the list compacted; int32, folios on it, to be retried.
    Source: migrate_pages() in mm/migrate.c, Linux 6.2.
    """

    def go_on(carry: tuple[SerialState, Index]) -> Array:
        return (carry[1] < size) & (carry[0].reg[SHORT] == 0)

    def body(carry: tuple[SerialState, Index]) -> tuple[SerialState, Index]:
        return _migrate_one(geometry, carry[0], carry[1], at, lanes), carry[1] + 1

    state = dataclasses.replace(state, reg=state.reg.at[KEPT].set(0))
    state, _ = jax.lax.while_loop(go_on, body, (state, jnp.int32(0)))
    return state, state.reg[KEPT]


def migrate_serial_pages(
    rules: Rules, call: CallState, at: Where, passes: int = PASSES
) -> CallState:
    """The whole call on `call.todo`, for machines that `fits()`.

    Args:
      at: the migrating CPU and the target node.
      passes: the most passes over the list.
    Returns:
      The call, with its result in stats.failed and error.
    Source: migrate_pages() in mm/migrate.c, Linux 6.2.
    """
    m, cpus = call.m, call.m.cpus
    reached = cpus.mask & ~cpus.lazy
    # A TLBI reaches every CPU, whatever it runs.
    if rules.broadcasts:
        reached = reached | True
    lanes = jax.vmap(lambda c: tlb.lanes_of(c, m.tlb))(reached)
    arrays = (m.frame, m.memory, m.pte, m.tlb.entry, m.free, call.todo.folios)
    stacks = jnp.concatenate([m.top[:, 0], m.nfree])
    all_passes = functools.partial(_passes, m.geometry, passes)
    t = xla.whole(all_passes, arrays, stacks, call.todo.size, at, lanes)
    return _finish(rules, call, t, at)


def _passes(
    geometry: Geometry,
    passes: int,
    arrays: tuple[Any, ...],
    stacks: Int32[Array, " numbers"],
    size: Index,
    at: Where,
    lanes: Array,
) -> SerialState:
    """All passes, until nothing is left to retry or memory ends."""
    # Constants are made here: as arguments XLA would remove them (see `xla.whole`).
    reg = jnp.concatenate([jnp.zeros(REGISTERS, jnp.int32), stacks])
    rows, memory, entries, tags, free, todo = arrays
    none = jnp.zeros(lanes.shape[0], jnp.int32)
    t = SerialState(rows, memory, entries, tags, free, todo, reg, none)

    def go_on(carry: tuple[SerialState, Index, Index]) -> Array:
        t, size, n = carry
        return (n < passes) & (size > 0) & (t.reg[SHORT] == 0)

    def body(
        carry: tuple[SerialState, Index, Index],
    ) -> tuple[SerialState, Index, Index]:
        t, size, n = carry
        t, size = one_pass(geometry, t, size, at, lanes)
        return t, size, n + 1

    return jax.lax.while_loop(go_on, body, (t, size, jnp.int32(0)))[0]


def _finish(rules: Rules, call: CallState, state: SerialState, at: Where) -> CallState:
    """The call after the last pass: counters, TLB generations, statistics."""
    nodes, cpus, reg = call.m.geometry.nodes, call.m.cpus, state.reg
    m = dataclasses.replace(
        call.m,
        frame=state.frame,
        memory=state.memory,
        pte=state.pte,
        tlb=dataclasses.replace(call.m.tlb, entry=state.tags),
        free=state.free,
        top=reg[REGISTERS : REGISTERS + nodes, None],
        nfree=reg[REGISTERS + nodes :],
    )
    asked = flush.FlushRequests(state.flushes < 0, state.flushes, state.flushes * 0)
    m = tlb.drop_all_sizes(m, flush.emptied(rules, cpus, asked))
    flushes = dataclasses.replace(flush.no_flushes(cpus), one=state.flushes)
    # -ENOMEM: nr_failed counts the folio without memory, nr_failed_pages also the retries.
    short, kept = reg[SHORT], reg[KEPT]
    failed = jnp.where(short == 1, 1, kept)
    return call.set(
        m=flush.catch_up(rules, m, flushes, at.cpu),
        ev=flush.count_immediate(rules, _count(call.ev, reg), flushes, cpus, at.cpu),
        stats=call.stats.add(failed=failed, failed_pages=kept + short),
        remaining=call.remaining + kept,
        error=jnp.where(short == 1, ENOMEM, call.error),
        in_order=call.in_order + call.todo.size,
    )


def _count(ev: Events, reg: Int32[Array, " registers"]) -> Events:
    """Events of a call with these registers."""
    return ev.add(
        pgmigrate_success=reg[MOVED] + reg[FREED],
        allocs=reg[TRIES],
        alloc_pages=reg[TRIES],
        tries=reg[TRIES],
        ptes_cleared=reg[WALKS],
        moves=reg[TRIES],
        folios_moved=reg[MOVED],
        folios_cached=reg[CACHED],
        pages_copied=reg[MOVED],
        ptes_set=reg[WALKS],
        lru_drains=reg[MAPPED],
    )
