"""One stretch of a call's list, on every shard at once.

Each shard works on the pages of the stretch whose frames it keeps; their entries and the
frames that they get, by their places in the list as on one device, may be anywhere.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import frame, tlb, xla
from jaxmig.events import Events
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.flush import Asked, Owed
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.policy.apply import PHASES, prepare
from jaxmig.policy.call import Stats
from jaxmig.policy.chunk import book, look_and_plan
from jaxmig.policy.folio import Where
from jaxmig.policy.look import Seen
from jaxmig.policy.plan import Pages, Plan, of_pages
from jaxmig.policy.rounds import asked_of, end_batches, walks_of
from jaxmig.pytree import pytree
from jaxmig.shard import contents, post, table, tlbs
from jaxmig.shard.window import Job, Stretch, open_stretch

Index = Int32[Array, ""]
TAKES, FREES = 1, 2  # what becomes of a page of the stretch


@pytree
class Carry:
    """What one stretch hands to the next."""

    m: Machine
    start: Index  # where in the list
    gone: Int32[Array, " chunk"]  # frames of this chunk to be given back, by place
    owed: Owed
    everyone: Events  # rounds
    mine: Events  # all that pages of this shard counted
    stats: Stats
    remaining: Index
    asleep: Bool[Array, ""]  # some page of any shard is waited for for ever
    flushed: Bool[Array, " mms"]  # address spaces of which something was flushed
    marked: Bool[Array, ""]  # some frame is, see `tlbs.py`
    others: Bool[Array, ""]  # others flushed: what was let go, what drivers moved


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
    """The stretch that begins where the last one ended."""
    r, cpu = j.rules, j.at.cpu
    s = open_stretch(j, c.start)
    t = on_table(j, c.m, s.mine)
    w, put_off = t.window, tlb.should_defer(r, c.m.cpus, cpu)
    seen, mapped, p = look_and_plan(r, t.m, w, put_off)
    pages = of_pages(w, p, _batches(j, s))
    c, asked = _flushes(j, c, s, t, (seen, p, pages), put_off)
    mine, stats = book(r, c.mine, c.stats, w, (seen, mapped, p, pages))
    frees = p.moved | p.gone
    outcome = jnp.where(p.moved, TAKES, 0) + jnp.where(frees, FREES, 0)
    m, dst, outcomes = _allocate(j, c.m, s, outcome)
    # What one device does to the machine is done to the table; TLBs and contents are not
    # on it.
    known = (seen, mapped, p, pages, asked, c.owed.emptied)
    done, b = prepare(t.m, w, known, Where(cpu, jnp.int32(1)), jnp.asarray(True))
    for phase in ("unmap", "remap"):
        done, b = PHASES[phase](r, done, b)
    stay = w.there & ~frees
    flushed = asked.pending | (asked.one > 0) | (asked.whole > 0)
    put_back = stay & (pages.unmapped | pages.refused)
    put_back &= tlbs.some_drop_pages(r, m.cpus, flushed, c.owed.emptied)
    m = _clear(j, m, t, done, dst, (p.moved, put_back))
    # The stack has been read: frames must not come back before that.
    back = jnp.where((outcomes & FREES) != 0, xla.after(s.src, dst), NOWHERE)
    place = c.start % j.sizes.chunk + jnp.arange(s.src.shape[0])
    gone = c.gone.at[place].set(back, mode="drop")
    m, gone = _give_back(j, m, s.end, gone)
    movable = frame.kind(w.flags) == frame.MOVABLE_OPS
    left, marked, others = lanes.totals(stay, put_back, p.gone | (p.moved & movable))
    return dataclasses.replace(
        c,
        m=m,
        start=s.end,
        gone=gone,
        mine=mine,
        stats=stats,
        remaining=c.remaining + left,
        flushed=c.flushed | flushed,
        marked=c.marked | (marked > 0),
        others=c.others | (others > 0),
    )


def _batches(j: Job, s: Stretch) -> Lanes:
    """The batch of each page, counted from the one that is open or begins."""
    place = s.start + jnp.where(s.place == NOWHERE, 0, s.place)
    return place // j.limit - s.start // j.limit


def _flushes(
    j: Job,
    c: Carry,
    s: Stretch,
    t: table.Table,
    known: tuple[Seen, Plan, Pages],
    put_off: Bool[Array, " mms"],
) -> tuple[Carry, Asked]:
    """What all shards ask for; the batches that end in the stretch are closed.

    The last one may go on in the next.
    """
    r, w = j.rules, t.window
    seen, p, pages = known
    walks = (seen, walks_of(r, w, pages), pages.batch)
    pending, asked = asked_of(r, t.m, w, walks, s.src.shape[0] + 1, put_off)
    own = (pending.astype(jnp.int32), asked.one, asked.whole, lanes.totals(p.asleep)[0])
    counts, one, whole, asleep = jax.lax.psum(own, j.axis)
    pending = counts > 0
    asked = Asked(pending.any(axis=0), one, whole)
    ends = s.end // j.limit - s.start // j.limit
    everyone, owed = end_batches(
        r, c.everyone, c.owed, c.m, j.at.cpu, (pending, asked, ends)
    )
    asleep = c.asleep | (asleep > 0)
    return dataclasses.replace(c, owed=owed, everyone=everyone, asleep=asleep), asked


def _allocate(
    j: Job, m: Machine, s: Stretch, outcome: Int32[Array, " room"]
) -> tuple[Machine, Lanes, Int32[Array, " stretch"]]:
    """Frames from the node's stack by place in the list, and every page's outcome."""
    width = s.src.shape[0]
    none = jnp.zeros(width, jnp.int32)
    outcomes = jax.lax.psum(none.at[s.place].set(outcome, mode="drop"), j.axis)
    takes = (outcomes & TAKES) != 0
    count = takes.sum(dtype=jnp.int32)
    g, node = m.geometry, j.at.node
    nth = jnp.arange(width, dtype=jnp.int32)
    slot = node * g.slots_per_node + m.top[node, 0] - 1 - nth
    slot = jnp.where(nth < count, slot, NOWHERE)
    frames = post.window(
        j.plan.slots, j.axis, slot, nth < count, lambda here: lanes.rows(m.free, here)
    )
    rank = jnp.where(takes, lanes.rank(takes), NOWHERE)
    dst = post.pick(frames, post.pick(rank, s.place))
    m = dataclasses.replace(
        m, top=m.top.at[node, 0].add(-count), nfree=m.nfree.at[node].add(-count)
    )
    return m, dst, outcomes


def _clear(
    j: Job,
    m: Machine,
    t: table.Table,
    done: Machine,
    dst: Lanes,
    pages: tuple[Mask, Mask],
) -> Machine:
    """From the table back to where everything is kept, contents included.

    `pages`: those that take a frame, and those whose entries were put back.
    """
    d, box = j.plan.frames, j.sizes.box
    takes, put_back = pages
    m = contents.move(d, j.axis, m, t.src, dst, takes)
    taken = table.taken_in_order(dst, takes)
    here = t.src != NOWHERE
    m = _write_rows(m, d.local(t.src, here), here, table.rows_of(t, done, put_back))
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
