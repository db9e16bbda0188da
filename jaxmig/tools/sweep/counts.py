"""What a call counts, without moving a page: for many configurations at once.

As long as no batch affects another (`migrate.uncoupled`), the outcome of a folio does
not depend on the folios before it, and follows from the machine before the call.  Batch
limit and CPU masks then only decide which batch a folio is in and which CPUs a flush
interrupts: under `vmap` over those two, outcomes are worked out once for all
configurations.

The functions are those of the call itself, without the writes between them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.engine import migrate
from jaxmig.engine.chunk import count_window, look_and_plan
from jaxmig.engine.migrate import Result, uncoupled
from jaxmig.engine.windows import close_at, open_window
from jaxmig.linux import outcomes as oc, tlb
from jaxmig.linux.batches import cut
from jaxmig.linux.call import Stats, no_stats
from jaxmig.linux.flush_requests import close_batches
from jaxmig.linux.folio import SLEEPS
from jaxmig.linux.mappings import PageMaps
from jaxmig.linux.phases import flush
from jaxmig.linux.phases.flush import CallFlushes
from jaxmig.linux.plan import Pages, of_pages
from jaxmig.linux.rules import Rules
from jaxmig.state import events, lanes
from jaxmig.state.events import Events
from jaxmig.state.frame import MAPCOUNT
from jaxmig.state.lanes import CHUNK, Lanes
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

Index = Int32[Array, ""]
What = tuple[Lanes, Index, Index, Index]  # list, its size, node, CPU


@pytree
class Sums:
    """What one window hands to the next."""

    ev: Events
    stats: Stats
    flushes: CallFlushes
    next: Index  # place on the list of the first folio that is not counted yet
    open: Index  # base pages of the batch that goes on
    asleep: Index  # folios that the call would wait for for ever
    shift: Int32[Array, " nodes"]  # by how many base pages mapped each node has more


def countable(rules: Rules, m: Machine, size: int, node: int) -> bool:
    """Whether `count` serves a call.

    Args:
      m: the machine, not traced.
      size: how many folios are on the list.
      node: the target node.
    Returns:
      False for calls whose batches can affect each other, and with hugetlb folios.
    """
    return not m.geometry.hugetlb and uncoupled(rules, m, size, node)


def count(
    rules: Rules, m: Machine, call: What, limit: Index, chunk: int = CHUNK
) -> tuple[Result, Int32[Array, " nodes"]]:
    """What the call returns and counts, and how many more base pages each node maps.

    Only for calls that are `countable()`, and lists that name a folio once.

    Args:
      call: int32[folios] head frames; int32: how many are listed, node, migrating CPU.
      limit: int32, base pages that close a batch; serial releases have none.
      chunk: base pages a window.
    Returns:
      The result; int32[nodes], the change of base pages mapped.
    """
    folios, size, node, cpu = call
    most = m.geometry.largest
    width = min(max(chunk, most), folios.shape[0] * most)
    folios = jnp.pad(folios, (0, max(width - folios.shape[0], 0)))
    put_off = tlb.should_defer(rules, m.cpus, cpu)
    limit = close_at(rules, limit)

    def window(sums: Sums) -> Sums:
        w, place = open_window(m, folios, sums.next, size, width)
        batches = cut(rules, w, sums.open, limit)
        seen, mapped, p = look_and_plan(rules, m, w, put_off)
        pages = of_pages(w, p, batches.batch)
        known = (seen, p, pages, batches, place)
        ev, flushes = sums.ev, sums.flushes
        ev, flushes, _ = close_batches(rules, ev, flushes, m, cpu, w, known, put_off)
        ev, stats = count_window(rules, ev, sums.stats, w, (seen, mapped, p, pages))
        ev = ev.add(batches=jnp.where(rules.batched, batches.closed, 0))
        (asleep,) = lanes.totals(p.asleep)
        asleep += sums.asleep
        shift = sums.shift + _shift(m, w, seen, pages, node)
        after = sums.next + w.count
        return Sums(ev, stats, flushes, after, batches.open, asleep, shift)

    none = jnp.int32(0)
    c = Sums(
        events.none(m.cpus.lazy.shape[0]),
        no_stats(),
        flush.no_flushes(m.cpus),
        none,
        none,
        none,
        jnp.zeros(m.geometry.nodes, jnp.int32),
    )
    c = jax.lax.while_loop(lambda c: c.next < size, window, c)
    ev, flushes = c.ev, c.flushes
    last = flushes.open[None], (flushes.caught_up > flushes.deferred)[None]
    ev, flushes = flush.close(rules, ev, flushes, m.cpus, cpu, *last)
    ev = ev.add(batches=c.open > 0)
    ev = flush.count_immediate(rules, ev, flushes, m.cpus, cpu)
    error = jnp.where(c.asleep > 0, SLEEPS, 0)
    return migrate.answer(ev, c.stats, c.stats.failed, error), c.shift


def _shift(
    m: Machine, window: Window, seen: PageMaps, pages: Pages, node: Index
) -> Int32[Array, " nodes"]:
    """How many more base pages each node maps after a window."""
    # From mapcounts: PageMaps leaves out drivers' pages, which have no rmap.
    maps = window.page_row[:, MAPCOUNT] + seen.pmds * (PMD_PAGES - 1)
    moved = (pages.ends & oc.MOVED) != 0
    home = m.node_of(jnp.where(window.page == NOWHERE, 0, window.page))
    none = jnp.zeros(m.geometry.nodes, jnp.int32)
    left = none.at[home].add(jnp.where(moved | pages.gone, maps, 0))
    (came,) = lanes.totals(jnp.where(moved, maps, 0))
    return none.at[node].add(came) - left
