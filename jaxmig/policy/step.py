"""One step with one folio: unmap, move, undo or split it.

Serial migration unmaps and moves a folio in two steps one after the other, batched
migration first unmaps a whole batch.  A step is: all tests, then the move of contents
and identity, one walk over the entries, then what is left of the old frames.  Every
part is there once, and which of them act is data.

Source: migrate_folio_unmap(), migrate_folio_move(), migrate_folio_undo_src(),
migrate_folio_undo_dst() in mm/migrate.c, split_huge_page_to_list() in mm/huge_memory.c.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, log, tlb, xla
from jaxmig.frame import FLAGS, REFCOUNT, RMAP
from jaxmig.machine import NOWHERE
from jaxmig.phases import alloc, entry as entries
from jaxmig.phases.copypage import free_folio, move_rows
from jaxmig.phases.entry import Walk, walk
from jaxmig.phases.rmap import Mapped, walked_pages
from jaxmig.phases.split import (
    leaves_of,
    loses_one_leaf,
    mappings,
    maps_zeros,
    piece_rows,
)
from jaxmig.policy import hurdles
from jaxmig.policy.attempt import DIVIDE, MOVE, UNDO, UNMAP, Folio, Plan
from jaxmig.policy.folio import (
    EAGAIN,
    FAILED,
    SUCCESS,
    UNMAPPED,
    drains,
    split_first,
)
from jaxmig.policy.hurdles import Stage
from jaxmig.policy.state import HELD, Context, State

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def step(
    c: Context, st: Stage, s: State, f: Folio, act: Index, keeps: Flag
) -> tuple[State, Plan]:
    """Do `act` to a folio; `keeps`: what must be tried again stays unmapped."""
    s, p = _decide(c, st, s, f, act, keeps)
    s = _announce(c, s, f, act, p)
    s, base = _move(c, s, f, p)
    s = s.note(
        log.FOLIO, f.head, frame.order(f.flags), log.UNDO, when=p.undone & (act == MOVE)
    )
    s, seen = _walk(c, st, s, f, act, p, base)
    s = _settle(c, s, f, act, p, base, seen)
    s = _divide(c, s, f, p, seen)
    return _give_back(c, s, f, p, base), p


def _decide(
    c: Context, st: Stage, s: State, f: Folio, act: Index, keeps: Flag
) -> tuple[State, Plan]:
    """Test what stands in the folio's way, and wear it out."""
    left, marks = cond.unpack(f.words)
    node = jnp.arange(c.g.nodes) == c.at.node
    room = jnp.where(node, s.nfree, 0).sum(dtype=jnp.int32)
    unmaps, moves, divides = act == UNMAP, act == MOVE, act == DIVIDE
    held = hurdles.Held(f.flags, f.row[REFCOUNT], f.row[RMAP] != NOWHERE)
    u = hurdles.unmap_look(c.rules, st, held, left, marks, room, s[HELD] > 0)
    v = hurdles.move_look(c.rules, st, held, left, marks)
    rc = jnp.where(unmaps, u.rc, jnp.where(moves, v.rc, SUCCESS))
    looks, mapped, empty = [(unmaps, u), (moves, v)], jnp.int32(0), jnp.int32(0)
    halved = divides & False
    if len(c.g.orders) > 1:
        mapped, empty = mappings(s.frame, f.head, jnp.where(divides, f.pages, 0))
        trylock = c.rules.split_trylocks & ~st.sleeps
        x = hurdles.split_look(held, left, marks, mapped, trylock)
        leaves = leaves_of(c.g, s.rmap_next, s.pte, f.row[RMAP], divides)
        halved = divides & (x.rc == SUCCESS) & loses_one_leaf(c.rules, f.flags, leaves)
        rc = jnp.where(halved, EAGAIN, jnp.where(divides, x.rc, rc))
        looks.append((divides, x))
    movable = f.kind == frame.MOVABLE_OPS
    released = moves & movable & ((marks & cond.RELEASED) != 0)
    done = rc == SUCCESS
    p = Plan(
        rc=rc,
        tried=unmaps & u.tried,
        taken=unmaps & (rc == UNMAPPED),
        walks=unmaps & u.walks,
        refuses=u.refuses,
        freed=unmaps & u.freed,
        released=released,
        moved=moves & done & ~released,
        undone=(act == UNDO) | (moves & ~done & (~keeps | (rc == FAILED))),
        divided=divides & done,
        halved=halved,
        zeros=divides & done & (empty > 0) & maps_zeros(c.rules, f.flags),
    )
    return _wear_out(s, f, looks, mapped), p


