"""One window of a call's list, on every shard at once.

Each shard works on the pages of the window whose frames it keeps; their entries and the
frames that they get, by their places in the list as on one device, may be anywhere.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, xla
from jaxmig.events import Events
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import flush, lanes
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Known, Lanes, Mask
from jaxmig.policy.apply import apply
from jaxmig.policy.batched import book
from jaxmig.policy.call import Stats
from jaxmig.policy.folio import Where
from jaxmig.policy.look import Seen, look
from jaxmig.policy.plan import Plan as Fates, plan
from jaxmig.policy.rounds import immediates, pendings
from jaxmig.pytree import pytree
from jaxmig.shard import contents, post, table
from jaxmig.shard.window import Job, Window, open_window

Index = Int32[Array, ""]
TAKES, FREES = 1, 2  # what becomes of a page of the window


@pytree
class Carry:
    """What one window hands to the next."""

    m: Machine
    start: Index  # where in the list
    gone: Int32[Array, " chunk"]  # frames of this chunk to be given back, by place
    owed: Owed  # `immediate` of this shard, all else of the call
    everyone: Events  # rounds
    mine: Events  # all that pages of this shard counted
    stats: Stats
    remaining: Index
    asleep: Bool[Array, ""]
    marked: Bool[Array, ""]
    flushed: Bool[Array, ""]


def on_table(j: Job, m: Machine, src: Lanes) -> table.Table:
    """This shard's pages with all that belongs to them."""
    d = j.plan.frames
    here = d.local(src, src != NOWHERE)
    row = xla.read(here, lambda: lanes.rows(m.frame, here))
    c, states = m.conditions, None
    if c is not None:
        states = xla.read(here, lambda: lanes.rows(c, here))
        states = jnp.where((src != NOWHERE)[:, None], states, 0)
    entry = jnp.where(src == NOWHERE, NOWHERE, row[:, RMAP])
    entries, words = [], []
    for _ in range(j.plan.maps):
        found = post.fetch(
            j.plan.entries, j.axis, entry, lambda e: _entry(m, e), j.sizes.box
        )
        entries.append(entry)
        words.append(found[:, :2])
        if m.geometry.shared:
            entry = jnp.where(entry == NOWHERE, NOWHERE, found[:, 2])
    return table.lay(
        src,
        row,
        states,
        jnp.stack(entries),
        jnp.stack(words),
        m.cpus,
        m.geometry.shared,
    )


def _entry(m: Machine, at: Lanes) -> Int32[Array, "lanes words"]:
    """Both words of entries that this shard keeps, and the next of their chains."""
    words = lanes.rows(m.pte, at)
    if not m.geometry.shared:
        return words
    return jnp.concatenate([words, lanes.rows(m.rmap_next, at)[:, None]], axis=1)


def work(j: Job, c: Carry) -> Carry:
    """The window that begins where the last one ended."""
    r, cpu = j.rules, j.at.cpu
    w = open_window(j, c.start)
    t = on_table(j, c.m, w.mine)
    put_off = flush.deferrable(r, c.m.cpus, cpu)
    row, seen = look(r, t.m, t.lane, put_off)
    p, f = plan(r, t.m, t.lane, row, seen)
    c = _rounds(j, c, w, t, row, seen, p, put_off)
    mlocked = frame.has(row[:, frame.FLAGS], frame.MLOCKED)
    drained = mlocked if r.drains_mlocked else seen.maps > 0
    mine, stats = book(c.mine, c.stats, seen, p, drained, f)
    takes = p.moved & ~p.released
    fate = jnp.where(takes, TAKES, 0) + jnp.where(p.moved | p.freed, FREES, 0)
    m, dst, fates = _allocate(j, c.m, w, fate)
    # What one device does to the machine is done to the table.
    known = Known(row, seen.words)
    late = p.first.unmapped & False if p.second is None else p.second.unmapped
    again = f.live & ~p.moved & p.unmapped & ~f.movable
    again &= ~put_off[seen.mm] | late
    done = apply(t.m, t.lane, known, p, f, Where(cpu, jnp.int32(1)), again)
    m = _clear(j, m, t, done, dst, takes)
    # The stack has been read: frames must not come back before that.
    back = jnp.where((fates & FREES) != 0, xla.after(w.src, dst), NOWHERE)
    place = c.start % j.sizes.chunk + jnp.arange(w.src.shape[0])
    gone = c.gone.at[place].set(back, mode="drop")
    m, gone = _give_back(j, m, w.end, gone)
    return dataclasses.replace(
        c,
        m=m,
        start=w.end,
        gone=gone,
        mine=mine,
        stats=stats,
        remaining=c.remaining + (f.live & ~p.moved).sum(dtype=jnp.int32),
        asleep=c.asleep | p.first.asleep.any(),
        marked=c.marked | again.any(),
        flushed=c.flushed | (p.freed | (p.moved & f.movable)).any(),
    )


