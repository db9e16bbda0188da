"""What becomes of the folios of a window.

Most folios are moved by the first attempt, as their rows tell.  The others, for which a
check may fail, are gathered, and their attempts worked out in groups (`outcomes.py`).

Source: migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import outcomes as oc
from jaxmig.linux.rules import Rules, word
from jaxmig.state import conditions as cond, frame, lanes, xla
from jaxmig.state.frame import FLAGS, REFCOUNT
from jaxmig.state.lanes import Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window

END_BITS: Final = 8  # of Plan.ends
SHARE: Final = 8  # a group has one eighth of a window's lanes


@pytree
class Left:
    """What is left of the conditions of the folios that went through outcomes.py.

    They are compacted to the front, with their lanes: only these rows are written.
    """

    lane: Lanes  # of each such folio; NOWHERE behind the last one
    stays: Int32[
        Array, "lanes 4"
    ]  # for the old frame's row: zeros if the folio left it
    goes: Int32[Array, "lanes 4"]  # for the new frame's row, if the folio moved
    some_go: Bool[Array, ""]  # whether some row of `goes` is not zero


@pytree
class Plan:
    """What becomes of each folio of a window."""

    counts: Lanes  # attempts, see outcomes.py
    ends: Lanes
    lost: Lanes  # extra references that ended
    left: Left | None  # None if the machine has no conditions

    def number(self, what: int, stage: int) -> Lanes:
        """How many attempts of a kind a stage had."""
        return oc.number(self.counts, what, stage)

    @property
    def unmaps(self) -> Lanes:
        """How often each folio was unmapped."""
        return self.number(oc.UNMAPS, 0) + self.number(oc.UNMAPS, 1)

    @property
    def wasted(self) -> Lanes:
        """How many copies of each folio by an engine were not used."""
        first, second = ((self.ends & bit) != 0 for bit in (oc.LOST, oc.LOST * 2))
        return first.astype(jnp.int32) + second

    @property
    def moved(self) -> Mask:
        """Folios that have a new frame."""
        return (self.ends & oc.MOVED) != 0

    @property
    def gone(self) -> Mask:
        """Folios that only had to be freed: by their last user, or by their driver."""
        return (self.ends & (oc.FREED | oc.RELEASED)) != 0

    @property
    def freed(self) -> Mask:
        """Of these, those that had no user any more."""
        return (self.ends & oc.FREED) != 0

    @property
    def asleep(self) -> Mask:
        """Folios that would be waited for for ever."""
        return (self.ends & oc.ASLEEP) != 0


@pytree
class Pages:
    """What becomes of each base page: what becomes of its folio."""

    counts: Lanes
    ends: Lanes
    batch: Lanes
    unmapped: Mask  # its entries become migration entries
    refused: (
        Mask  # the head of a pinned folio, whose first entry is flushed and restored
    )
    gone: Mask  # freed


def of_pages(window: Window, plan: Plan, batch: Lanes) -> Pages:
    """The plan of a window's folios, for their pages."""
    counts, word = window.spread(plan.counts, batch << END_BITS | plan.ends)
    there = window.page != NOWHERE
    ends = jnp.where(there, word & ((1 << END_BITS) - 1), 0)
    movable = frame.kind(window.page_row[:, FLAGS]) == frame.MOVABLE_OPS
    counts = jnp.where(there & ~movable, counts, 0)
    first, second = (oc.number(counts, oc.UNMAPS, n) for n in (0, 1))
    refusals = oc.number(counts, oc.REFUSALS, 0) + oc.number(counts, oc.REFUSALS, 1)
    unmapped = first + second > 0
    return Pages(
        counts=counts,
        ends=ends,
        batch=word >> END_BITS,
        unmapped=unmapped,
        refused=(refusals > 0) & ~unmapped & window.is_head,
        gone=(ends & (oc.FREED | oc.RELEASED)) != 0,
    )


def plan(
    rules: Rules,
    m: Machine,
    window: Window,
    maps: Lanes,
    passes: Int32[Array, ""] | int = oc.PASSES,
) -> Plan:
    """Outcomes of a window's folios over all stages and passes.

    Args:
      maps: int32[lanes], entries that map each folio.
      passes: the most passes of a stage; 1: only what the first pass does.
    Returns:
      int32[lanes] by folio, and the conditions that are left.
    Source: migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
    """
    there = window.there
    plain = there & _passes_all_checks(window.row, maps)
    counts = jnp.where(plain, oc.PLAIN, 0)
    ends = jnp.where(plain, oc.OVER | oc.MOVED, 0)
    return _odd_ones(rules, m, window, maps, there & ~plain, (counts, ends), passes)