def _wear_out(
    s: State, f: Folio, looks: list[tuple[Flag, hurdles.Look]], read: Index
) -> State:
    """What the tests left of the folio's conditions and references.

    `read`: known once all rows that tests look at have been read.
    """
    if s.conditions is None:
        return s
    words, refs = f.words, f.row[REFCOUNT]
    for mine, seen in looks:
        words = jnp.where(mine, jnp.stack(cond.pack(seen.left, seen.marks)), words)
        refs = jnp.where(mine, seen.refs, refs)
    row = jnp.where(jnp.arange(frame.COLUMNS) == REFCOUNT, refs, f.row)
    return s.set(
        frame=xla.put(s.frame, xla.after(f.head, read), row),
        conditions=xla.put(s.conditions, f.head, words),
    )


def _announce(c: Context, s: State, f: Folio, act: Index, p: Plan) -> State:
    """Log and count the attempt."""
    order, moves = frame.order(f.flags), act == MOVE
    scope = jnp.where(moves, log.MOVE, jnp.where(act == UNDO, log.UNDO, log.UNMAP))
    s = s.note(log.FOLIO, f.head, order, scope, when=act <= UNDO)
    s = s.note(log.ALLOC, f.head, f.pages, c.at.node, when=p.tried)
    huge = order == frame.PMD_ORDER
    mapped = frame.has(f.flags, frame.UNMAPPED)
    # A copy engine has copied a batch's folios before their references are looked at.
    by_batch = (
        (f.kind != frame.MOVABLE_OPS) & (f.kind != frame.HUGETLB) & c.rules.batched
    )
    copied = frame.has(f.flags, frame.COPIED)
    lost = moves & copied & ~p.moved
    wasted = jnp.where(c.rules.offloads, lost, p.undone & by_batch)
    return s.set(
        ev=s.ev.add(
            allocs=p.tried,
            alloc_pages=jnp.where(p.tried, f.pages, 0),
            tries=p.tried,
            moves=moves,
            folios_moved=p.moved,
            folios_cached=p.moved & frame.in_page_cache(f.flags),
            pages_copied=jnp.where(p.moved & ~huge, f.pages, 0),
            pages_copied_huge=jnp.where(p.moved & huge, f.pages, 0),
            copies_wasted=jnp.where(wasted, f.pages, 0),
            copies_lost=lost,
            pages_by_cpu=jnp.where(p.moved & ~copied & c.rules.offloads, f.pages, 0),
            lru_drains=p.moved & drains(c.rules, f.flags, mapped),
        )
    )


def _move(c: Context, s: State, f: Folio, p: Plan) -> tuple[State, Index]:
    """Contents and identity to a new place; the folio's head afterwards."""
    order = frame.order(f.flags)
    top, dst = alloc.take(c.g, s.free, s.top, c.at.node, order, p.moved)
    s = s.note(log.COPY, f.head, dst, f.pages, when=p.moved)
    rows = move_rows(c.g.orders, s.frame, f.head, dst, order, p.moved)
    base = jnp.where(p.moved, dst, f.head)
    s = s.set(frame=rows, top=top)
    if s.copies is not None:
        pool = alloc.pool_of(c.g, order)
        s = s.set(copies=s.copies.add(pool, f.head, dst, p.moved))
    if s.conditions is not None:
        words = xla.read(f.head, lambda: s.conditions[f.head])
        words_left = jnp.where(p.gone | p.divided, 0, words)
        rows = xla.put(s.conditions, base, words)
        s = s.set(conditions=xla.put(rows, f.head, words_left))
    return s, base


