"""Outcomes of folios over all stages and passes of a call, where none affects another.

Each lane is a folio with a stage, a pass and a step (unmap or move) of its own.  An
iteration of the loop is one attempt of every lane that is not done, by the checks of
`checks.py`.  An attempt that changed nothing would end with the same rc in all passes
that are left: they are counted together, so that a page held for ever takes two
iterations, not twenty.

    6.1, 6.2, hugetlb    ten passes that unmap and move a folio in one step; the first
                         three never sleep
    since 6.3            three unmap and three move passes for a batch; then, unless the
                         caller is ASYNC, seven and seven for each folio that is left
    as posted, ASYNC     ten unmap and ten move passes

Source: migrate_pages(), migrate_pages_sync(), migrate_pages_batch(), migrate_hugetlbs()
in mm/migrate.c, Linux 6.1 to 6.18.
"""

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import checks
from jaxmig.linux.attempt_result import AttemptResult
from jaxmig.linux.checks import PASSES, UNFORCED
from jaxmig.linux.folio import EAGAIN, ENOMEM, FAILED, SLEEPS, SUCCESS, UNMAPPED
from jaxmig.linux.rules import Rules, from_word
from jaxmig.state import conditions as cond, frame, xla
from jaxmig.state.pytree import pytree

ENOUGH: Final = 1 << 30  # base pages free: batches that may get -ENOMEM come not here
SLICE: Final = 256  # lanes of one loop

# Attempts of a stage, four bits each; the second stage's are STAGE bits higher.
TRIES, REFUSALS, UNMAPS, LOOKS, STAGE = 0, 4, 8, 12, 16
NUMBER: Final = 0xF
# A folio that no check fails: one unmap and one move attempt.
PLAIN: Final = 1 << TRIES | 1 << UNMAPS | 1 << LOOKS
# How it ended.
OVER, MOVED, FREED, RELEASED, ASLEEP = (1 << i for i in range(5))
BY_CPU: Final = 1 << 5  # moved, and copied by the CPU
LOST: Final = 1 << 6  # an engine's copy was not used; in the second stage a bit higher
# Progress of a lane: the number of the pass, then these.
PASS: Final = 0xF
MOVING, SECOND, UNCHANGED, COPIED = (1 << i for i in range(4, 8))

Lanes = Int32[Array, " lanes"]
Mask = Bool[Array, " lanes"]


@pytree
class FoundFolios:
    """Folios before the call."""

    flags: Lanes
    refs: Lanes
    maps: Lanes  # entries that map them
    words: tuple[Lanes, Lanes, Lanes, Lanes]  # conditions, the marks last


@pytree
class Outcomes:
    """What became of them."""

    counts: Lanes  # attempts: TRIES ... STAGE
    ends: Lanes  # OVER ... LOST
    refs: Lanes  # without the extra references that have ended
    words: tuple[Lanes, Lanes, Lanes, Lanes]  # conditions, counted down


@pytree
class _Attempted:
    counts: Lanes
    ends: Lanes
    refs: Lanes
    words: tuple[Lanes, Lanes, Lanes, Lanes]
    at: Lanes


def number(counts: Lanes, what: int, stage: int) -> Lanes:
    """How many attempts of a kind a stage had."""
    return (counts >> (what + stage * STAGE)) & NUMBER


