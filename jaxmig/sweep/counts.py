"""What a call counts, without moving a page: for many configurations at once.

What becomes of a base page does not depend on what the batches before it have done, as
long as memory lasts (`policy/batched.py`); so its fate can be read off the machine as it
is before the call.  Batch limit and CPU masks then only decide how pages fall into
batches and whom a flush interrupts: under `vmap` over those two, pages are looked at
once for all configurations.

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
from jaxmig.migrate import CHUNK, Result
from jaxmig.phases import flush
from jaxmig.phases.flush import Owed
from jaxmig.phases.lanes import Lanes
from jaxmig.policy.batched import book, chunk_of
from jaxmig.policy.call import Stats, no_stats
from jaxmig.policy.folio import SLEEPS
from jaxmig.policy.look import look
from jaxmig.policy.plan import Plan, plan
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


def count(
    r: Rules, m: Machine, call: What, limit: Index, chunk: int = CHUNK
) -> tuple[Result, Int32[Array, " nodes"]]:
    """What the call returns and counts, and how many more base pages each node maps.

    Args:
      call: list, how many of it, node, CPU.
      limit: base pages that close a batch.

    Only for calls of which `migrate.never_short()` holds, and lists that name a folio
    once.
    """
    folios, size, _, cpu = call
    a = Asked(r, m, *call, limit)
    width = chunk_of(folios.shape[0], chunk)
    c = Carry(
        events.none(m.cpus.lazy.shape[0]),
        no_stats(),
        flush.nothing_owed(m.cpus),
        jnp.int32(0),
        jnp.asarray(False),
        jnp.zeros(m.geometry.nodes, jnp.int32),
    )
    trips = -(-size // width)
    c = jax.lax.fori_loop(0, trips, lambda i, c: _chunk(a, width, i, c), c)
    live = jnp.ones(1, bool)
    ev, owed = flush.close(r, c.ev, c.owed, m.cpus, cpu, c.owed.open[None], live)
    ev = flush.count_immediate(r, ev, owed, m.cpus, cpu).add(batches=-(-size // limit))
    error = jnp.where(c.asleep, SLEEPS, 0)
    return migrate.answer(ev, c.stats, c.remaining, error), c.shift


def _chunk(a: Asked, width: int, i: Index, c: Carry) -> Carry:
    """The pages i * width ... of the list."""
    r, m, start = a.rules, a.m, i * width
    first = jnp.minimum(start, a.folios.shape[0] - width)
    index = first + jnp.arange(width, dtype=jnp.int32)
    src = jax.lax.dynamic_slice_in_dim(a.folios, first, width)
    src = jnp.where((index >= start) & (index < a.size), src, NOWHERE)
    put_off = flush.deferrable(r, m.cpus, a.cpu)
    row, seen = look(r, m, src, put_off)
    p, f = plan(r, m, src, row, seen)
    span = Span(start, jnp.minimum(start + width, a.size), index, a.limit)
    known = (src, row, seen, p)
    ev, owed, _ = settle(r, c.ev, c.owed, m, a.cpu, span, known, put_off)
    mlocked = frame.has(row[:, FLAGS], frame.MLOCKED)
    drained = mlocked if r.release.arm64_defers else seen.maps > 0
    ev, stats = book(ev, c.stats, seen, p, drained, f)
    failed = (f.live & ~p.moved).sum(dtype=jnp.int32)
    return Carry(
        ev,
        stats,
        owed,
        c.remaining + failed,
        c.asleep | p.first.asleep.any(),
        c.shift + _shift(a, src, row, p),
    )


def _shift(
    a: Asked, src: Lanes, row: Int32[Array, "lanes 4"], p: Plan
) -> Int32[Array, " nodes"]:
    maps = row[:, MAPCOUNT]
    none = jnp.zeros(a.m.geometry.nodes, jnp.int32)
    home = a.m.node_of(jnp.where(src == NOWHERE, 0, src))
    left = none.at[home].add(jnp.where(p.moved | p.freed, maps, 0))
    arrived = jnp.where(p.moved & ~p.released, maps, 0).sum(dtype=jnp.int32)
    return none.at[a.node].add(arrived) - left
