"""One step with one folio: unmap, move, undo or split it.

Serial migration unmaps and moves a folio in two steps one after the other, batched
migration first unmaps a whole batch.  A step is: all tests, then the move of contents
and row, one rmap walk, then the old frames.  Each part is compiled once; the flags of
the StepPlan select which of them act.

Source: migrate_folio_unmap(), migrate_folio_move(), migrate_folio_undo_src(),
migrate_folio_undo_dst() in mm/migrate.c, split_huge_page_to_list() in mm/huge_memory.c.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import checks, tlb
from jaxmig.linux.attempt_result import AttemptResult
from jaxmig.linux.checks import Stage
from jaxmig.linux.folio import (
    EAGAIN,
    FAILED,
    SUCCESS,
    UNMAPPED,
    drains,
    is_freed,
    split_first,
)
from jaxmig.linux.in_order import entry as entries
from jaxmig.linux.in_order.attempt import DIVIDE, MOVE, UNDO, UNMAP, Folio, StepPlan
from jaxmig.linux.in_order.carried import UNMAP_FOLIOS, Context, State
from jaxmig.linux.in_order.entry import Walk, walk
from jaxmig.linux.in_order.rmap import RmapState, walked_pages
from jaxmig.linux.in_order.split import (
    leaves_of,
    loses_one_leaf,
    mappings,
    maps_zeros,
    piece_rows,
)
from jaxmig.linux.in_order.target import choose
from jaxmig.linux.phases import alloc
from jaxmig.linux.phases.copypage import free_folio, move_rows
from jaxmig.state import conditions as cond, frame, log, xla
from jaxmig.state.frame import FLAGS, REFCOUNT, RMAP
from jaxmig.state.machine import NOWHERE

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


def step(
    context: Context, st: Stage, state: State, folio: Folio, act: Index, keeps: Flag
) -> tuple[State, StepPlan]:
    """Do `act` to a folio.

    Args:
      st: what this pass may do: TTU_BATCH_FLUSH, sleep.
      folio: the folio as it is.
      act: int32, UNMAP ... SKIP of attempt.py.
      keeps: whether a folio that ends with -EAGAIN stays unmapped for the next pass.
    Returns:
      The state, and what was done.
    Source: migrate_folio_unmap(), migrate_folio_move() in mm/migrate.c.
    """
    state, p = _decide(context, st, state, folio, act, keeps)
    state = _announce(context, state, folio, act, p)
    state, base = _move(context, state, folio, p)
    order, undone = frame.order(folio.flags), p.undone & (act == MOVE)
    state = state.note(log.FOLIO, folio.head, order, log.UNDO, when=undone)
    state, seen = _walk(context, st, state, folio, act, p, base)
    state = _update_head(context, state, folio, act, p, base, seen)
    state = _divide(context, state, folio, p, seen)
    return _give_back(context, state, folio, p, base), p


def _decide(
    context: Context, st: Stage, state: State, folio: Folio, act: Index, keeps: Flag
) -> tuple[State, StepPlan]:
    """Run the checks of the step; conditions that last a number of tests count down."""
    left, marks = cond.unpack(folio.words)
    unmaps, moves, divides = act == UNMAP, act == MOVE, act == DIVIDE
    where = (folio.head, folio.counted, unmaps)
    to = choose(context.at, state.placed, state.nfree, *where)
    node = jnp.arange(context.geometry.nodes) == to
    room = jnp.where(node, state.nfree, 0).sum(dtype=jnp.int32)
    chained = folio.row[RMAP] != NOWHERE
    seen = checks.FolioView(folio.flags, folio.row[REFCOUNT], chained)
    held = state[UNMAP_FOLIOS] > 0
    mapped = empty = leaves = jnp.int32(0)
    splits = len(context.geometry.orders) > 1
    if splits:
        pages = jnp.where(divides, folio.pages, 0)
        mapped, empty = mappings(state.frame, folio.head, pages)
        chains = (state.rmap_next, state.pte, folio.row[RMAP])
        leaves = leaves_of(context.geometry, *chains, divides)

    def found() -> Index:
        """All checks are computed, and those of `act` chosen."""
        u = checks.check_unmap(context.rules, st, seen, left, marks, room, held)
        v = checks.check_move(context.rules, st, seen, left, marks)
        word = jnp.where(unmaps, u.word, jnp.where(moves, v.word, SUCCESS))
        if not splits:
            return word
        trylock = context.rules.split_trylocks & ~st.sleeps
        freed = st.isolated & is_freed(False, folio.flags, seen.refs, marks)
        x = checks.check_split(seen, left, marks, mapped, trylock, freed)
        return jnp.where(divides, x.word, word)

    result = AttemptResult(xla.once(folio.head, found))
    halved = divides & (result.rc == SUCCESS)
    halved &= loses_one_leaf(context.rules, folio.flags, leaves)
    rc = jnp.where(halved, EAGAIN, result.rc)
    # Its driver has released the page meanwhile: MIGRATEPAGE_SUCCESS without a move.
    movable = folio.kind == frame.MOVABLE_OPS
    released = moves & movable & ((marks & cond.RELEASED) != 0)
    done = rc == SUCCESS
    p = StepPlan(
        rc=rc,
        node=to,
        tried=result.has("tried"),
        taken=unmaps & (rc == UNMAPPED),
        walks=result.has("walks"),
        refuses=result.has("refuses"),
        freed=result.has("freed"),
        released=released,
        moved=moves & done & ~released,
        undone=(act == UNDO) | (moves & ~done & (~keeps | (rc == FAILED))),
        divided=divides & done,
        halved=halved,
        zeros=divides & done & (empty > 0) & maps_zeros(context.rules, folio.flags),
    )
    if state.placed is not None:
        placed = state.placed.reserve(context.at, folio.head, to, p.tried)
        state = state.set(placed=placed)
    return _wear_out(state, folio, result, mapped), p


def _wear_out(state: State, folio: Folio, result: AttemptResult, read: Index) -> State:
    """What the tests left of the folio's conditions and references.

    `read`: a value that depends on all reads of the tests; the writes must follow them.
    """
    if state.conditions is None:
        return state
    settled = result.settled(folio.words, folio.row[REFCOUNT], folio.flags)
    words, refs = jnp.stack(settled[0]), settled[1]
    row = jnp.where(jnp.arange(frame.COLUMNS) == REFCOUNT, refs, folio.row)
    return state.set(
        frame=xla.put(state.frame, xla.after(folio.head, read), row),
        conditions=xla.put(state.conditions, folio.head, words),
    )


def _announce(
    context: Context, state: State, folio: Folio, act: Index, plan: StepPlan
) -> State:
    """Log and count the attempt."""
    order, moves = frame.order(folio.flags), act == MOVE
    scope = jnp.where(moves, log.MOVE, jnp.where(act == UNDO, log.UNDO, log.UNMAP))
    state = state.note(log.FOLIO, folio.head, order, scope, when=act <= UNDO)
    rules, what = context.rules, (folio.head, folio.pages, plan.node)
    state = state.note(log.ALLOC, *what, when=plan.tried)
    huge = order == frame.PMD_ORDER
    mapped = frame.has(folio.flags, frame.UNMAPPED)
    # With batch copying the copy precedes the reference check: a move that fails wastes it.
    by_batch = (folio.kind != frame.MOVABLE_OPS) & (folio.kind != frame.HUGETLB)
    copied = frame.has(folio.flags, frame.COPIED)
    by_cpu = plan.moved & ~copied & rules.offloads
    lost = moves & copied & ~plan.moved
    wasted = jnp.where(rules.offloads, lost, plan.undone & by_batch & rules.batched)
    return state.set(
        ev=state.ev.add(
            allocs=plan.tried,
            alloc_pages=jnp.where(plan.tried, folio.pages, 0),
            tries=plan.tried,
            moves=moves,
            folios_moved=plan.moved,
            folios_cached=plan.moved & frame.in_page_cache(folio.flags),
            pages_copied=jnp.where(plan.moved & ~huge, folio.pages, 0),
            pages_copied_huge=jnp.where(plan.moved & huge, folio.pages, 0),
            copies_wasted=jnp.where(wasted, folio.pages, 0),
            copies_lost=lost,
            pages_by_cpu=jnp.where(by_cpu, folio.pages, 0),
            lru_drains=plan.moved & drains(rules, folio.flags, mapped),
        )
    )


def _move(
    context: Context, state: State, folio: Folio, plan: StepPlan
) -> tuple[State, Index]:
    """Contents and rows to the destination; also the folio's head afterwards."""
    order, geometry, node = frame.order(folio.flags), context.geometry, plan.node
    if state.placed is not None:
        placed = state.placed.popped(geometry, state.top, node, order, plan.moved)
        state = state.set(placed=placed)
    top, dst = alloc.take(geometry, state.free, state.top, node, order, plan.moved)
    state = state.note(log.COPY, folio.head, dst, folio.pages, when=plan.moved)
    orders = geometry.orders
    rows = move_rows(orders, state.frame, folio.head, dst, order, plan.moved)
    base = jnp.where(plan.moved, dst, folio.head)
    state = state.set(frame=rows, top=top)
    if state.copies is not None:
        pool = alloc.pool_of(geometry, order)
        state = state.set(copies=state.copies.add(pool, folio.head, dst, plan.moved))
    if state.conditions is not None:
        kept = state.conditions
        words = xla.read(folio.head, lambda: xla.row(kept, folio.head))
        # Conditions follow the folio; a split or freed one has none.
        words_left = jnp.where(plan.gone | plan.divided, 0, words)
        rows = xla.put(state.conditions, base, words)
        state = state.set(conditions=xla.put(rows, folio.head, words_left))
    return state, base


