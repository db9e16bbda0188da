"""A call as a loop over windows of its list.

    a window   as many base pages as suit the device, of any batches: no batch affects
               another as long as memory lasts, nothing is split, and the posted series
               does not sleep with locks held
    a batch    (up to 6.2: a folio) in which one of these may happen goes folio by folio
               in the kernel's own order (`in_order/run.py`)

Source: migrate_pages() in mm/migrate.c.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.engine.chunk import Carry, migrate_window
from jaxmig.linux import outcomes as oc, tlb
from jaxmig.linux.batches import Cut, cut, whole_batches
from jaxmig.linux.call import CallState
from jaxmig.linux.folio import ENOMEM, Where, split_first, split_for_memory
from jaxmig.linux.in_order.run import Stretch, migrate_in_order
from jaxmig.linux.in_order.split import put_back_zeros
from jaxmig.linux.phases import alloc, flush
from jaxmig.linux.plan import conditions_of
from jaxmig.linux.rules import Rules
from jaxmig.state import conditions as cond, frame, lanes, xla
from jaxmig.state.frame import FLAGS
from jaxmig.state.lanes import CHUNK, Lanes, Mask, many
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.window import Window, expanded, listed

Index = Int32[Array, ""]
Flag = Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class CallSetup:
    """What stays the same throughout a call."""

    rules: Rules
    at: Where
    limit: Index  # base pages that close a batch
    size: Index  # folios on the list
    huge: Index  # of these, hugetlb folios, which come first
    before: Lanes  # base pages of the folios before each place of the list
    safe: bool  # whether no batch can affect another
    passes: Index | int  # the most passes of a serial release
    aborts: Flag  # whether a folio's -ENOMEM may end all passes of a serial release
    apart: Flag  # whether no folio of the list is on the target node
    most: Index | int  # base pages that a window takes at most


def migrate_lanes(
    rules: Rules,
    call: CallState,
    at: Where,
    limit: Index,
    *,
    safe: bool = False,
    chunk: int | None = None,
    passes: Index | int = oc.PASSES,
) -> CallState:
    """The call on `call.todo`, in windows.

    Args:
      at: the migrating CPU and the target node.
      limit: int32, base pages that close a batch.
      safe: whether no batch can affect another (`migrate.uncoupled`).
      chunk: base pages a window; None: what suits the device.
      passes: the most passes of a serial release.
    Returns:
      The call, with its result in stats.failed and error.
    Source: migrate_pages() in mm/migrate.c.
    """
    call, huge = hugetlb_first(rules, call)
    limit = close_at(rules, limit)
    no = jnp.asarray(False)
    aborts = no if safe else _may_abort(rules, call)
    width = width_of(call, chunk or lanes.chunk())
    call = _with_room(call, width)
    before = jnp.zeros(1, jnp.int32) if safe else _pages_before(call, at.node)
    # What is in a window must not depend on the device where frames that it frees may be
    # got by later ones: a wide window takes no more folios then.
    narrow = min(max(CHUNK, call.m.geometry.largest), width)
    two_forms = many(width) and call.m.geometry.orders != (0,)
    apart = ~_any_at_home(call, at) if two_forms or width > narrow else no
    most = jnp.where(apart, width, narrow) if width > narrow else width
    size = call.todo.size
    j = CallSetup(
        rules, at, limit, size, huge, before, safe, passes, aborts, apart, most
    )
    none = jnp.int32(0)
    c = Carry(call, flush.no_flushes(call.m.cpus), none, none, no)
    all_in_one = safe and narrow >= most_lanes(call) and not call.m.geometry.hugetlb
    if all_in_one and xla.asks_host():
        c = _next(j, c, width)
    else:
        c = _windows(j, c, width)
    return _end(j, c)


def close_at(rules: Rules, limit: Index) -> Index:
    """Base pages that close a batch; up to 6.2 every folio is one."""
    return jnp.where(rules.batched, limit, 1)


def migrate_until(
    rules: Rules,
    call: CallState,
    at: Where,
    limit: Index,
    batch: Index,
    phase: Index,
    safe: bool = False,
) -> tuple[CallState, Machine]:
    """The call up to a phase of one of its batches (up to 6.2: of one of its folios).

    Args:
      at: the migrating CPU and the target node.
      limit: int32, base pages that close a batch.
      batch: int32, its number.
      phase: int32, number of the last phase that is run, on folios that the first pass
        migrates; the others of the batch are untouched.
      safe: whether no batch can affect another (`migrate.uncoupled`).
    Returns:
      The call after the batches before it, and the machine inside this one.
    Source: migrate_pages_batch() in mm/migrate.c.
    """
    call, huge = hugetlb_first(rules, call)
    first, end = (batch_start(rules, call, huge, limit, n) for n in (batch, batch + 1))
    before = call.set(todo=dataclasses.replace(call.todo, size=first))
    # A serial call is in its first pass then.
    passes = jnp.where(rules.batched, oc.PASSES, 1)
    before = migrate_lanes(rules, before, at, limit, safe=safe, passes=passes)
    m, width = before.m, width_of(call, call.todo.folios.shape[0])
    w, place = open_window(m, _with_room(call, width).todo.folios, first, end, width)
    w = w.only(w.there & ~_may_split(rules, m, w) & ~_short(at, m, w))
    one = jnp.int32(1)
    c = Carry(before, flush.no_flushes(m.cpus), first, one * 0, one < 0)
    batches = Cut(w.folio * 0, one, one * 0)
    c = migrate_window(rules, c, w, (batches, place), at, passes=1, upto=phase)
    return before, c.call.m


def open_window(
    m: Machine, folios: Lanes, start: Index, end: Index, width: int
) -> tuple[Window, Index]:
    """The window that begins at a place of the list.

    Args:
      folios: int32[folios], head frames; at least `width` of them, padding included.
      start, end: int32, its first place on the list, and the end of the list.
      width: lanes, of base pages.
    Returns:
      The window; int32, the place on the list of its lane 0.
    """
    found = listed(m, folios, start, end, width)
    if m.geometry.orders == (0,):
        return found.flat(), found.place
    return expanded(m, found), found.place


def batch_start(
    rules: Rules, call: CallState, huge: Index, limit: Index, number: Index
) -> Index:
    """The place on the list where a batch begins.

    Args:
      huge: int32, hugetlb folios, which come first and are in no batch.
      limit: int32, base pages that close a batch.
      number: int32, the batch's; up to 6.2 every folio is one.
    Returns:
      int32; the end of the list if there is no such batch.
    """
    size, limit = call.todo.size, close_at(rules, limit)
    width = width_of(call, lanes.chunk())
    folios = _with_room(call, width).todo.folios

    def more(carry: tuple[Index, Index, Index]) -> Array:
        return (carry[0] < size) & (carry[1] < number)

    def next_window(carry: tuple[Index, Index, Index]) -> tuple[Index, Index, Index]:
        start, closed, open_pages = carry
        w, place = open_window(call.m, folios, start, size, width)
        found = cut(rules, w, open_pages, limit)
        lane = jnp.arange(width, dtype=jnp.int32)
        begins = w.there & (closed + found.batch >= number)
        first = jnp.where(begins, place + lane, start + w.count).min()
        return first, closed + found.closed, found.open

    none = jnp.int32(0)
    return jax.lax.while_loop(more, next_window, (huge, none, none))[0]


def width_of(call: CallState, chunk: int) -> int:
    """Base pages a window: at most `chunk`, what the list can have, or the machine has."""
    # The largest folio must fit into a window.
    return min(max(chunk, call.m.geometry.largest), most_lanes(call))


def most_lanes(call: CallState) -> int:
    """Base pages that the list can have."""
    g, room = call.m.geometry, call.todo.folios.shape[0]
    return room if g.largest == 1 else min(room * g.largest, max(g.frames, g.largest))


def _with_room(call: CallState, width: int) -> CallState:
    """The call, its list padded to the lanes of a window."""
    folios = call.todo.folios
    more = max(width - folios.shape[0], 0)
    folios = jnp.pad(folios, (0, more)) if more else folios
    return call.set(todo=dataclasses.replace(call.todo, folios=folios))


def hugetlb_first(rules: Rules, call: CallState) -> tuple[CallState, Index]:
    """Sort hugetlb folios to the front of the list, as migrate_hugetlbs() comes first.

    Both kinds keep their order.

    Returns:
      The call; int32, how many hugetlb folios there are, 0 in serial releases, which
      sort nothing.
    Source: migrate_hugetlbs() in mm/migrate.c.
    """
    m, todo = call.m, call.todo
    if not m.geometry.hugetlb:
        return call, jnp.int32(0)
    room = todo.folios.shape[0]
    live = jnp.arange(room) < todo.size
    rows = lanes.rows(m.frame, jnp.where(live, todo.folios, 0))
    huge = live & (frame.kind(rows[:, FLAGS]) == frame.HUGETLB) & rules.batched
    (count,) = lanes.totals(huge)

    def sort() -> Lanes:
        others = count + lanes.running(live & ~huge)
        place = jnp.where(huge, lanes.running(huge), others)
        place = jnp.where(live, place - 1, NOWHERE)
        return lanes.scattered(place, todo.folios, todo.folios)

    folios = jax.lax.cond(count > 0, sort, lambda: todo.folios)
    return call.set(todo=dataclasses.replace(todo, folios=folios)), count


def _any_at_home(call: CallState, at: Where) -> Bool[Array, ""]:
    """Whether a folio of the list lies on the target node already."""
    folios = call.todo.folios
    listed = jnp.arange(folios.shape[0]) < call.todo.size
    return (listed & (call.m.node_of(folios) == at.node)).any()


def _windows(setup: CallSetup, carry: Carry, width: int) -> Carry:
    """The list, window by window."""

    def more(carry: Carry) -> Array:
        return (carry.next < setup.size) & (carry.call.error == 0)

    return jax.lax.while_loop(more, lambda c: _next(setup, c, width), carry)


def _next(setup: CallSetup, carry: Carry, width: int) -> Carry:
    """The window that begins where the last one ended, or one batch folio by folio."""
    before, m = carry.next, carry.call.m
    # Other devices move all pages of large folios by lanes, and what is in a window must
    # not depend on the device where frames are freed that later windows may get.
    blocks = setup.apart if many(width) and width <= CHUNK else None
    end = jnp.where(before < setup.huge, setup.huge, setup.size)
    if not isinstance(setup.most, int):
        end = jnp.minimum(end, before + setup.most)
    found = listed(m, carry.call.todo.folios, before, end, width)

    def of_few_entries(carry: Carry) -> Carry:
        large = m.geometry.orders != (0,)
        return _at_once(setup, carry, found.flat(large), found.place)

    def of_others(carry: Carry) -> Carry:
        window = expanded(carry.call.m, found, blocks, setup.most)
        return _at_once(setup, carry, window, found.place)

    if m.geometry.orders == (0,):
        carry = of_few_entries(carry)
    elif not many(width) or xla.asks_host():
        carry = of_others(carry)
    else:
        # Windows in which a lane a folio is enough have a cheaper form: two loops of one
        # iteration.
        some = jnp.asarray(False) if blocks is None else blocks
        is_flat = found.is_flat(m.geometry, some)
        carry = xla.when(is_flat, of_few_entries, carry)
        carry = xla.when(~is_flat, of_others, carry)
    if setup.safe:
        return carry
    return xla.when(carry.next == before, lambda c: _in_order(setup, c), carry)


def _at_once(setup: CallSetup, carry: Carry, window: Window, place: Index) -> Carry:
    """The window's batches before the first that goes folio by folio, all at once."""
    batches = _cut(setup, window, carry)
    if not setup.safe:
        live, batches = _easy(setup, carry, window, batches)
        window = window.only(live)

    def migrate(carry: Carry) -> Carry:
        r, where = setup.rules, (batches, place)
        carry = migrate_window(r, carry, window, where, setup.at, setup.passes)
        return dataclasses.replace(carry, next=carry.next + window.count)

    return migrate(carry) if setup.safe else xla.when(window.count > 0, migrate, carry)


