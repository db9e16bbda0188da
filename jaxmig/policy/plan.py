"""What becomes of every folio of a stretch of a batched call.

Most folios move at the first try.  The others, in whose way something stands, are
picked out and their fates worked out in closed form, GROUP of them at a time; one word
a folio holds the result.

Source: migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import conditions as cond, frame, wall
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import lanes
from jaxmig.phases.lanes import Lanes, Mask
from jaxmig.policy import fates
from jaxmig.policy.folio import freed_under_us
from jaxmig.policy.look import Seen
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

GROUP: Final = 1 << 11  # folios whose fates are worked out at a time

# A word of fate: three numbers and two bits for each of two stages, then three bits.
TRIES, PIN_TRIES, LOOKS, UNMAPPED, MOVED, STAGE = 0, 4, 8, 12, 13, 14
NUMBER: Final = 0xF  # a stage has at most ten passes
FREED, RELEASED, ASLEEP = (1 << (2 * STAGE + n) for n in range(3))
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
class Plan:
    """What becomes of each folio of a chunk."""

    freed: Mask
    first: Outcome
    second: Outcome | None
    unmapped: Mask  # at some time
    moved: Mask
    released: Mask  # of those, by their driver: only to be freed
    lost: Lanes  # references that were found gone
    states: Int32[Array, "lanes 4"] | None  # what is left of the conditions


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
    count = src.shape[0]
    odd = there & ~plain
    word = jnp.where(plain, PLAIN, 0)
    states = None if m.conditions is None else jnp.zeros((count, 4), jnp.int32)
    found = (word, jnp.zeros_like(src), states)
    found = _odd_ones(rules, m, (src, row, seen.maps), odd, found)
    word, lost, states = found
    two = rules.release.async_first and rules.mode != "async"
    asleep = (word & ASLEEP) != 0
    first = _outcome(word, asleep)
    second = _outcome(word >> STAGE, asleep) if two else None
    freed = (word & FREED) != 0
    p = Plan(
        freed=freed,
        first=first,
        second=second,
        unmapped=(word & (1 << UNMAPPED | 1 << (STAGE + UNMAPPED))) != 0,
        moved=(word & (1 << MOVED | 1 << (STAGE + MOVED))) != 0,
        released=(word & RELEASED) != 0,
        lost=lost,
        states=states,
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
    number = lambda at: (word >> at) & NUMBER  # noqa: E731
    return Outcome(
        tries=number(TRIES),
        pin_tries=number(PIN_TRIES),
        unmapped=(word & (1 << UNMAPPED)) != 0,
        looks=number(LOOKS),
        asleep=asleep,
    )


Found = tuple[Lanes, Lanes, Int32[Array, "lanes 4"] | None]


def _odd_ones(
    rules: Rules,
    m: Machine,
    known: tuple[Lanes, Int32[Array, "lanes 4"], Lanes],
    odd: Mask,
    found: Found,
) -> Found:
    """`found` with the fates of the folios `odd`: word, lost references, conditions."""
    src, row, maps = known
    count = odd.shape[0]
    width = min(GROUP, count)
    (n,) = lanes.totals(odd)
    # Behind the last place: what no branch skips is never guessed wrongly.
    none = jnp.full(count + 1, NOWHERE, jnp.int32)

    def pick(_: tuple[Lanes, Array]) -> tuple[Lanes, Array]:
        # Their lanes, one after the other, and their conditions.
        place = jnp.where(odd, lanes.running(odd) - 1, count)
        lane = none.at[place].set(jnp.arange(count, dtype=jnp.int32))[:count]
        here = jnp.where(lane == NOWHERE, NOWHERE, lanes.rows(src, lane))
        return lane, _states(m, here)

    nothing = jnp.zeros((count, cond.WORDS), jnp.int32)
    lane_of, kept = wall.when(n > 0, pick, (none[:count], nothing))

    def group(c: tuple[Int32[Array, ""], Found]) -> tuple[Int32[Array, ""], Found]:
        i, (word, lost, states) = c
        # Slices clamp: the last group may work out again what the one before did.
        lane, left = (
            jax.lax.dynamic_slice_in_dim(x, i * width, width) for x in (lane_of, kept)
        )
        known = (lanes.rows(row, lane), left, lanes.rows(maps, lane))
        words = jnp.concatenate([x.reshape(-1) for x in known])
        new = wall.whole(lambda words: _fate(rules, words), words)
        there = lane != NOWHERE
        word = lanes.scatter(word, lane, there, new[0])
        lost = lanes.scatter(lost, lane, there, new[1])
        if states is not None:
            after = jnp.stack(new[2:], axis=1)
            states = lanes.scatter(states, lane, there, after)
        return i + 1, (word, lost, states)

    start = (jnp.int32(0), found)
    return jax.lax.while_loop(lambda c: c[0] * width < n, group, start)[1]


def _states(m: Machine, src: Lanes) -> Int32[Array, "lanes 4"]:
    """Conditions of the folios, as they are kept; none if the machine has none."""
    c = m.conditions
    if c is None:
        return jnp.zeros((src.shape[0], cond.WORDS), jnp.int32)
    return wall.read(src, lambda: lanes.rows(c, src))


def seen_conditions(
    m: Machine, src: Lanes, row: Int32[Array, "lanes 4"]
) -> tuple[fates.States, Lanes]:
    """Conditions and marks of the folios with these rows."""
    some = frame.has(row[:, FLAGS], frame.CONDITIONED)
    rows = _states(m, jnp.where(some, src, NOWHERE))
    return cond.unpack(jnp.where(some[:, None], rows, 0))


def _fate(rules: Rules, words: Int32[Array, " words"]) -> tuple[Lanes, ...]:
    """Word of fate, lost references and the four words of what is left, a lane each.

    `words`: rows, conditions and mappings of the lanes, one after the other.
    """
    count = words.shape[0] // 9
    row, states = words[: 8 * count].reshape(2, count, 4)
    maps = words[8 * count :]
    some = frame.has(row[:, FLAGS], frame.CONDITIONED)
    left, marks = cond.unpack(jnp.where(some[:, None], states, 0))
    freed = freed_under_us(rules, row, marks)
    f = fates.Folios(row, maps, left, marks, ~freed, jnp.zeros_like(maps))
    two = rules.release.async_first and rules.mode != "async"
    passes = fates.ASYNC_PASSES if two else fates.ALL_PASSES
    a = fates.stage(rules, f, passes, False, f.live)
    word, lost, left = _word(a), fates.gone(f, a), a.left
    after, moved, asleep = fates.after(f, a), a.moved, a.asleep
    if two:
        todo = f.live & ~a.moved
        y = fates.stage(rules, after, fates.SYNC_PASSES, not rules.memalloc, todo)
        word |= _word(y) << STAGE
        lost += jnp.where(todo, fates.gone(after, y), 0)
        left = tuple(jnp.where(todo, b, a) for a, b in zip(left, y.left, strict=True))
        marks_after = fates.after(after, y).marks
        marks_after = jnp.where(todo, marks_after, after.marks)
        moved, asleep = moved | y.moved, asleep | y.asleep
    else:
        marks_after = after.marks
    released = moved & f.movable & ((marks & cond.RELEASED) != 0)
    word |= jnp.where(freed, FREED, 0) | jnp.where(released, RELEASED, 0)
    word |= jnp.where(asleep, ASLEEP, 0)
    return word, lost, *cond.pack(left, marks_after)


def _word(s: fates.Stage) -> Lanes:
    numbers = s.tries << TRIES | s.pin_tries << PIN_TRIES | s.looks << LOOKS
    bits = s.unmapped.astype(jnp.int32) << UNMAPPED
    return numbers | bits | s.moved.astype(jnp.int32) << MOVED