def outcomes(
    bits: np.int32 | Int32[Array, ""],
    folios: FoundFolios,
    passes: Int32[Array, ""] | int = PASSES,
) -> Outcomes:
    """Outcomes of all lanes, SLICE of them at a time.

    Args:
      bits: the rules, as a word.
      folios: int32[lanes] each; the number of lanes is a multiple of SLICE or below it.
      passes: the most passes of a stage; 1: only what the first pass does.
    Returns:
      int32[lanes] each.
    """
    count = folios.flags.shape[0]
    # Unless the loop is one function, each of its operations is dispatched separately.
    width = min(SLICE, count) if xla.marks() else count

    # Arguments that XLA can neither fold nor find unused: see `xla.whole`.
    bits, most = (
        xla.after(jnp.asarray(number, jnp.int32), folios.flags)
        for number in (bits, passes)
    )

    def loop(folios: FoundFolios, bits: Array, most: Array) -> Outcomes:
        def some(i: Array, found: Outcomes) -> Outcomes:
            here = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, i * width, width), folios
            )
            done = _attempts(from_word(bits), here, most)
            return jax.tree.map(
                lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, i * width, 0),
                found,
                done,
            )

        none = folios.flags * 0
        found = Outcomes(none, none, none, (none,) * cond.WORDS)
        return jax.lax.fori_loop(0, count // width, some, found)

    return xla.whole(loop, folios, bits, most)


def _attempts(rules: Rules, folios: FoundFolios, passes: Int32[Array, ""]) -> Outcomes:
    none = folios.flags * 0

    def goes_on(before: _Attempted) -> Array:
        return ((before.ends & OVER) == 0).any()

    start = _Attempted(none, none, folios.refs, folios.words, none)
    c = jax.lax.while_loop(goes_on, lambda c: _attempt(rules, folios, passes, c), start)
    return Outcomes(c.counts, c.ends, c.refs, c.words)


def _attempt(
    rules: Rules, folios: FoundFolios, passes: Int32[Array, ""], before: _Attempted
) -> _Attempted:
    """One attempt of every folio that is not done."""
    n, at = before.at & PASS, before.at
    moving, second = _has(at, MOVING), _has(at, SECOND)
    movable = frame.kind(folios.flags) == frame.MOVABLE_OPS
    at_once = (frame.kind(folios.flags) == frame.HUGETLB) | ~rules.batched
    early = ~at_once & ~second & rules.begins_async
    unforced = (at_once | (~second & ~early)) & (n < UNFORCED)
    no = jnp.asarray(False)
    sleeps = ~early & rules.may_sleep
    st = checks.Stage(batch=no, sleeps=sleeps, posted=no, force=~unforced, isolated=~no)
    left, marks = cond.unpack_words(before.words)
    going = (before.ends & OVER) == 0
    held = jnp.where(moving & ~movable, folios.maps, 0)
    seen = checks.FolioView(folios.flags, before.refs - held, folios.maps > 0)

    def found() -> Array:
        u = checks.check_unmap(rules, st, seen, left, marks, jnp.int32(ENOUGH), no)
        v = checks.check_move(rules, st, seen, left, marks)
        # An empty word changes nothing.
        return jnp.where(going, jnp.where(moving, v.word, u.word), 0)

    result = AttemptResult(xla.once(folios.flags, found))
    rc = result.rc
    words, refs = result.settled(before.words, before.refs, folios.flags)
    same = refs == before.refs
    for a, b in zip(words, before.words, strict=True):
        same &= a == b
    tried, refuses = result.has("tried"), result.has("refuses")
    once = tried << TRIES | refuses << REFUSALS | (rc == UNMAPPED) << UNMAPS
    once = jnp.where(moving, 1 << LOOKS, once)
    most = jnp.minimum(checks.most_passes(rules, early, second), passes)
    # An attempt that changed nothing has the same rc in every pass with the same `force`.
    early_pass = unforced & ~(moving & ~at_once)
    alike = jnp.where(early_pass, jnp.minimum(UNFORCED, most), most)
    again = rc == EAGAIN
    repeats = again & same & (~at_once | ~moving | _has(at, UNCHANGED))
    more = jnp.where(repeats, alike - n - 1, 0)
    each = jnp.where(at_once & moving, PLAIN, once)
    n = n + jnp.where(again, 1 + more, 0)
    counts = (once + more * each) << jnp.where(second, STAGE, 0)
    # What comes next.
    ended = (rc == FAILED) | (again & (n >= most))
    follows = ended & ~second & ~at_once & (rules.two_stages & (passes > 1))
    released = movable & _has(marks, cond.RELEASED)
    moved = moving & (rc == SUCCESS)
    was_copied, lost = _has(at, COPIED), jnp.where(second, LOST * 2, LOST)
    by_cpu = moved & ~released & ~was_copied & rules.offloads
    ends = (
        jnp.where(moved, OVER | jnp.where(released, RELEASED, MOVED), 0)
        | jnp.where(result.has("freed"), OVER | FREED, 0)
        | jnp.where(rc == SLEEPS, OVER | ASLEEP, 0)
        | jnp.where(ended & ~follows, OVER, 0)
        | jnp.where(by_cpu, BY_CPU, 0)
        | jnp.where(moving & ~moved & was_copied, lost, 0)
        # Never while a lane is used: batches that may get -ENOMEM go to `in_order/run.py`.
        | jnp.where(rc == ENOMEM, OVER, 0)
    )
    unmapped = ~moving & (rc == UNMAPPED)
    # The move passes of a batch count from 0 again.
    n = jnp.where(unmapped & ~at_once, 0, n)
    at = n | jnp.where(unmapped | (moving & again & ~at_once), MOVING, 0)
    copied = unmapped & ~movable & ~at_once & rules.offloads
    copied &= refs - folios.maps == frame.cache_refs(folios.flags)
    at |= jnp.where(copied, COPIED, 0)
    at |= jnp.where(second, SECOND, 0) | jnp.where(unmapped & same, UNCHANGED, 0)
    return _Attempted(
        counts=before.counts + jnp.where(going, counts, 0),
        ends=before.ends | jnp.where(going, ends, 0),
        refs=refs,
        words=words,
        at=jnp.where(follows, SECOND, at),
    )


def _has(word: Lanes, bit: int) -> Mask:
    return (word & bit) != 0
