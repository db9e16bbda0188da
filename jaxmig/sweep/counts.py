"""What a call counts, without moving a page: for many configurations at once.

What becomes of a base page does not depend on what the pages before it have done, as
long as memory lasts (`policy/batched.py`, `policy/serial_lanes.py`); so its fate can be
read off the machine as it is before the call.  Batch limit and CPU masks then only
decide how pages fall into batches and whom a flush interrupts: under `vmap` over those
two, pages are looked at once for all configurations.

The functions are those of the call itself, without the writes between them.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import events, frame, migrate
from jaxmig.events import Events
from jaxmig.frame import FLAGS, MAPCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.migrate import Result, never_short
from jaxmig.phases import flush
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import CHUNK, Lanes, Mask
from jaxmig.policy import serial_lanes, serial_pages
from jaxmig.policy.batched import book, chunk_of
from jaxmig.policy.call import Stats, no_stats
from jaxmig.policy.folio import SLEEPS
from jaxmig.policy.look import look
from jaxmig.policy.plan import plan
from jaxmig.policy.rounds import Span, settle
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]
What = tuple[Lanes, Index, Index, Index]  # list, its size, node, CPU


@pytree
class Carry:
    """What one chunk hands to the next."""

    ev: Events
    stats: Stats
    owed: Owed
    remaining: Index
    asleep: Bool[Array, ""]
    shift: Int32[Array, " nodes"]  # base pages mapped on each node, the change


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call."""

    rules: Rules
    m: Machine
    folios: Lanes
    size: Index
    node: Index
    cpu: Index
    limit: Index


def countable(r: Rules, m: Machine, size: int, node: int) -> bool:
    """Whether `count` serves a call; the arrays must be known."""
    if r.batched:
        return never_short(r, m, size, node)
    return serial_pages.fits(m) and size <= int(m.nfree[node])


def count(
    r: Rules, m: Machine, call: What, limit: Index, chunk: int = CHUNK
) -> tuple[Result, Int32[Array, " nodes"]]:
    """What the call returns and counts, and how many more base pages each node maps.

    Args:
      call: list, how many of it, node, CPU.
      limit: base pages that close a batch; serial releases have none.

    Only for calls that are `countable()`, and lists that name a folio once.
    """
    a = Asked(r, m, *call, limit)
    width = chunk_of(a.folios.shape[0], chunk)
    return _batched(a, width) if r.batched else _serial(a, width)


def _batched(a: Asked, width: int) -> tuple[Result, Int32[Array, " nodes"]]:
    r, cpus = a.rules, a.m.cpus
    c = Carry(
        events.none(cpus.lazy.shape[0]),
        no_stats(),
        flush.nothing_owed(cpus),
        jnp.int32(0),
        jnp.asarray(False),
        jnp.zeros(a.m.geometry.nodes, jnp.int32),
    )
    trips = -(-a.size // width)
    c = jax.lax.fori_loop(0, trips, lambda i, c: _chunk(a, width, i, c), c)
    live = jnp.ones(1, bool)
    ev, owed = flush.close(r, c.ev, c.owed, cpus, a.cpu, c.owed.open[None], live)
    ev = flush.count_immediate(r, ev, owed, cpus, a.cpu)
    ev = ev.add(batches=-(-a.size // a.limit))
    error = jnp.where(c.asleep, SLEEPS, 0)
    return migrate.answer(ev, c.stats, c.remaining, error), c.shift


def _serial(a: Asked, width: int) -> tuple[Result, Int32[Array, " nodes"]]:
    r, cpus, nodes = a.rules, a.m.cpus, a.m.geometry.nodes
    mms, passes = cpus.mask.shape[0], serial_pages.PASSES

    def some(i: Index, sums: tuple) -> tuple:
        src, _ = _listed(a, width, i)
        row, seen = look(r, a.m, src, jnp.zeros(mms, bool))
        f = serial_lanes.fates(src, row, seen)
        new = (
            serial_lanes.registers(f, seen, passes),
            serial_lanes.flushes(f, seen, mms, passes),
            _shift(a, src, row, f.moved, f.moved | f.freed),
        )
        return jax.tree.map(jnp.add, sums, new)

    sizes = (serial_pages.REGISTERS, mms, nodes)
    none = tuple(jnp.zeros(n, jnp.int32) for n in sizes)
    reg, told, shift = jax.lax.fori_loop(0, -(-a.size // width), some, none)
    owed = dataclasses.replace(flush.nothing_owed(cpus), immediate=told)
    ev = serial_pages.count(r, events.none(cpus.lazy.shape[0]), reg, owed, cpus, a.cpu)
    kept = reg[serial_pages.KEPT]
    stats = no_stats().add(failed=kept, failed_pages=kept)
    return migrate.answer(ev, stats, kept, jnp.int32(0)), shift


def _listed(a: Asked, width: int, i: Index) -> tuple[Lanes, Lanes]:
    """The pages i * width ... of the list, and their places on it."""
    start = i * width
    # The last slice of a list that chunks do not fill begins earlier: slices clamp.
    first = jnp.minimum(start, a.folios.shape[0] - width)
    index = first + jnp.arange(width, dtype=jnp.int32)
    src = jax.lax.dynamic_slice_in_dim(a.folios, first, width)
    return jnp.where((index >= start) & (index < a.size), src, NOWHERE), index


def _chunk(a: Asked, width: int, i: Index, c: Carry) -> Carry:
    """Fates and flushes of a chunk."""
    r, m, start = a.rules, a.m, i * width
    src, index = _listed(a, width, i)
    put_off = flush.deferrable(r, m.cpus, a.cpu)
    row, seen = look(r, m, src, put_off)
    p, f = plan(r, m, src, row, seen)
    span = Span(start, jnp.minimum(start + width, a.size), index, a.limit)
    known = (src, row, seen, p)
    ev, owed, _ = settle(r, c.ev, c.owed, m, a.cpu, span, known, put_off)
    mlocked = frame.has(row[:, FLAGS], frame.MLOCKED)
    drained = mlocked if r.drains_mlocked else seen.maps > 0
    ev, stats = book(ev, c.stats, seen, p, drained, f)
    failed = (f.live & ~p.moved).sum(dtype=jnp.int32)
    return Carry(
        ev,
        stats,
        owed,
        c.remaining + failed,
        c.asleep | p.first.asleep.any(),
        c.shift + _shift(a, src, row, p.moved & ~p.released, p.moved | p.freed),
    )


def _shift(
    a: Asked, src: Lanes, row: Int32[Array, "lanes 4"], arrived: Mask, gone: Mask
) -> Int32[Array, " nodes"]:
    maps = row[:, MAPCOUNT]
    none = jnp.zeros(a.m.geometry.nodes, jnp.int32)
    home = a.m.node_of(jnp.where(src == NOWHERE, 0, src))
    left = none.at[home].add(jnp.where(gone, maps, 0))
    came = jnp.where(arrived, maps, 0).sum(dtype=jnp.int32)
    return none.at[a.node].add(came) - left
