"""Where a window's batches end, and how many of them can be migrated at once.

A list is cut where its base pages reach the limit; as posted, before the folio that
would exceed it.  A batch affects a later one only by the free memory that it leaves, and
by splits: up to the first batch in which that could matter, all are migrated at once.

Source: migrate_pages() in mm/migrate.c.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.rules import Rules
from jaxmig.state import lanes, xla
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

Index = Int32[Array, ""]


@pytree
class Cut:
    """Batches of a window; the first may have begun before it."""

    batch: Lanes  # number of each folio's batch; 0: the one begun before the window
    closed: Index  # batches that end in the window
    open: Index  # base pages of the batch that goes on behind the window


def cut(rules: Rules, window: Window, open_pages: Index, limit: Index) -> Cut:
    """The batches of a window's folios.

    Args:
      open_pages: int32, base pages of the batch that was begun before the window.
      limit: int32, base pages at which a batch is closed.
    Returns:
      int32[lanes] batch numbers, and how many batches end and go on.
    Source: migrate_pages() in mm/migrate.c: NR_MAX_BATCHED_MIGRATION.
    """

    def by_division() -> tuple[Array, ...]:
        lane = jnp.arange(window.head.shape[0], dtype=jnp.int32)
        # As posted, a folio larger than the limit leaves a batch open that is over it.
        held = jnp.minimum(open_pages, limit)
        place = jnp.maximum(lane - window.skipped, 0) + held
        whole = (held + window.count) // limit
        left = held + window.count - whole * limit
        return lanes.numbers(place, limit), whole, left

    def one_by_one() -> tuple[Array, ...]:
        return _counted(rules, window, open_pages, limit)

    if not window.large:
        return Cut(*by_division())
    if not window.by_heads:
        return Cut(*one_by_one())
    some = lanes.some(window.pages > 1)[0]
    return Cut(*jax.lax.cond(some, one_by_one, by_division))


def _counted(
    rules: Rules, window: Window, open_pages: Index, limit: Index
) -> tuple[Array, ...]:
    if xla.marks():
        return jax.lax.platform_dependent(
            window.pages,
            window.skipped,
            open_pages,
            limit,
            cpu=lambda *args: _in_turn(rules, *args),
            default=lambda *args: _by_jumps(rules, window, *args[2:]),
        )
    return _by_jumps(rules, window, open_pages, limit)


def _in_turn(
    rules: Rules,
    pages: Lanes,
    skipped: Index,
    open_pages: Index,
    limit: Index,
) -> tuple[Array, ...]:
    """Folio after folio, in one compiled function."""
    # As posted, a batch stays open, even if full, until the next folio.
    posted = jnp.asarray(rules.crossing_opens_next, jnp.int32)
    most = limit - 1 + posted

    def one(carry: tuple[Index, ...], size: Index) -> tuple[tuple[Index, ...], Index]:
        # What the next lane waits for is short: a sum, a comparison and a choice.
        number, held, most, posted = carry
        after = held + size
        full = after > jnp.where(size > 0, most, NOWHERE)
        mine = number + jnp.where(full, posted, 0)
        held = jnp.where(full, jnp.where(posted > 0, size, 0), after)
        return (number + full, held, most, posted), mine

    # A first folio that is larger than the limit ends no batch before it.
    alone = (posted > 0) & (open_pages == 0) & (xla.row(pages, skipped) > most)
    start = (-alone.astype(jnp.int32), open_pages, most, posted)
    (number, held, _, _), batch = lanes.in_turn(one, start, pages, lanes.TOGETHER)
    return batch, number, held


def _by_jumps(
    rules: Rules, window: Window, open_pages: Index, limit: Index
) -> tuple[Array, ...]:
    """The same for all folios at once: first folios of batches, by pointer doubling.

    If folio i is the first of a batch, folio `after[i]` is the first of the next one.
    """
    count = window.pages.shape[0]
    lane = jnp.arange(count, dtype=jnp.int32)
    pages = window.pages
    upto = lanes.running(pages)
    total = upto[-1]

    # As posted, the folio that would exceed the limit opens the next batch.
    posted = jnp.asarray(rules.crossing_opens_next, jnp.int32)

    def first_beyond(start: Lanes) -> Lanes:
        """The first folio of the next batch, if one begins after `start` base pages."""
        room = jnp.minimum(limit, total + 1)
        found = jnp.searchsorted(upto, start + room + posted).astype(jnp.int32)
        return found + 1 - posted

    # A folio larger than the limit is a batch of its own.
    own = jnp.searchsorted(upto, upto - pages + 1).astype(jnp.int32)
    after = first_beyond(upto - pages)
    after = jnp.where(posted > 0, jnp.maximum(after, own + 1), after)
    # One more place, behind the last folio, points to itself.
    after = jnp.minimum(jnp.append(after, count), count)
    begun = jnp.searchsorted(upto, limit - open_pages + posted) + 1 - posted
    begun = jnp.where(posted > 0, jnp.maximum(begun, window.skipped), begun)
    some = open_pages > 0
    # The first batch that begins here: at the first folio, unless one was open.
    first = jnp.where(some, jnp.minimum(begun, count), window.skipped).astype(jnp.int32)
    begins = jnp.zeros(count + 1, bool).at[first].set(True)

    def more(carry: tuple[Array, Array, Array]) -> Array:
        return carry[2]

    def double(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        begins, after, _ = carry
        place = jnp.where(begins, after, count)
        wider = begins.at[place].set(True)
        return wider, after[after], (wider != begins).any()

    begins, _, _ = jax.lax.while_loop(more, double, (begins, after, jnp.asarray(True)))
    begins = begins[:count] & (lane < count) & window.there
    batch = lanes.running(begins) - jnp.where(some, 0, 1)
    batch = jnp.maximum(batch, 0)
    last = batch.max()
    (held,) = lanes.totals(jnp.where(batch == last, pages, 0))
    held += jnp.where((last == 0) & some, open_pages, 0)
    full = (posted == 0) & (held >= limit)
    return batch, last + full, jnp.where(full, 0, held)


def whole_batches(cut: Cut, hard: Mask, there: Mask, cuts: Bool[Array, ""]) -> Mask:
    """The folios that can be migrated at once: those before the first hard batch.

    Args:
      cut: the window's batches.
      hard: folios whose batch must be migrated one folio at a time.
      there: lanes that hold a folio.
      cuts: whether a batch that goes on behind the window is left out, too.
    Returns:
      bool[lanes].
    """
    first_hard = jnp.where(hard & there, cut.batch, NOWHERE).min()
    goes_on = (cut.open > 0) & cuts
    first_left = jnp.minimum(first_hard, jnp.where(goes_on, cut.closed, NOWHERE))
    return there & (cut.batch < first_left)