def _walk(
    context: Context,
    st: Stage,
    state: State,
    folio: Folio,
    act: Index,
    plan: StepPlan,
    base: Index,
) -> tuple[State, RmapState]:
    """The rmap walk of the step, if it has one."""
    movable = folio.kind == frame.MOVABLE_OPS
    back = (plan.moved | plan.undone) & frame.has(folio.flags, frame.UNMAPPED)
    action = jnp.int32(entries.NOTHING)
    for when, what in (
        (plan.walks, entries.UNMAP),
        (back, entries.REMAP),
        (plan.moved & movable, entries.REPOINT),
        (plan.freed | plan.released, entries.ZAP),
        (plan.divided | plan.halved, entries.SPLIT),
    ):
        action = jnp.where(when, what, action)
    pages = walked_pages(context.geometry, folio.row, folio.pages)
    # The head's chain last: the PTEs that replace a leaf must not be visited.
    first = jnp.minimum(pages - 1, 1) if context.geometry.shares_pmds else None
    if first is not None:
        whole = frame.order(folio.flags) == frame.PMD_ORDER
        first = jnp.where((action == entries.SPLIT) & whole, first, 0)
    w = Walk(
        action=action,
        head=base,
        pages=jnp.where(action == entries.NOTHING, 0, pages),
        flags=folio.flags,
        refuses=plan.refuses,
        batch=jnp.where(act == DIVIDE, context.rules.split_flushes_batch, st.batch),
        cpu=context.at.cpu,
        pmd_table=context.pmd_table,
        leaves=jnp.where(plan.halved, 1, NOWHERE),
        zeros=plan.zeros,
        first=first,
    )
    none = jnp.int32(0)
    arrays = (state.frame, state.pte, state.rmap_next, state.cached, state.ev)
    start = RmapState(*arrays, none, none > 0, none, jnp.int32(NOWHERE))
    m = walk(context.rules, context.geometry, start, w)
    state = state.set(
        frame=m.frame, pte=m.pte, rmap_next=m.rmap_next, cached=m.cached, ev=m.ev
    )
    return state, m


