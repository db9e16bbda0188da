"""migrate_pages() on the devices of a mesh: the same state and the same counts as on one.

The call is one program for all devices (`xla.shard_map`).  What one device does to all
pages of a chunk, each shard does to those whose frames it keeps; in between, shards
exchange the outcome of each place on the list, so that batches end, and frames are
allocated and freed, in the list's order (`work.py`).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxtyping import Array, Int32

from jaxmig.engine import migrate
from jaxmig.engine.migrate import Result
from jaxmig.engine.shard import tlbs, window, work
from jaxmig.engine.shard.deal import Deal
from jaxmig.engine.shard.sharded import Sharded, ShardPlan, deal_list
from jaxmig.engine.windows import close_at
from jaxmig.linux import tlb
from jaxmig.linux.call import no_stats
from jaxmig.linux.folio import SLEEPS, Where
from jaxmig.linux.phases import flush
from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, Defers
from jaxmig.linux.rules import Rules, from_word, rules, word
from jaxmig.state import arguments, events, xla
from jaxmig.state.events import Events
from jaxmig.state.lanes import CHUNK
from jaxmig.state.machine import NOWHERE, Machine

Index = Int32[Array, ""]


def migrate_pages(
    state: Sharded,
    folios: Any,
    node: int,
    *,
    kernel: str = "6.3",
    mode: str = "sync",
    reason: str = "syscall_or_cpuset",
    cpu: int = 0,
    batch: int = NR_MAX_BATCHED_MIGRATION,
    arch: str = "x86",
    memalloc: bool = False,
    donate: bool = False,
    size: int | None = None,
) -> tuple[Sharded, Result]:
    """Migrate folios, given by their head frames, to `node`, on all devices of a mesh.

    Machine and result are bit for bit what `jaxmig.migrate_pages` returns for the machine
    that was dealt out.

    Args:
      state: from `deal`; unchanged, unless `donate` gives its arrays away.
      folios, node, batch, size ...: as for `jaxmig.migrate_pages`.
    Returns:
      The machine after the call, on the same devices, and what the call returned and
      counted.
    Raises:
      ValueError: for a call that could run out of memory (it needs as many free pages as
        the list is long), and for what `jaxmig.migrate_pages` refuses.
    Source: migrate_pages() in mm/migrate.c.
    """
    r = rules(kernel, mode, reason, arch, memalloc)
    if not isinstance(state, Sharded):
        what = type(state).__name__
        raise ValueError(f"state is {what}: give what `deal()` makes of a machine")
    plan = state.plan
    heads, n = _folios(state, folios, size)
    node, cpu = arguments.node(state.m, node), arguments.cpu(state.m, cpu)
    limit = migrate.limit_of(arguments.whole("batch", batch, 0))
    limit = int(close_at(r, limit))
    _check(kernel, r, state, n, node)
    room = migrate.room_of(heads.shape[0])
    program = compiled(r.defers, plan, room, donate)
    numbers = (n, node, cpu, limit, int(word(r)))
    where = NamedSharding(plan.mesh, P())
    # Replicated arrays: with several processes a plain int32 would be on one device only.
    put = [
        jax.make_array_from_callback((), where, lambda _, x=x: np.int32(x))
        for x in numbers
    ]
    m, result = program(state.m, deal_list(heads, room, plan)[0], *put)
    return Sharded(m, plan), result


def _folios(state: Sharded, folios: Any, size: Any) -> tuple[np.ndarray, int]:
    """The list and its length, as `arguments.folios` checks them.

    In a program of several processes none has all frames: there it is not checked that
    folios are in use.
    """
    heads = np.asarray(arguments.frames(state.m, folios))
    most = heads.shape[0]
    n = most if size is None else arguments.whole("size", size, 0, most)
    arguments.listed_once(heads[:n])
    rows = state.m.frame
    if rows.is_fully_addressable and n:
        at = state.plan.frames.position(heads[:n])
        arguments.in_use(heads[:n], _flags(rows, at))
    return heads, n


def _flags(rows: jax.Array, at: np.ndarray) -> np.ndarray:
    """Flag words of rows that lie on several devices."""
    flags = np.zeros(at.shape, np.int32)
    for piece in rows.addressable_shards:
        here = at - (piece.index[0].start or 0)
        mine = (here >= 0) & (here < piece.data.shape[0])
        flags[mine] = arguments.flags_of(piece.data, here[mine])
    return flags


def _check(kernel: str, rules: Rules, state: Sharded, size: int, node: int) -> None:
    # -EDEADLOCK needs the folios of a batch in order, which shards do not have.
    if rules.crossing_opens_next and state.m.conditions is not None:
        raise ValueError(
            f"kernel {kernel!r}: stops inside a batch at a page in use; on one device only"
        )
    migrate.check_poison(kernel, state.m, bool(rules.offloads))
    if tlb.has_strays(rules, state.m.cpus):
        raise ValueError(
            f"kernel {kernel!r}: a CPU is in the mask of a process that it does not run; "
            "on one device only"
        )
    # After -ENOMEM the order of single folios matters, which shards do not have.
    free = int(np.asarray(state.m.nfree)[node])
    if size > free:
        raise ValueError(
            f"node {node} has {free} pages free, the list has {size}: a call that may "
            "run out of memory goes one folio at a time, on one device"
        )


@functools.cache
def compiled(
    defers: Defers | None, plan: ShardPlan, room: int, donate: bool
) -> xla.Program:
    """The program of a call.

    Args:
      defers: the user's own rule of a release, or None.
      plan: how the machine is cut up.
      room: length of the padded list.
      donate: whether the machine's arrays are given away.
    Returns:
      The program, compiled when it is first called.
    """
    return xla.Program(program(defers, plan, room), donate)


def program(
    defers: Defers | None, plan: ShardPlan, room: int, chunk: int = CHUNK
) -> Any:
    """The call as a function; traceable.

    Args:
      defers: the user's own rule of a release, or None.
      plan: how the machine is cut up.
      room: length of the padded list.
      chunk: base pages after which frames are freed, as on one device.
    Returns:
      A function of a Machine of dealt arrays, int32[room] dealt, and int32: size, node,
      CPU, limit, and the rules as bits (`rules.word`).
    """
    # As in `deal_list`, which lays out the list.
    block = min(plan.frames.block, -(-room // plan.shards))
    d = Deal(plan.shards, block, room)
    s = window.sizes(min(chunk, room), plan.shards)

    def call(
        m: Machine,
        folios: Array,
        size: Index,
        node: Index,
        cpu: Index,
        limit: Index,
        bits: Index,
    ) -> tuple[Machine, Result]:
        r, at = from_word(bits, defers), Where(cpu=cpu, node=node)
        return _run(window.ShardSetup(r, plan, s, folios, d, size, at, limit), m)

    def sharded(m: Machine, folios: Array, *numbers: Index) -> tuple[Machine, Result]:
        specs = plan.specs(m)
        given = specs, P(plan.axis), *[P()] * len(numbers)
        return xla.shard_map(call, plan.mesh, given, (specs, P()))(m, folios, *numbers)

    return sharded


def _run(setup: window.ShardSetup, m: Machine) -> tuple[Machine, Result]:
    """The whole call, on one of the shards."""
    cpus = m.cpus.lazy.shape[0]
    zero, no = jnp.int32(0), jnp.asarray(False)
    c = work.ShardCarry(
        m=m,
        start=zero,
        gone=jnp.full(setup.sizes.chunk, NOWHERE, jnp.int32),
        flushes=flush.no_flushes(m.cpus),
        everyone=events.none(cpus),
        mine=events.none(cpus),
        stats=no_stats(),
        remaining=zero,
        asleep=no,
        flushed=m.cpus.mask.any(axis=1) & no,
        marked=no,
        others=no,
    )

    def more(carry: work.ShardCarry) -> Array:
        # A page on which the call sleeps for ever ends it, after the page's chunk.
        stops = carry.asleep & (carry.start % setup.sizes.chunk == 0)
        return (carry.start < setup.size) & ~stops

    c = jax.lax.while_loop(more, lambda c: work.work(setup, c), c)
    # Counters of a shard's own pages are summed once, not in every stretch.
    c = _together(c, setup.axis)
    r, cpu, flushes = setup.rules, setup.at.cpu, c.flushes
    last = (flushes.open[None], no[None])
    ev, flushes = flush.close(r, c.everyone, flushes, m.cpus, cpu, *last)
    ev = flush.count_immediate(r, ev, flushes, m.cpus, cpu)
    m = tlbs.catch_up(r, setup.plan, c.m, cpu, flushes, c.flushed, c.others)
    m = tlbs.unmark(m, c.marked)
    batches = jnp.where(r.batched, -(-c.start // setup.limit), 0)
    ev = events.plus(ev, c.mine).add(batches=batches)
    error = jnp.where(c.asleep, SLEEPS, 0)
    return m, migrate.answer(ev, c.stats, c.remaining, error)


def _together(carry: work.ShardCarry, axis: str) -> work.ShardCarry:
    """What each shard has counted for itself, summed."""
    add = functools.partial(jax.lax.psum, axis_name=axis)
    some = lambda x: add(x.astype(jnp.int32)) > 0  # noqa: E731
    return dataclasses.replace(
        carry,
        mine=_sum(carry.mine, axis),
        stats=jax.tree.map(add, carry.stats),
        remaining=add(carry.remaining),
        marked=some(carry.marked),
        others=some(carry.others),
    )


def _sum(ev: Events, axis: str) -> Events:
    """Counters of all shards together, by halves of words, which cannot wrap."""
    low, high = jnp.uint32(0xFFFF), jnp.uint32(16)

    def wide(small: Array, large: Array) -> tuple[Array, Array]:
        halves = jax.lax.psum((small & low, small >> high, large), axis)
        middle = halves[1] + (halves[0] >> high)
        return (middle << high) | (halves[0] & low), halves[2] + (middle >> high)

    counts, ipis = wide(ev.low, ev.high), wide(ev.ipis, ev.ipis_high)
    return dataclasses.replace(
        ev, low=counts[0], high=counts[1], ipis=ipis[0], ipis_high=ipis[1]
    )