def _walk(
    c: Context, st: Stage, s: State, f: Folio, act: Index, p: Plan, base: Index
) -> tuple[State, Mapped]:
    """Do to the folio's entries what the step does to the folio."""
    movable = f.kind == frame.MOVABLE_OPS
    back = (p.moved | p.undone) & frame.has(f.flags, frame.UNMAPPED)
    action = jnp.int32(entries.NOTHING)
    for when, what in (
        (p.walks, entries.UNMAP),
        (back, entries.REMAP),
        (p.moved & movable, entries.REPOINT),
        (p.freed | p.released, entries.ZAP),
        (p.divided | p.halved, entries.SPLIT),
    ):
        action = jnp.where(when, what, action)
    pages = walked_pages(c.g, f.row, f.pages)
    # PTEs first: those that a leaf becomes are not visited.
    first = jnp.minimum(pages - 1, 1) if c.g.shares_pmds else None
    if first is not None:
        whole = frame.order(f.flags) == frame.PMD_ORDER
        first = jnp.where((action == entries.SPLIT) & whole, first, 0)
    w = Walk(
        action=action,
        head=base,
        pages=jnp.where(action == entries.NOTHING, 0, pages),
        flags=f.flags,
        refuses=p.refuses,
        batch=jnp.where(act == DIVIDE, c.rules.split_flushes_batch, st.batch),
        cpu=c.at.cpu,
        pmd_table=c.pmd_table,
        leaves=jnp.where(p.halved, 1, NOWHERE),
        zeros=p.zeros,
        first=first,
    )
    none = jnp.int32(0)
    arrays = (s.frame, s.pte, s.rmap_next, s.cached, s.ev)
    start = Mapped(*arrays, none, none > 0, none, jnp.int32(NOWHERE))
    m = walk(c.rules, c.g, start, w)
    s = s.set(frame=m.frame, pte=m.pte, rmap_next=m.rmap_next, cached=m.cached, ev=m.ev)
    return s, m


def _settle(
    c: Context, s: State, f: Folio, act: Index, p: Plan, base: Index, seen: Mapped
) -> State:
    """The row of the folio's head after the walk."""
    row = xla.read(base, lambda: s.frame[base])
    unmapped = p.walks & ~p.refuses
    mapped = p.moved | p.undone
    # Users of a driver's page keep their references while it moves.
    remapped = mapped & frame.has(row[FLAGS], frame.UNMAPPED)
    refs = row[REFCOUNT] + jnp.where(remapped, seen.count, 0)
    refs = refs - jnp.where(unmapped, seen.count, 0)
    # As many PTEs in the place of a leaf.
    refs += jnp.where(p.halved, f.pages - 1, 0)
    flags = row[FLAGS] | jnp.where(unmapped, frame.UNMAPPED, 0)
    flags |= jnp.where(p.taken, frame.LOCKED, 0)
    flags |= jnp.where((act == UNMAP) & seen.dirty, frame.DIRTY, 0)
    flags &= ~jnp.where(mapped, frame.LOCKED | frame.UNMAPPED, 0)
    # The mark is read and cleared first of all.
    other = (f.kind == frame.MOVABLE_OPS) | (f.kind == frame.HUGETLB)
    takes = p.taken & ~other & (refs == frame.cache_refs(flags)) & c.rules.offloads
    flags = jnp.where(takes, flags | frame.COPIED, flags & ~frame.COPIED)
    # Only those whose split has failed are asked again whether they are queued.
    forgets = p.moved & split_first(c.rules, f.flags) & ~c.rules.requeues_deferred
    flags &= ~jnp.where(forgets, frame.SPLIT_QUEUED, 0)
    column = jnp.arange(frame.COLUMNS)
    row = jnp.where(column == REFCOUNT, refs, jnp.where(column == FLAGS, flags, row))
    return s.set(frame=xla.put(s.frame, base, row))


def _divide(c: Context, s: State, f: Folio, p: Plan, seen: Mapped) -> State:
    """Frames of the pieces of a folio that was split."""
    if len(c.g.orders) == 1:
        return s
    late = (p.divided | p.halved) & c.rules.split_flushes_batch
    cached, ev = tlb.flush_batch(c.rules, s.cached, s.ev, c.at.cpu, late)
    flags = f.flags | jnp.where(seen.dirty, frame.DIRTY, 0)
    pages = jnp.where(p.divided, f.pages, 0)
    rows = piece_rows(s.frame, f.head, flags, pages, p.zeros)
    return s.set(frame=rows, cached=cached, ev=ev)


def _give_back(c: Context, s: State, f: Folio, p: Plan, base: Index) -> State:
    """Frames and numbers that the step took and gave; `base`: the folio's head now."""
    order = frame.order(f.flags)
    blank = jnp.where(p.freed | p.released, f.pages, 0)
    rows = free_folio(s.frame, f.head, blank)
    # The stack has been read: a frame must not come back before that.
    head = xla.after(f.head, base)
    free, top = alloc.give(c.g, s.free, s.top, head, order, p.gone)
    node = jnp.arange(c.g.nodes)
    took = jnp.where(p.taken, f.counted, 0)
    back = jnp.where(p.undone | p.released, f.counted, 0)
    home = f.head // jnp.int32(c.g.frames_per_node)
    nfree = s.nfree + jnp.where(node == c.at.node, back - took, 0)
    nfree += jnp.where((node == home) & p.gone, f.counted, 0)
    return s.set(frame=rows, free=free, top=top, nfree=nfree)