def _cut(setup: CallSetup, window: Window, carry: Carry) -> Cut:
    """The batches of a window; hugetlb folios are in none."""
    found = cut(setup.rules, window, carry.open, setup.limit)
    if not window.large:
        return found
    none = jnp.int32(0)
    # A window of hugetlb folios leaves the open batch as it is.
    in_huge = carry.next < setup.huge
    return Cut(
        jnp.where(in_huge, 0, found.batch),
        jnp.where(in_huge, none, found.closed),
        jnp.where(in_huge, carry.open, found.open),
    )


def _easy(
    setup: CallSetup, carry: Carry, window: Window, batches: Cut
) -> tuple[Mask, Cut]:
    """The folios of a window that can be migrated at once, and their batches."""
    m, r, there = carry.call.m, setup.rules, window.there
    enough = _most_left(setup, carry) <= m.nfree[setup.at.node]
    hard = _may_split(r, m, window) | _may_stop(r, m, window)
    # A flush may remove a CPU from a mask that later flushes use.
    hard |= tlb.strays(r, m.cpus).any()
    hard |= _crowded(setup.at, m, window)
    none = there & False
    hard |= jax.lax.cond(enough, lambda: none, lambda: _short(setup.at, m, window))
    # -ENOMEM ends all passes of a serial call, so that their order matters throughout.
    hard |= ~r.batched & (~enough | setup.aborts)
    cuts = (~enough | can_couple(r, m)) & (carry.next >= setup.huge)
    cuts &= carry.next + window.count < setup.size
    live = whole_batches(batches, hard, there, cuts)
    left = there & ~live
    # The next window begins with a new batch.
    first = jnp.where(left, batches.batch, NOWHERE).min()
    ends = dataclasses.replace(batches, closed=first, open=jnp.int32(0))
    some = lanes.some(left)[0]
    return live, jax.tree.map(lambda a, b: jnp.where(some, a, b), ends, batches)


