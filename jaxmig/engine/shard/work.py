"""One stretch of a call's list, on every shard at once.

Each shard works on the pages of the stretch whose frames it keeps; their entries and the
frames that they get, by their places in the list as on one device, may be anywhere.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.engine.apply import PHASES, prepare
from jaxmig.engine.chunk import count_window, look_and_plan
from jaxmig.engine.shard import contents, post, table, tlbs
from jaxmig.engine.shard.window import ShardSetup, ShardStretch, open_stretch
from jaxmig.linux import tlb
from jaxmig.linux.call import Stats
from jaxmig.linux.flush_requests import asked_of, end_batches, walks_of
from jaxmig.linux.folio import Where
from jaxmig.linux.mappings import PageMaps
from jaxmig.linux.phases.flush import CallFlushes, FlushRequests
from jaxmig.linux.plan import Pages, Plan, of_pages
from jaxmig.state import frame, lanes, xla
from jaxmig.state.events import Events
from jaxmig.state.frame import RMAP
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
TAKES, FREES = 1, 2  # of a page's outcome: it needs a new frame; its old one is freed


@pytree
class ShardCarry:
    """What one stretch hands to the next."""

    m: Machine
    start: Index  # place on the list
    gone: Int32[Array, " chunk"]  # frames of this chunk that are to be freed, by place
    flushes: CallFlushes
    everyone: Events  # of batches' flushes, the same on all shards
    mine: Events  # of this shard's pages
    stats: Stats
    remaining: Index
    asleep: Bool[Array, ""]  # whether the call sleeps for ever on a page of any shard
    flushed: Bool[Array, " mms"]  # address spaces of which something was flushed
    marked: Bool[Array, ""]  # whether a frame is marked FLUSHED, see `tlbs.py`
    others: Bool[Array, ""]  # whether others have flushed: freed pages, drivers' pages


def on_table(setup: ShardSetup, m: Machine, src: Lanes) -> table.ShardTable:
    """This shard's pages with their rows, conditions and entries."""
    d = setup.plan.frames
    here = d.local(src, src != NOWHERE)
    row = xla.read(here, lambda: lanes.rows(m.frame, here))
    c, states = m.conditions, None
    if c is not None:
        states = xla.read(here, lambda: lanes.rows(c, here))
        states = jnp.where((src != NOWHERE)[:, None], states, 0)
    entry = jnp.where(src == NOWHERE, NOWHERE, row[:, RMAP])
    entries, words, deal = [], [], setup.plan.entries
    for _ in range(setup.plan.maps):
        read = functools.partial(_entry, m)
        found = post.fetch(deal, setup.axis, entry, read, setup.sizes.box)
        entries.append(entry)
        words.append(found[:, :2])
        if m.geometry.shared:
            entry = jnp.where(entry == NOWHERE, NOWHERE, found[:, 2])
    mapped = (jnp.stack(entries), jnp.stack(words))
    return table.lay(src, row, states, *mapped, m.cpus, m.geometry.shared)


def _entry(m: Machine, at: Lanes) -> Int32[Array, "lanes words"]:
    """Both words of entries that this shard keeps, and the next of their chains."""
    words = lanes.rows(m.pte, at)
    if not m.geometry.shared:
        return words
    return jnp.concatenate([words, lanes.rows(m.rmap_next, at)[:, None]], axis=1)


def work(setup: ShardSetup, carry: ShardCarry) -> ShardCarry:
    """The stretch that begins where the last one ended."""
    r, cpu = setup.rules, setup.at.cpu
    s = open_stretch(setup, carry.start)
    t = on_table(setup, carry.m, s.mine)
    w, put_off = t.window, tlb.should_defer(r, carry.m.cpus, cpu)
    seen, mapped, p = look_and_plan(r, t.m, w, put_off)
    pages = of_pages(w, p, _batches(setup, s))
    carry, asked = _flushes(setup, carry, s, t, (seen, p, pages), put_off)
    mine, stats = count_window(r, carry.mine, carry.stats, w, (seen, mapped, p, pages))
    frees = p.moved | p.gone
    outcome = jnp.where(p.moved, TAKES, 0) + jnp.where(frees, FREES, 0)
    m, dst, outcomes = _allocate(setup, carry.m, s, outcome)
    # The table has no contents and no TLBs: only two of the phases run on it.
    known = (seen, mapped, p, pages, asked, carry.flushes.emptied)
    done, b = prepare(t.m, w, known, Where(cpu, jnp.int32(1)), jnp.asarray(True))
    for phase in ("unmap", "remap"):
        done, b = PHASES[phase](r, done, b)
    stay = w.there & ~frees
    # Page tables will not show that these translations were flushed: mark their frames.
    flushed = asked.pending | (asked.one > 0) | (asked.whole > 0)
    put_back = stay & (pages.unmapped | pages.refused)
    put_back &= tlbs.some_drop_pages(r, m.cpus, flushed, carry.flushes.emptied)
    m = _clear(setup, m, t, done, dst, (p.moved, put_back))
    # Frames are pushed only after the destinations have been popped.
    back = jnp.where((outcomes & FREES) != 0, xla.after(s.src, dst), NOWHERE)
    place = carry.start % setup.sizes.chunk + jnp.arange(s.src.shape[0])
    gone = carry.gone.at[place].set(back, mode="drop")
    m, gone = _give_back(setup, m, s.end, gone)
    movable = frame.kind(w.flags) == frame.MOVABLE_OPS
    left, marked, others = lanes.totals(stay, put_back, p.gone | (p.moved & movable))
    return dataclasses.replace(
        carry,
        m=m,
        start=s.end,
        gone=gone,
        mine=mine,
        stats=stats,
        remaining=carry.remaining + left,
        flushed=carry.flushed | flushed,
        marked=carry.marked | (marked > 0),
        others=carry.others | (others > 0),
    )


