"""A call as a loop over windows of its list, at the width that each stretch allows.

    a window   as many base pages as a device works well on at once, whatever batches they
               belong to: nothing couples two batches as long as memory lasts, nothing
               is split, and the posted series does not sleep with locks held
    a batch    (up to 6.2: a folio) in which one of these may happen goes folio by
               folio, in the kernel's own order (`stepwise.py`); the others do not

Source: migrate_pages() in mm/migrate.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, tlb, xla
from jaxmig.frame import FLAGS
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc, flush, lanes
from jaxmig.phases.lanes import CHUNK, Lanes, Mask
from jaxmig.phases.window import Window, expanded, listed
from jaxmig.policy import outcomes as oc
from jaxmig.policy.batches import Cut, cut, whole_batches
from jaxmig.policy.call import Call
from jaxmig.policy.chunk import Carry, migrate_window
from jaxmig.policy.folio import ENOMEM, Where, split_first
from jaxmig.policy.plan import conditions_of
from jaxmig.policy.stepwise import Stretch, migrate_stepwise
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@dataclasses.dataclass(frozen=True)
class Job:
    """What stays the same throughout a call."""

    rules: Rules
    at: Where
    limit: Index  # base pages that close a batch
    size: Index  # folios on the list
    huge: Index  # of these, hugetlb folios, which stand first
    safe: bool  # nothing can couple two batches
    passes: int  # of a serial release


def migrate_lanes(
    r: Rules,
    k: Call,
    at: Where,
    limit: Index,
    *,
    safe: bool = False,
    chunk: int | None = None,
    passes: int = oc.PASSES,
) -> Call:
    """The call on `k.todo`.

    Args:
      limit: base pages that close a batch.
      safe: the caller knows that nothing couples two batches.
      chunk: base pages a window, if not what suits the device.
      passes: of a serial release.
    """
    k, huge = hugetlb_first(r, k)
    j = Job(r, at, limit, k.todo.size, huge, safe, passes)
    width = width_of(k, chunk or lanes.chunk())
    k = _with_room(k, width)
    none, no = jnp.int32(0), jnp.asarray(False)
    c = Carry(k, flush.nothing_owed(k.m.cpus), none, none, no)
    if width <= CHUNK:
        c = _windows(j, c, width, j.size)
    else:
        # A window's frames go back at its end, and folios bound for their own node would
        # get them: what a folio gets must not depend on the device.
        apart = ~_any_at_home(k, at)
        c = _windows(j, c, width, jnp.where(apart, j.size, 0))
        narrow = max(CHUNK, 1 << k.m.geometry.orders[-1])
        c = _windows(j, c, min(narrow, width), j.size)
    return _end(j, c)


def migrate_until(
    r: Rules,
    k: Call,
    at: Where,
    limit: Index,
    batch: Index,
    phase: Index,
    safe: bool = False,
) -> tuple[Call, Machine]:
    """The call up to a phase of one of its batches (up to 6.2: of one of its folios).

    Args:
      batch: its number.
      phase: the number of the last phase that the batch goes through, with the folios
        that its first pass takes; the others are untouched.
      safe: the caller knows that nothing couples two batches.
    Returns:
      The call after the batches before it, and the machine inside this one.
    """
    k, huge = hugetlb_first(r, k)
    first, end = (batch_start(r, k, huge, limit, n) for n in (batch, batch + 1))
    before = k.set(todo=dataclasses.replace(k.todo, size=first))
    # A serial call is in its first pass then.
    passes = oc.PASSES if r.batched else 1
    before = migrate_lanes(r, before, at, limit, safe=safe, passes=passes)
    m, width = before.m, width_of(k, k.todo.folios.shape[0])
    w, place = open_window(m, _with_room(k, width).todo.folios, first, end, width)
    w = w.only(w.there & ~_may_split(r, m, w) & ~_short(at, m, w))
    one = jnp.int32(1)
    c = Carry(before, flush.nothing_owed(m.cpus), first, one * 0, one < 0)
    batches = Cut(w.folio * 0, one, one * 0)
    c = migrate_window(r, c, w, (batches, place), at, passes=1, upto=phase)
    return before, c.k.m


def open_window(
    m: Machine, folios: Lanes, start: Index, end: Index, width: int
) -> tuple[Window, Index]:
    """The window that begins at a place of the list, and the place of its lane 0."""
    found = listed(m, folios, start, end, width)
    if m.geometry.orders == (0,):
        return found.flat, found.place
    return expanded(m, found), found.place


def batch_start(r: Rules, k: Call, huge: Index, limit: Index, number: Index) -> Index:
    """The place in the list where a batch begins; its end, if there is no such batch."""
    size = k.todo.size
    if not r.batched:
        return jnp.minimum(number, size)
    width = width_of(k, lanes.chunk())
    folios = _with_room(k, width).todo.folios

    def more(c: tuple[Index, Index, Index]) -> Array:
        return (c[0] < size) & (c[1] < number)

    def next_window(c: tuple[Index, Index, Index]) -> tuple[Index, Index, Index]:
        start, closed, open_pages = c
        w, place = open_window(k.m, folios, start, size, width)
        found = cut(r, w, open_pages, limit)
        lane = jnp.arange(width, dtype=jnp.int32)
        begins = w.there & (closed + found.batch >= number)
        first = jnp.where(begins, place + lane, start + w.count).min()
        return first, closed + found.closed, found.open

    none = jnp.int32(0)
    return jax.lax.while_loop(more, next_window, (huge, none, none))[0]


def width_of(k: Call, chunk: int) -> int:
    """Base pages a window: no more than the list can have, nor than the machine has."""
    g = k.m.geometry
    most = 1 << g.orders[-1]
    room = k.todo.folios.shape[0]
    if most == 1:
        return min(chunk, room)
    return min(max(chunk, most), room * most, max(g.frames, most))


def _with_room(k: Call, width: int) -> Call:
    """The call, its list padded to the lanes of a window."""
    folios = k.todo.folios
    more = max(width - folios.shape[0], 0)
    folios = jnp.pad(folios, (0, more)) if more else folios
    return k.set(todo=dataclasses.replace(k.todo, folios=folios))


def hugetlb_first(r: Rules, k: Call) -> tuple[Call, Index]:
    """Hugetlb folios to the front of the list, which 6.3 and later migrate first.

    Both kinds keep their order.  Also returned: how many there are.
    """
    m, todo = k.m, k.todo
    if not m.geometry.hugetlb:
        return k, jnp.int32(0)
    room = todo.folios.shape[0]
    live = jnp.arange(room) < todo.size
    rows = lanes.rows(m.frame, jnp.where(live, todo.folios, 0))
    huge = live & (frame.kind(rows[:, FLAGS]) == frame.HUGETLB) & r.batched
    (count,) = lanes.totals(huge)

    def sort() -> Lanes:
        place = jnp.where(
            huge, lanes.running(huge), count + lanes.running(live & ~huge)
        )
        place = jnp.where(live, place - 1, NOWHERE)
        return lanes.scattered(place, todo.folios, todo.folios)

    folios = jax.lax.cond(count > 0, sort, lambda: todo.folios)
    return k.set(todo=dataclasses.replace(todo, folios=folios)), count


def _any_at_home(k: Call, at: Where) -> Bool[Array, ""]:
    """Whether a folio of the list lies on the target node already."""
    folios = k.todo.folios
    listed = jnp.arange(folios.shape[0]) < k.todo.size
    return (listed & (k.m.node_of(folios) == at.node)).any()


def _windows(j: Job, c: Carry, width: int, end: Index) -> Carry:
    """The list up to `end`, window by window."""

    def more(c: Carry) -> Array:
        return (c.next < end) & (c.k.error == 0)

    return jax.lax.while_loop(more, lambda c: _next(j, c, width), c)


def _next(j: Job, c: Carry, width: int) -> Carry:
    """The window that begins where the last one ended, or one batch of it."""
    before, m = c.next, c.k.m
    end = jnp.where(before < j.huge, j.huge, j.size)
    found = listed(m, c.k.todo.folios, before, end, width)

    def of_base_pages(c: Carry) -> Carry:
        return _at_once(j, c, found.flat, found.place)

    def of_others(c: Carry) -> Carry:
        return _at_once(j, c, expanded(c.k.m, found), found.place)

    if m.geometry.orders == (0,):
        c = of_base_pages(c)
    elif width < CHUNK:
        c = of_others(c)
    else:
        # Each kind of window has a form of its own: base pages need not pay for others.
        is_flat = found.is_flat
        c = xla.when(is_flat, of_base_pages, c)
        c = xla.when(~is_flat, of_others, c)
    if j.safe:
        return c
    return xla.when(c.next == before, lambda c: _in_order(j, c), c)


def _at_once(j: Job, c: Carry, w: Window, place: Index) -> Carry:
    """The folios of a window that nothing couples."""
    batches = _cut(j, w, c)
    if not j.safe:
        live, batches = _easy(j, c, w, batches)
        w = w.only(live)

    def migrate(c: Carry) -> Carry:
        c = migrate_window(j.rules, c, w, (batches, place), j.at, j.passes)
        return dataclasses.replace(c, next=c.next + w.count)

    return migrate(c) if j.safe else xla.when(w.count > 0, migrate, c)


def _cut(j: Job, w: Window, c: Carry) -> Cut:
    """The batches of a window; hugetlb folios are in none."""
    none = jnp.int32(0)
    if not j.rules.batched:
        # A folio is a batch of its own.
        lane = jnp.arange(w.head.shape[0], dtype=jnp.int32)
        return Cut(lane, none, none)
    found = cut(j.rules, w, c.open, j.limit)
    if not w.large:
        return found
    in_huge = c.next < j.huge
    return Cut(
        jnp.where(in_huge, 0, found.batch),
        jnp.where(in_huge, none, found.closed),
        jnp.where(in_huge, c.open, found.open),
    )


def _easy(j: Job, c: Carry, w: Window, batches: Cut) -> tuple[Mask, Cut]:
    """The folios of a window that can be worked at once, and their batches."""
    m, r, there = c.k.m, j.rules, w.there
    enough = _most_left(j, c) <= m.nfree[j.at.node]
    hard = _may_split(r, m, w) | _may_stop(r, m, w) | _may_trim(r, m, j.at)
    if not r.batched:
        # Whoever runs out of memory ends all passes: the order matters from the start.
        hard |= ~enough | _crowded(j.at, m, w)
        return whole_batches(batches, hard, there, enough & False), batches
    hard |= jax.lax.cond(enough, lambda: there & False, lambda: _short(j.at, m, w))
    hard |= _crowded(j.at, m, w)
    cuts = (~enough | can_couple(r, m)) & (c.next >= j.huge)
    live = whole_batches(batches, hard, there, cuts & (c.next + w.count < j.size))
    left = there & ~live
    # What is left begins a batch of its own.
    first = jnp.where(left, batches.batch, NOWHERE).min()
    ends = dataclasses.replace(batches, closed=first, open=jnp.int32(0))
    some = lanes.some(left)[0]
    return live, jax.tree.map(lambda a, b: jnp.where(some, a, b), ends, batches)


def _short(at: Where, m: Machine, w: Window) -> Mask:
    """Folios that could find no memory when their turn comes."""
    pages = jnp.where(frame.kind(w.flags) == frame.HUGETLB, 0, w.pages)
    return w.there & (lanes.running(pages) > m.nfree[at.node])


def _crowded(at: Where, m: Machine, w: Window) -> Mask:
    """Folios for which no frame is left before others have given theirs back.

    That can only be where folios are moved to the node on which they are.
    """
    free = m.top[at.node]
    few = jnp.minimum(blocks_in_use(m), w.count) <= free

    none = w.there & False

    def beyond(pool: Index, found: Mask) -> Mask:
        mine = alloc.of_pool(m.geometry, w, w.there, pool)
        return found | mine & (lanes.running(mine) > free[pool])

    def by_rank() -> Mask:
        return alloc.each_pool(m.geometry, w, beyond, none)

    return jax.lax.cond(few.all(), lambda: none, by_rank)


def blocks_in_use(m: Machine) -> Int32[Array, " orders"]:
    """Folios in use on all nodes, by order."""
    g = m.geometry
    return g.nodes * jnp.asarray(g.pool_blocks, jnp.int32) - m.top.sum(axis=0)


def _most_left(j: Job, c: Carry) -> Index:
    """Base pages that the rest of the list takes at most."""
    m, g, folios = c.k.m, c.k.m.geometry, c.k.todo.folios
    if g.orders == (0,):
        return j.size - c.next

    def counted() -> Index:
        index = jnp.arange(folios.shape[0])
        there = (index >= c.next) & (index < j.size)
        flags = lanes.rows(m.frame, jnp.where(there, folios, 0))[:, FLAGS]
        there &= frame.kind(flags) != frame.HUGETLB
        (pages,) = lanes.totals(jnp.where(there, jnp.int32(1) << frame.order(flags), 0))
        return pages

    # Mostly there is more free than all other nodes have in use: no folio is asked.
    most = in_use(m)
    return jax.lax.cond(most <= m.nfree[j.at.node], lambda: most, counted)


def in_use(m: Machine) -> Index:
    """Base pages in use on all nodes, those of hugetlb pools included."""
    g = m.geometry
    sizes = jnp.asarray([1 << o for o in g.orders], jnp.int32)
    return g.frames - (m.top * sizes).sum(dtype=jnp.int32)


def can_couple(r: Rules, m: Machine) -> bool:
    """Whether something on this machine may need a batch to be worked by itself."""
    splits = len(m.geometry.orders) > 1 and m.conditions is not None
    stops = r.crossing_opens_next and m.conditions is not None
    return bool(splits or stops)


def _may_split(r: Rules, m: Machine, w: Window) -> Mask:
    """Folios that could not be moved whole."""
    no = w.head < 0
    if not w.large or m.conditions is None:
        return no
    large = w.pages > 1
    some = large & frame.has(w.flags, frame.CONDITIONED)

    def unavailable() -> Mask:
        heads = jnp.where(some, w.head, NOWHERE)
        left, _ = cond.unpack(conditions_of(m, heads))
        return some & (left[cond.NO_HUGE_DST] > 0)

    short = jax.lax.cond(lanes.some(some)[0], unavailable, lambda: no)
    return w.there & (split_first(r, w.flags) | short)


def _may_stop(r: Rules, m: Machine, w: Window) -> Mask:
    """As posted: folios that could be slept on while others are held."""
    if not r.crossing_opens_next or m.conditions is None:
        return w.head < 0
    return w.there & frame.has(w.flags, frame.CONDITIONED) & r.may_sleep


def _may_trim(r: Rules, m: Machine, at: Where) -> Bool[Array, ""]:
    """Whether a mask may change while others of the call are still to be flushed."""
    strays = tlb.strays(r, m.cpus)
    return (strays & (jnp.arange(strays.shape[1]) != at.cpu)).any()


def _in_order(j: Job, c: Carry) -> Carry:
    """The batch that comes next, folio by folio; up to 6.2 one folio, or all."""
    r, cpu = j.rules, j.at.cpu
    # That form keeps generations as it goes: those of the windows come first.
    ev = flush.count_immediate(r, c.k.ev, c.owed, c.k.m.cpus, cpu)
    k = c.k.set(ev=ev, m=flush.catch_up(r, c.k.m, c.owed, cpu))
    owed = dataclasses.replace(flush.nothing_owed(k.m.cpus), emptied=c.owed.emptied)
    # If memory may end, the passes of all folios of a serial call take turns.
    end = j.size
    if not r.batched:
        whole = _most_left(j, c) > c.k.m.nfree[j.at.node]
        end = jnp.where(whole, j.size, c.next + 1)
    todo = dataclasses.replace(k.todo, size=end)
    stretch = Stretch(c.next, j.huge, once=bool(r.batched), passes=j.passes)
    k, after = migrate_stepwise(r, k.set(todo=todo), j.at, j.limit, stretch)
    after = after if r.batched else end
    k = k.set(todo=c.k.todo, in_order=k.in_order + after - c.next)
    return dataclasses.replace(c, k=k, next=after, owed=owed)


def _end(j: Job, c: Carry) -> Call:
    """Flushes that are left, generations, and what others have flushed."""
    r, k, cpu = j.rules, c.k, j.at.cpu
    owed, ev = c.owed, k.ev
    if r.batched:
        current = (owed.caught_up > owed.deferred)[None]
        ev, owed = flush.close(r, ev, owed, k.m.cpus, cpu, owed.open[None], current)
        ev = ev.add(batches=(c.open > 0) & (k.error != ENOMEM))
    ev = flush.count_immediate(r, ev, owed, k.m.cpus, cpu)
    m = flush.catch_up(r, k.m, owed, cpu)
    if m.conditions is not None:
        m = flush.forget(m, c.flushed)
    return k.set(m=m, ev=ev)