def _short(at: Where, m: Machine, window: Window) -> Mask:
    """Folios that may get -ENOMEM, if all before them take memory."""
    pages = jnp.where(frame.kind(window.flags) == frame.HUGETLB, 0, window.pages)
    return window.there & (lanes.running(pages) > m.nfree[at.node])


def _crowded(at: Where, m: Machine, window: Window) -> Mask:
    """Folios for which no frame is left until frames of earlier ones are freed.

    That can only happen where folios move within the target node: its pools have room for
    all others.
    """
    blocks, free = jnp.asarray(m.geometry.pool_blocks, jnp.int32), m.top[at.node]
    here = blocks - free
    elsewhere = (blocks - m.top).sum(axis=0) - here
    (stay,) = lanes.totals(window.there & (m.node_of(window.head) == at.node))
    few = elsewhere + jnp.minimum(here, stay) <= free

    def beyond() -> Mask:
        pool = alloc.pools(m.geometry, window, window.there)
        rank, _ = lanes.dealt(pool, jnp.zeros_like(free), 1)
        return window.there & (rank >= free[pool])

    return jax.lax.cond(few.all(), lambda: window.there & False, beyond)


def _pages_before(call: CallState, node: Index) -> Int32[Array, " places"]:
    """Base pages that the folios before each place of the list take; see `_most_left`."""
    m, folios = call.m, call.todo.folios
    if m.geometry.orders == (0,):
        return jnp.arange(folios.shape[0] + 1, dtype=jnp.int32)

    def counted() -> Lanes:
        there = jnp.arange(folios.shape[0]) < call.todo.size
        flags = lanes.rows(m.frame, jnp.where(there, folios, 0))[:, FLAGS]
        there &= frame.kind(flags) != frame.HUGETLB
        return lanes.running(jnp.where(there, jnp.int32(1) << frame.order(flags), 0))

    # Mostly more is free than all nodes have in use: then no row is read.
    plenty = in_use(m) <= m.nfree[node]
    return jnp.pad(jax.lax.cond(plenty, lambda: folios * 0, counted), (1, 0))