def _batches(setup: ShardSetup, stretch: ShardStretch) -> Lanes:
    """The batch of each page, counted from the one that is open or begins."""
    place = stretch.start + jnp.where(stretch.place == NOWHERE, 0, stretch.place)
    return place // setup.limit - stretch.start // setup.limit


def _flushes(
    setup: ShardSetup,
    carry: ShardCarry,
    stretch: ShardStretch,
    small: table.ShardTable,
    known: tuple[PageMaps, Plan, Pages],
    put_off: Bool[Array, " mms"],
) -> tuple[ShardCarry, FlushRequests]:
    """The flushes of all shards; the batches that end in the stretch are closed."""
    r, w = setup.rules, small.window
    seen, p, pages = known
    walks = (seen, walks_of(r, w, pages), pages.batch)
    pending, asked = asked_of(r, small.m, w, walks, stretch.src.shape[0] + 1, put_off)
    own = (pending.astype(jnp.int32), asked.one, asked.whole, lanes.totals(p.asleep)[0])
    counts, one, whole, asleep = jax.lax.psum(own, setup.axis)
    pending = counts > 0
    asked = FlushRequests(pending.any(axis=0), one, whole)
    ends = stretch.end // setup.limit - stretch.start // setup.limit
    ev, flushes, ending = carry.everyone, carry.flushes, (pending, asked, ends)
    ev, flushes = end_batches(r, ev, flushes, carry.m, setup.at.cpu, ending)
    asleep = carry.asleep | (asleep > 0)
    carry = dataclasses.replace(carry, flushes=flushes, everyone=ev, asleep=asleep)
    return carry, asked


def _allocate(
    setup: ShardSetup, m: Machine, stretch: ShardStretch, outcome: Int32[Array, " room"]
) -> tuple[Machine, Lanes, Int32[Array, " stretch"]]:
    """Frames from the node's stack by place in the list, and every page's outcome."""
    # Every shard needs all outcomes: the k-th page that moves gets the k-th frame.
    width = stretch.src.shape[0]
    none = jnp.zeros(width, jnp.int32)
    outcomes = none.at[stretch.place].set(outcome, mode="drop")
    outcomes = jax.lax.psum(outcomes, setup.axis)
    takes = (outcomes & TAKES) != 0
    count = takes.sum(dtype=jnp.int32)
    g, node = m.geometry, setup.at.node
    nth = jnp.arange(width, dtype=jnp.int32)
    slot = node * g.slots_per_node + m.top[node, 0] - 1 - nth
    slot = jnp.where(nth < count, slot, NOWHERE)
    d, read = setup.plan.slots, lambda here: lanes.rows(m.free, here)
    frames = post.window(d, setup.axis, slot, nth < count, read)
    rank = jnp.where(takes, lanes.rank(takes), NOWHERE)
    dst = post.pick(frames, post.pick(rank, stretch.place))
    m = dataclasses.replace(
        m, top=m.top.at[node, 0].add(-count), nfree=m.nfree.at[node].add(-count)
    )
    return m, dst, outcomes


def _clear(
    setup: ShardSetup,
    m: Machine,
    small: table.ShardTable,
    done: Machine,
    dst: Lanes,
    pages: tuple[Mask, Mask],
) -> Machine:
    """Write the table's rows and entries back, and copy contents.

    `pages`: those that move, and those whose entries were restored.
    """
    d, box = setup.plan.frames, setup.sizes.box
    takes, put_back = pages
    m = contents.move(d, setup.axis, m, small.src, dst, takes)
    taken = table.taken_in_order(dst, takes)
    here = small.src != NOWHERE
    rows = table.rows_of(small, done, put_back)
    m = _write_rows(m, d.local(small.src, here), here, rows)
    rows, there, axis = table.moved_rows(small, done), taken != NOWHERE, setup.axis
    m = post.send(d, axis, taken, there, rows, _write_rows, m, box)
    words, changed = table.words_of(small, done, taken)
    d, entry = setup.plan.entries, small.entries.reshape(-1)
    entries = post.send(d, axis, entry, changed, words, lanes.scatter, m.pte, box)
    return dataclasses.replace(m, pte=entries)


def _write_rows(
    m: Machine, at: Lanes, where: Mask, rows: Int32[Array, "lanes columns"]
) -> Machine:
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, at, where, rows[:, :4]))
    if m.conditions is None:
        return m
    states = lanes.scatter(m.conditions, at, where, rows[:, 4:])
    return dataclasses.replace(m, conditions=states)


def _give_back(
    setup: ShardSetup, m: Machine, end: Index, gone: Lanes
) -> tuple[Machine, Lanes]:
    """At the end of a chunk, free the old frames in the order of the list."""
    me = jax.lax.axis_index(setup.axis)
    d, g = setup.plan.slots, m.geometry

    def give(state: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
        m, gone = state
        home = jnp.where(gone == NOWHERE, g.nodes, m.node_of(gone))
        for node in range(g.nodes):
            mine = home == node
            slot = node * g.slots_per_node + m.top[node, 0] + lanes.rank(mine)
            count = mine.sum(dtype=jnp.int32)
            here = mine & (d.owner(slot) == me)
            m = dataclasses.replace(
                m,
                free=lanes.scatter(m.free, d.local(slot, here), here, gone),
                top=m.top.at[node, 0].add(count),
                nfree=m.nfree.at[node].add(count),
            )
        return m, jnp.full_like(gone, NOWHERE)

    over = (end % setup.sizes.chunk == 0) | (end >= setup.size)
    return xla.when(over, give, (m, gone))