def _update_head(
    context: Context,
    state: State,
    folio: Folio,
    act: Index,
    plan: StepPlan,
    base: Index,
    seen: RmapState,
) -> State:
    """The row of the folio's head after the walk."""
    row = xla.read(base, lambda: xla.row(state.frame, base))
    unmapped = plan.walks & ~plan.refuses
    mapped = plan.moved | plan.undone
    # Users of a driver's page keep their references while it moves.
    remapped = mapped & frame.has(row[FLAGS], frame.UNMAPPED)
    refs = row[REFCOUNT] + jnp.where(remapped, seen.count, 0)
    refs = refs - jnp.where(unmapped, seen.count, 0)
    # The leaf's one reference becomes one for each PTE.
    refs += jnp.where(plan.halved, folio.pages - 1, 0)
    flags = row[FLAGS] | jnp.where(unmapped, frame.UNMAPPED, 0)
    flags |= jnp.where(plan.taken, frame.LOCKED, 0)
    flags |= jnp.where((act == UNMAP) & seen.dirty, frame.DIRTY, 0)
    flags &= ~jnp.where(mapped, frame.LOCKED | frame.UNMAPPED, 0)
    # batch-copy: with no extra reference the engine copies it; every other step clears
    # the mark.
    other = (folio.kind == frame.MOVABLE_OPS) | (folio.kind == frame.HUGETLB)
    takes = plan.taken & ~other & context.rules.offloads
    takes &= refs == frame.cache_refs(flags)
    flags = jnp.where(takes, flags | frame.COPIED, flags & ~frame.COPIED)
    # A moved folio leaves the deferred split queue, unless this release requeues it.
    forgets = plan.moved & split_first(context.rules, folio.flags)
    forgets &= ~context.rules.requeues_deferred
    flags &= ~jnp.where(forgets, frame.SPLIT_QUEUED, 0)
    column = jnp.arange(frame.COLUMNS)
    row = jnp.where(column == REFCOUNT, refs, jnp.where(column == FLAGS, flags, row))
    return state.set(frame=xla.put(state.frame, base, row))