def _most_left(setup: CallSetup, carry: Carry) -> Index:
    """The most base pages that the rest of the list takes; 0 if memory cannot end."""
    return setup.before[setup.size] - setup.before[carry.next]


def in_use(m: Machine) -> Index:
    """Base pages in use on all nodes, those of hugetlb pools included."""
    g = m.geometry
    sizes = jnp.asarray([1 << o for o in g.orders], jnp.int32)
    return g.frames - (m.top * sizes).sum(dtype=jnp.int32)


def can_couple(rules: Rules, m: Machine) -> Flag:
    """Whether conditions on this machine may make a batch go folio by folio."""
    splits = len(m.geometry.orders) > 1
    return (rules.crossing_opens_next | splits) & (m.conditions is not None)


def _may_split(rules: Rules, m: Machine, window: Window) -> Mask:
    """Folios that may be split."""
    no = window.head < 0
    if not window.large or m.conditions is None:
        return no
    large = window.pages > 1
    some = large & frame.has(window.flags, frame.CONDITIONED)

    def unavailable() -> Mask:
        heads = jnp.where(some, window.head, NOWHERE)
        left, _ = cond.unpack(conditions_of(m, heads))
        return some & (left[cond.NO_HUGE_DST] > 0)

    short = jax.lax.cond(lanes.some(some)[0], unavailable, lambda: no)
    return window.there & (split_first(rules, window.flags) | short)


