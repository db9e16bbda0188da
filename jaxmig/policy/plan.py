"""What becomes of every folio of a stretch of a batched call.

Most folios move at the first try.  The others, in whose way something stands, are
picked out and their fates worked out in closed form, some of them at a time; one word
a folio holds the result.

Source: migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame, xla
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.policy import fates
from jaxmig.policy.folio import is_freed
from jaxmig.policy.look import Seen
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

SHARE: Final = 8  # of a chunk: folios whose fates are worked out at a time

# A word of fate: three numbers and two bits for each of two stages, then three bits.
TRIES, PIN_TRIES, LOOKS, UNMAPPED, MOVED, STAGE = 0, 4, 8, 12, 13, 14
NUMBER: Final = 0xF  # a stage has at most ten passes
FREED, RELEASED, ASLEEP = (1 << (2 * STAGE + n) for n in range(3))
EVER_UNMAPPED: Final = 1 << UNMAPPED | 1 << (STAGE + UNMAPPED)
EVER_MOVED: Final = 1 << MOVED | 1 << (STAGE + MOVED)
# One try, one look.
PLAIN: Final = 1 << TRIES | 1 << LOOKS | 1 << UNMAPPED | 1 << MOVED


@pytree
class Outcome:
    """One stage of one batch, folio by folio."""

    tries: Lanes  # unmap attempts that got a destination
    pin_tries: Lanes  # of those, walks that a pinned page refused
    unmapped: Mask
    looks: Lanes  # move attempts
    asleep: Mask  # would sleep for ever, in some stage


@pytree
class Left:
    """What is left of the conditions of the folios in whose way something stood.

    They stand one after the other, whatever lanes they have: only they are written.
    """

    lane: Lanes  # NOWHERE behind the last one
    stays: Int32[Array, "lanes 4"]  # beside the old frame: nothing if the page is gone
    goes: Int32[Array, "lanes 4"]  # beside the new frame, if there is one
    some_go: Bool[Array, ""]  # whether there is anything in `goes`


@pytree
class Plan:
    """What becomes of each folio of a chunk."""

    freed: Mask
    first: Outcome
    second: Outcome | None
    unmapped: Mask  # at some time
    moved: Mask
    released: Mask  # of those, by their driver: only to be freed
    lost: Lanes  # references that were found gone
    left: Left | None  # None if the machine has no conditions


@pytree
class Listed:
    """What the phases want to know of each folio beside its fate."""

    live: Mask  # on the list, not freed
    movable: Mask  # a driver's page: no rmap


def plan(
    rules: Rules, m: Machine, src: Lanes, row: Int32[Array, "lanes 4"], seen: Seen
) -> tuple[Plan, Listed]:
    """Fates of the folios over all stages and passes."""
    there = src != NOWHERE
    plain = there & _in_nobodys_way(row, seen.maps)
    word = jnp.where(plain, PLAIN, 0)
    odd = there & ~plain
    word, lost, left = _odd_ones(rules, m, (src, row, seen.maps), odd, word)
    two = rules.two_stages
    asleep = (word & ASLEEP) != 0
    first = _outcome(word, asleep)
    second = _outcome(word >> STAGE, asleep) if two else None
    freed = (word & FREED) != 0
    p = Plan(
        freed=freed,
        first=first,
        second=second,
        unmapped=(word & EVER_UNMAPPED) != 0,
        moved=(word & EVER_MOVED) != 0,
        released=(word & RELEASED) != 0,
        lost=lost,
        left=left,
    )
    movable = frame.kind(row[:, FLAGS]) == frame.MOVABLE_OPS
    return p, Listed(there & ~freed, movable)


def _in_nobodys_way(row: Int32[Array, "lanes 4"], maps: Lanes) -> Mask:
    """Folios that move at the first try: known by their rows alone."""
    flags, refs = row[:, FLAGS], row[:, REFCOUNT]
    odd = frame.has(flags, frame.CONDITIONED)
    odd |= frame.kind(flags) == frame.MOVABLE_OPS
    return ~odd & (refs > 0) & (refs == maps + frame.cache_refs(flags))


def _outcome(word: Lanes, asleep: Mask) -> Outcome:
    def number(at: int) -> Lanes:
        return (word >> at) & NUMBER

    return Outcome(
        tries=number(TRIES),
        pin_tries=number(PIN_TRIES),
        unmapped=(word & (1 << UNMAPPED)) != 0,
        looks=number(LOOKS),
        asleep=asleep,
    )


Found = tuple[Lanes, Lanes, Left | None]


def _odd_ones(
    rules: Rules,
    m: Machine,
    known: tuple[Lanes, Int32[Array, "lanes 4"], Lanes],
    odd: Mask,
    word: Lanes,
) -> Found:
    """`word` with the fates of the folios `odd`, their lost references, conditions."""
    src, row, maps = known
    count = odd.shape[0]
    width = min(lanes.chunk() // SHARE, count)
    (n,) = lanes.totals(odd)

    def pick() -> tuple[Lanes, Int32[Array, "lanes 4"]]:
        # All conditions of a chunk at once: reads of memory that wait together.
        lane = lanes.pick(odd)
        here = jnp.where(lane == NOWHERE, NOWHERE, lanes.rows(src, lane))
        return lane, _states(m, here)

    def nothing() -> tuple[Lanes, Int32[Array, "lanes 4"]]:
        return lanes.nobody(count), jnp.zeros((count, cond.WORDS), jnp.int32)

    lane_of, kept = jax.lax.cond(n > 0, pick, nothing)

    def group(c: tuple[Int32[Array, ""], Found]) -> tuple[Int32[Array, ""], Found]:
        i, (word, lost, left) = c
        # Slices clamp: the last group may work out again what the one before did.
        lane, states = (
            jax.lax.dynamic_slice_in_dim(x, i * width, width) for x in (lane_of, kept)
        )
        given = lanes.rows(row, lane), states, lanes.rows(maps, lane)
        fate, *after = xla.whole(lambda *given: _fate(rules, *given), *given)
        there = lane != NOWHERE
        word = lanes.scatter(word, lane, there, fate)
        gone = fates.lost(given[0], states[:, cond.WORDS - 1], after[-1])
        lost = lanes.scatter(lost, lane, there, gone)
        return i + 1, (word, lost, _leave(left, i * width, fate, after))

    start = (jnp.int32(0), (word, jnp.zeros_like(word), _nothing_left(m, lane_of)))
    return jax.lax.while_loop(lambda c: c[0] * width < n, group, start)[1]


def _nothing_left(m: Machine, lane: Lanes) -> Left | None:
    if m.conditions is None:
        return None
    nothing = jnp.zeros((lane.shape[0], cond.WORDS), jnp.int32)
    return Left(lane, nothing, nothing, jnp.asarray(False))


def _leave(
    left: Left | None, start: Int32[Array, ""], word: Lanes, after: list[Lanes]
) -> Left | None:
    """`left` with what is left of a group: with its pages, if they move."""
    if left is None:
        return None
    moves = (word & EVER_MOVED) != 0
    stay = ~moves & ((word & FREED) == 0)
    stays, goes = (
        lanes.columns(*(jnp.where(mask, words, 0) for words in after))
        for mask in (stay, moves)
    )

    def put(rows: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0)

    (some,) = lanes.some(moves & ((after[0] | after[1] | after[2] | after[3]) != 0))
    return Left(
        left.lane,
        put(left.stays, stays),
        xla.when(some, lambda rows: put(rows, goes), left.goes),
        left.some_go | some,
    )


def _states(m: Machine, src: Lanes) -> Int32[Array, "lanes 4"]:
    """Conditions of the folios, as they are kept; none if the machine has none."""
    c = m.conditions
    if c is None:
        return jnp.zeros((src.shape[0], cond.WORDS), jnp.int32)
    return xla.read(src, lambda: lanes.rows(c, src))


def seen_conditions(
    m: Machine, src: Lanes, row: Int32[Array, "lanes 4"]
) -> tuple[fates.States, Lanes]:
    """Conditions and marks of the folios with these rows."""
    some = frame.has(row[:, FLAGS], frame.CONDITIONED)
    rows = _states(m, jnp.where(some, src, NOWHERE))
    return cond.unpack(jnp.where(some[:, None], rows, 0))


def _fate(
    rules: Rules,
    row: Int32[Array, "lanes 4"],
    states: Int32[Array, "lanes 4"],
    maps: Lanes,
) -> tuple[Lanes, ...]:
    """Word of fate and the four words of what is left, a lane each.

    XLA works out each of them from the beginning: what follows from them does so later.
    """
    left, marks = cond.unpack(states)
    freed = is_freed(rules.release.moves_freed_driver_pages, row[..., FLAGS], row[..., REFCOUNT], marks)
    f = fates.folios(row, maps, left, marks, ~freed)
    two = rules.two_stages
    passes = fates.ASYNC_PASSES if two else fates.ALL_PASSES
    a = fates.stage(rules, f, passes, False, f.live)
    word, after, moved, asleep = _word(a), fates.after(f, a), a.moved, a.asleep
    if two:
        # It leaves those alone that have moved.
        todo = f.live & ~a.moved
        y = fates.stage(rules, after, fates.SYNC_PASSES, not rules.memalloc, todo)
        word |= _word(y) << STAGE
        after = fates.after(after, y)
        moved, asleep = moved | y.moved, asleep | y.asleep
    released = moved & f.movable & ((marks & cond.RELEASED) != 0)
    word |= jnp.where(freed, FREED, 0) | jnp.where(released, RELEASED, 0)
    word |= jnp.where(asleep, ASLEEP, 0)
    return word, *cond.pack(after.left, after.marks)


def _word(s: fates.Stage) -> Lanes:
    numbers = s.tries << TRIES | s.pin_tries << PIN_TRIES | s.looks << LOOKS
    bits = s.unmapped.astype(jnp.int32) << UNMAPPED
    return numbers | bits | s.moved.astype(jnp.int32) << MOVED