def _passes_all_checks(row: Int32[Array, "lanes 4"], maps: Lanes) -> Mask:
    """Folios that move at the first try: known by their rows alone."""
    flags, refs = row[:, FLAGS], row[:, REFCOUNT]
    odd = frame.has(flags, frame.CONDITIONED | frame.HURT)
    odd |= frame.kind(flags) == frame.MOVABLE_OPS
    return ~odd & (refs > 0) & (refs == maps + frame.cache_refs(flags))


def _odd_ones(
    rules: Rules,
    m: Machine,
    window: Window,
    maps: Lanes,
    odd: Mask,
    plain: tuple[Lanes, Lanes],
    passes: Int32[Array, ""] | int,
) -> Plan:
    """The plan, of which the attempts of the folios that are not `odd` are known."""
    count = odd.shape[0]
    width = _group(count)
    (n,) = lanes.totals(odd)
    bits = word(rules)  # one operand of the loop, not one for each rule

    def pick() -> tuple[Lanes, Int32[Array, "lanes 4"]]:
        # One gather for all: the latencies of its reads overlap.
        lane = lanes.pick(odd)
        here = jnp.where(lane == NOWHERE, NOWHERE, lanes.rows(window.head, lane))
        return lane, conditions_of(m, here)

    def nothing() -> tuple[Lanes, Int32[Array, "lanes 4"]]:
        return lanes.padding(count), jnp.zeros((count, cond.WORDS), jnp.int32)

    lane_of, kept = jax.lax.cond(n > 0, pick, nothing)

    def group(carry: tuple[Int32[Array, ""], Plan]) -> tuple[Int32[Array, ""], Plan]:
        i, found = carry
        # Slices clamp: the last group may recompute lanes of the one before.
        lane, states = (
            jax.lax.dynamic_slice_in_dim(x, i * width, width) for x in (lane_of, kept)
        )
        row, there = lanes.rows(window.row, lane), lane != NOWHERE
        # A padding lane has no references: it counts as freed in the first iteration.
        refs = jnp.where(there, row[:, REFCOUNT], 0)
        a, b, c_, marks = (states[:, n] for n in range(cond.WORDS))
        words = (a, b, c_, marks)
        f = oc.FoundFolios(row[:, FLAGS], refs, lanes.rows(maps, lane), words)
        o = oc.outcomes(bits, f, passes)
        counts, ends, lost = (
            lanes.scatter(old, lane, there, new)
            for old, new in (
                (found.counts, o.counts),
                (found.ends, o.ends),
                (found.lost, refs - o.refs),
            )
        )
        return i + 1, Plan(counts, ends, lost, _leave(found.left, i * width, o))

    found = Plan(*plain, jnp.zeros_like(maps), _nothing_left(m, lane_of))
    start = (jnp.int32(0), found)
    return jax.lax.while_loop(lambda c: c[0] * width < n, group, start)[1]


def _group(count: int) -> int:
    """Lanes of a group: a multiple of oc.SLICE, or fewer than that."""
    width = max(min(lanes.chunk() // SHARE, count), 1)
    return width if width < oc.SLICE else width // oc.SLICE * oc.SLICE


def _nothing_left(m: Machine, lane: Lanes) -> Left | None:
    if m.conditions is None:
        return None
    nothing = jnp.zeros((lane.shape[0], cond.WORDS), jnp.int32)
    return Left(lane, nothing, nothing, jnp.asarray(False))


def _leave(
    left: Left | None, start: Int32[Array, ""], outcomes: oc.Outcomes
) -> Left | None:
    """`left` with the conditions of a group, which a moved folio takes along."""
    if left is None:
        return None
    moves = (outcomes.ends & oc.MOVED) != 0
    stay = ~moves & ((outcomes.ends & (oc.FREED | oc.RELEASED)) == 0)
    stays, goes = (
        lanes.columns(*(jnp.where(mask, words, 0) for words in outcomes.words))
        for mask in (stay, moves)
    )

    def put(rows: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0)

    a, b, c, d = outcomes.words
    (some,) = lanes.some(moves & ((a | b | c | d) != 0))
    return Left(
        left.lane,
        put(left.stays, stays),
        xla.skip_unless(some, lambda rows: put(rows, goes), left.goes),
        left.some_go | some,
    )


def conditions_of(m: Machine, heads: Lanes) -> Int32[Array, "lanes 4"]:
    """Rows of conditions of folios; zeros for padding lanes and machines without any."""
    c = m.conditions
    if c is None:
        return jnp.zeros((heads.shape[0], cond.WORDS), jnp.int32)
    rows = xla.read(heads, lambda: lanes.rows(c, heads))
    return jnp.where((heads != NOWHERE)[:, None], rows, 0)