def _may_abort(rules: Rules, call: CallState) -> Flag:
    """Whether a folio for which nothing can be allocated may end a serial call.

    It may if the folio cannot be split: hugetlb, or a folio with another condition.
    """
    m, folios = call.m, call.todo.folios
    no = jnp.asarray(False)
    if m.geometry.orders == (0,) or m.conditions is None:
        return no
    listed = (jnp.arange(folios.shape[0]) < call.todo.size) & ~rules.batched
    flags = lanes.rows(m.frame, jnp.where(listed, folios, 0))[:, FLAGS]
    some = listed & (frame.order(flags) > 0) & frame.has(flags, frame.CONDITIONED)

    def unavailable() -> Flag:
        left, marks = cond.unpack(conditions_of(m, jnp.where(some, folios, NOWHERE)))
        stays = ~split_for_memory(rules, flags) | (marks != 0)
        for state, trials in enumerate(left):
            if state != cond.NO_HUGE_DST:
                stays |= trials > 0
        return (some & (left[cond.NO_HUGE_DST] > 0) & stays).any()

    return jax.lax.cond(lanes.some(some)[0], unavailable, lambda: no)


def _may_stop(rules: Rules, m: Machine, window: Window) -> Mask:
    """As posted: folios that may give -EDEADLOCK, with others of the batch locked."""
    if m.conditions is None:
        return window.head < 0
    held = window.there & frame.has(window.flags, frame.CONDITIONED)
    return held & rules.may_sleep & rules.crossing_opens_next


def _in_order(setup: CallSetup, carry: Carry) -> Carry:
    """The next batch, folio by folio; up to 6.2 one folio, or all that are left."""
    r, cpu = setup.rules, setup.at.cpu
    # That form counts each flush as it comes: first those of the windows before it.
    ev = flush.count_immediate(r, carry.call.ev, carry.flushes, carry.call.m.cpus, cpu)
    k = carry.call.set(ev=ev, m=flush.catch_up(r, carry.call.m, carry.flushes, cpu))
    flushes = flush.no_flushes(k.m.cpus)
    flushes = dataclasses.replace(flushes, emptied=carry.flushes.emptied)
    # If -ENOMEM may end the passes of a serial call, each must take all folios left.
    whole = _most_left(setup, carry) > carry.call.m.nfree[setup.at.node]
    whole |= setup.aborts | r.batched
    end = jnp.where(whole, setup.size, carry.next + 1)
    todo = dataclasses.replace(k.todo, size=end)
    stretch = Stretch(carry.next, setup.huge, once=True, passes=setup.passes)
    k, after = migrate_in_order(r, k.set(todo=todo), setup.at, setup.limit, stretch)
    after = jnp.where(r.batched, after, end)
    k = k.set(todo=carry.call.todo, in_order=k.in_order + after - carry.next)
    return dataclasses.replace(carry, call=k, next=after, flushes=flushes)


def _end(setup: CallSetup, carry: Carry) -> CallState:
    """Flush the open batch, count immediate flushes, and bring generations up to date."""
    r, k, cpu = setup.rules, carry.call, setup.at.cpu
    flushes, ev = carry.flushes, k.ev
    last = flushes.open[None], (flushes.caught_up > flushes.deferred)[None]
    ev, flushes = flush.close(r, ev, flushes, k.m.cpus, cpu, *last)
    ev = ev.add(batches=(carry.open > 0) & (k.error != ENOMEM))
    ev = flush.count_immediate(r, ev, flushes, k.m.cpus, cpu)
    m = flush.catch_up(r, k.m, flushes, cpu)
    if m.conditions is not None:
        m = flush.forget(m, carry.flushed)
    k = k.set(m=m, ev=ev)
    return k if setup.safe else put_back_zeros(k)