def _divide(
    context: Context, state: State, folio: Folio, plan: StepPlan, seen: RmapState
) -> State:
    """Frames of the pieces of a folio that was split."""
    if len(context.geometry.orders) == 1:
        return state
    rules, cpu = context.rules, context.at.cpu
    late = (plan.divided | plan.halved) & rules.split_flushes_batch
    cached, ev = tlb.flush_batch(rules, state.cached, state.ev, cpu, late)
    flags = folio.flags | jnp.where(seen.dirty, frame.DIRTY, 0)
    pages = jnp.where(plan.divided, folio.pages, 0)
    rows = piece_rows(state.frame, folio.head, flags, pages, plan.zeros)
    return state.set(frame=rows, cached=cached, ev=ev)


def _give_back(
    context: Context, state: State, folio: Folio, plan: StepPlan, base: Index
) -> State:
    """Free frames and `nfree` after the step; `base`: the folio's head now."""
    order = frame.order(folio.flags)
    blank = jnp.where(plan.freed | plan.released, folio.pages, 0)
    rows = free_folio(state.frame, folio.head, blank)
    # The frame is pushed only after `_move` has popped the destination.
    head, geometry = xla.after(folio.head, base), context.geometry
    free, top = alloc.give(geometry, state.free, state.top, head, order, plan.gone)
    node = jnp.arange(geometry.nodes)
    # Unmap reserves a destination, undo returns it, and a move frees the source.
    took = jnp.where(plan.taken, folio.counted, 0)
    back = jnp.where(plan.undone | plan.released, folio.counted, 0)
    home = folio.head // jnp.int32(geometry.frames_per_node)
    nfree = state.nfree + jnp.where(node == plan.node, back - took, 0)
    nfree += jnp.where((node == home) & plan.gone, folio.counted, 0)
    return state.set(frame=rows, free=free, top=top, nfree=nfree)