def _rounds(
    j: Job,
    c: Carry,
    w: Window,
    t: table.Table,
    row: Int32[Array, "lanes 4"],
    seen: Seen,
    p: Fates,
    put_off: Bool[Array, " mms"],
) -> Carry:
    """Close the batches that end in the window; its last one may go on in the next."""
    base = w.start // j.limit
    at = w.start + jnp.where(w.place == NOWHERE, 0, w.place)
    local = at // j.limit - base
    owes = p.first.unmapped | (p.first.pin_tries > 0)
    slots = j.sizes.window + 1
    pending = pendings(t.m, t.lane, row, seen, owes, local, slots, put_off, j.rules)
    pending = post.any_shard(pending, j.axis)
    pending = pending.at[0].set(pending[0] | c.owed.open)
    whole = w.end // j.limit - base
    still = pending[jnp.minimum(whole, slots - 1)] & (whole < slots)
    more = immediates(t.m, row, seen, p, put_off)
    owed = dataclasses.replace(c.owed, open=still, immediate=c.owed.immediate + more)
    closed = jnp.arange(slots) < whole
    everyone, owed = flush.close(
        j.rules, c.everyone, owed, c.m.cpus, j.at.cpu, pending, closed
    )
    return dataclasses.replace(c, owed=owed, everyone=everyone)


def _allocate(
    j: Job, m: Machine, w: Window, fate: Int32[Array, " room"]
) -> tuple[Machine, Lanes, Int32[Array, " window"]]:
    """Frames from the node's stack by place in the list, and every page's fate."""
    width = w.src.shape[0]
    none = jnp.zeros(width, jnp.int32)
    fates = jax.lax.psum(none.at[w.place].set(fate, mode="drop"), j.axis)
    takes = (fates & TAKES) != 0
    count = takes.sum(dtype=jnp.int32)
    g, node = m.geometry, j.at.node
    nth = jnp.arange(width, dtype=jnp.int32)
    slot = node * g.slots_per_node + m.top[node, 0] - 1 - nth
    slot = jnp.where(nth < count, slot, NOWHERE)
    frames = post.window(
        j.plan.slots, j.axis, slot, nth < count, lambda s: lanes.rows(m.free, s)
    )
    rank = jnp.where(takes, lanes.rank(takes), NOWHERE)
    dst = post.pick(frames, post.pick(rank, w.place))
    m = dataclasses.replace(
        m, top=m.top.at[node, 0].add(-count), nfree=m.nfree.at[node].add(-count)
    )
    return m, dst, fates


def _clear(
    j: Job, m: Machine, t: table.Table, done: Machine, dst: Lanes, takes: Mask
) -> Machine:
    """From the table back to where everything is kept, contents included."""
    d, box = j.plan.frames, j.sizes.box
    m = contents.move(d, j.axis, m, t.src, dst, takes)
    taken = table.taken_in_order(dst, takes)
    here = t.src != NOWHERE
    m = _write_rows(m, d.local(t.src, here), here, table.rows_of(t, done))
    m = post.send(
        d,
        j.axis,
        taken,
        taken != NOWHERE,
        table.moved_rows(t, done),
        _write_rows,
        m,
        box,
    )
    words, changed = table.words_of(t, done, taken)
    entries = post.send(
        j.plan.entries,
        j.axis,
        t.entries.reshape(-1),
        changed,
        words,
        lanes.scatter,
        m.pte,
        box,
    )
    return dataclasses.replace(m, pte=entries)


def _write_rows(
    m: Machine, at: Lanes, where: Mask, rows: Int32[Array, "lanes columns"]
) -> Machine:
    m = dataclasses.replace(m, frame=lanes.scatter(m.frame, at, where, rows[:, :4]))
    if m.conditions is None:
        return m
    states = lanes.scatter(m.conditions, at, where, rows[:, 4:])
    return dataclasses.replace(m, conditions=states)


def _give_back(j: Job, m: Machine, end: Index, gone: Lanes) -> tuple[Machine, Lanes]:
    """At the end of a chunk, frames go back to their nodes in the order of the list."""
    me = jax.lax.axis_index(j.axis)
    d, g = j.plan.slots, m.geometry

    def give(s: tuple[Machine, Lanes]) -> tuple[Machine, Lanes]:
        m, gone = s
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

    over = (end % j.sizes.chunk == 0) | (end >= j.size)
    return xla.when(over, give, (m, gone))
