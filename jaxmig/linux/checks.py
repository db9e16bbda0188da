"""The checks of an attempt (locks, writeback, references ...), in the kernel's order.

Which of them a folio fails depends on its conditions, on the stage and on the release.
A test counts down a condition that holds for n tests; where the stage may sleep, it
waits until the condition is over.

Source: migrate_folio_unmap(), move_to_new_folio(), __buffer_migrate_folio(),
fallback_migrate_folio() in mm/migrate.c, can_split_folio(), split_huge_page_to_list() in
mm/huge_memory.c.
"""

import dataclasses
from typing import Any, Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.attempt_result import OVER, WORN, AttemptResult, bits
from jaxmig.linux.folio import (
    EAGAIN,
    EDEADLOCK,
    ENOMEM,
    FAILED,
    PIN_HELD,
    SLEEPS,
    SUCCESS,
    UNMAPPED,
    exclusive,
    is_freed,
    pages_of,
    pin_refs,
)
from jaxmig.linux.rules import Rules
from jaxmig.state import conditions as cond, frame
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
PASSES: Final = 10  # over a list; ASYNC callers, hugetlb and the posted series too
ASYNC_PASSES: Final = 3  # of a batch that is tried asynchronously first
SYNC_PASSES: Final = PASSES - ASYNC_PASSES  # over each folio that it leaves
UNFORCED: Final = 3  # passes that never sleep


def most_passes(rules: Rules, first: Flag, alone: Flag) -> Index:
    """How many passes a stage has at most.

    Args:
      first: whether a batch is tried asynchronously.
      alone: whether one folio is that a batch has left.
    Returns:
      int32.
    Source: migrate_pages_sync(), migrate_pages_batch() in mm/migrate.c.
    """
    most = jnp.where(first & rules.two_stages, ASYNC_PASSES, PASSES)
    return jnp.where(alone, SYNC_PASSES, most)


@pytree
class Stage:
    """What a pass over a list may do."""

    batch: Flag  # TTU_BATCH_FLUSH
    sleeps: Flag  # mode and stage allow it to sleep
    posted: Flag  # the series as posted: -EDEADLOCK instead of a sleep with locks held
    force: Flag  # and so does the number of the pass: `force` of migrate_folio_unmap()
    isolated: Flag  # folios are on a list: what was to let them go has done so


@dataclasses.dataclass(frozen=True)
class FolioView:
    """A folio as an attempt finds it, or a lane each of many."""

    flags: Index
    refs: Index
    mapped: Flag  # whether its chain has an entry


@dataclasses.dataclass(frozen=True)
class Checks:
    """Running result of a sequence of tests."""

    left: tuple[Index, ...]  # by state, as before the first test
    marks: Index  # so, too
    word: Index  # what has been found, see attempt_result.py
    going: Flag  # no test has failed yet
    rc: Index

    def set(self, **changes: Any) -> "Checks":
        """These with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def blocks(self, state: int) -> Flag:
        """Whether the folio is in `state` now: locked, under writeback ..."""
        return self.left[state] > 0

    def wear(self, state: int, when: Flag, over: Flag | bool = False) -> "Checks":
        """These after the only test of `state`, `when` there was one.

        `over`: it was waited for, and has ended.
        """
        n = self.left[state]
        worn = when & (n > 0) & (n < cond.UNTIL_WAITED)
        word = self.word | worn.astype(jnp.int32) << (WORN + state)
        if state in cond.SLEEPERS:
            word |= jnp.int32(over) << (OVER + cond.SLEEPERS.index(state))
        return self.set(word=word)

    def look_at(
        self, state: int, may_sleep: Flag, fail: Any, here: Flag | bool = True
    ) -> "Checks":
        """Test a state, unless an earlier test has failed: sleep on it or fail.

        Args:
          state: one of conditions.LOCKED ... TAKEN.
          may_sleep: whether it is waited for; one that lasts for ever gives SLEEPS.
          fail: the rc otherwise.
          here: whether the kernel tests it for this folio.
        Returns:
          These with the state counted down or over, and rc.
        """
        looked = self.going & here
        there = looked & self.blocks(state)
        slept = there & may_sleep
        endless = slept & ((self.marks & cond.forever(state)) != 0)
        failed = there & ~may_sleep
        rc = jnp.where(endless, SLEEPS, jnp.where(failed, fail, self.rc))
        t = self.wear(state, looked, slept)
        return t.set(going=self.going & ~failed & ~endless, rc=rc)

    def result(self, rc: Index, **found: Flag) -> AttemptResult:
        """What was found, with the result and more flags, see attempt_result.py."""
        return AttemptResult(self.word | rc | bits(**found))


def check_unmap(
    rules: Rules,
    st: Stage,
    folio: FolioView,
    left: tuple[Index, ...],
    marks: Index,
    room: Index,
    held: Flag,
) -> AttemptResult:
    """The tests of migrate_folio_unmap() and of the walk of try_to_migrate().

    Args:
      st: what the pass may do.
      folio: scalars, or a lane for each of many folios; so are the other arguments.
      left, marks: its conditions, see conditions.py.
      room: int32, free base pages of the target node.
      held: whether other folios of the batch are locked: the posted series must not
        sleep then.
    Returns:
      rc is UNMAPPED, or as the kernel's.
    Source: migrate_folio_unmap() in mm/migrate.c, try_to_migrate_one() in mm/rmap.c.
    """
    flags = folio.flags
    pages = pages_of(flags)
    freed = is_freed(rules.moves_freed_driver_pages, flags, folio.refs, marks)
    hugetlb = frame.kind(flags) == frame.HUGETLB
    t = Checks(left, marks, jnp.int32(0), ~freed, jnp.int32(UNMAPPED))
    # The pool of hugetlb folios never runs out: the model reserves one for each.
    short = room < jnp.where(hugetlb, 0, pages)
    short |= (pages > 1) & t.blocks(cond.NO_HUGE_DST)
    t = t.wear(cond.NO_HUGE_DST, ~freed & (pages > 1))
    tried = ~freed & ~short
    t = _before_walk(rules, st, t.set(going=tried), flags, held)
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    walks = t.going & ~movable & folio.mapped
    skips = walks & frame.on_stack(flags)
    stack = skips & t.blocks(cond.TEMP_STACK)
    walks &= ~stack
    pinned = walks & exclusive(flags)
    refuses = pinned & t.blocks(cond.PINNED)
    unpin = pinned & ~refuses & ((marks & PIN_HELD) != 0)
    t = t.wear(cond.TEMP_STACK, skips).wear(cond.PINNED, pinned)
    rc = jnp.where(stack | refuses, EAGAIN, t.rc)
    rc = jnp.where(short & ~freed, ENOMEM, jnp.where(freed, SUCCESS, rc))
    found = {"freed": freed, "tried": tried, "walks": walks, "refuses": refuses}
    return t.result(rc, **found, unpins=unpin, anew=jnp.asarray(True))


def _before_walk(
    rules: Rules, st: Stage, checks: Checks, flags: Index, held: Flag
) -> Checks:
    """Lock, writeback, missing mapping, in their order."""
    no = jnp.asarray(False)
    hugetlb = frame.kind(flags) == frame.HUGETLB
    may_sleep = st.force & st.sleeps & (rules.waits_for_writeback | ~hugetlb)
    # Sleeping on a lock with others held could deadlock: -EDEADLOCK moves those first.
    stuck = st.posted & may_sleep & held
    fail = jnp.where(stuck, EDEADLOCK, EAGAIN)
    checks = checks.look_at(cond.LOCKED, may_sleep & ~stuck, fail)
    # Only MIGRATE_SYNC waits for writeback; other modes fail with -EBUSY.
    waits = rules.waits_for_writeback & st.sleeps
    early = jnp.where(waits, EAGAIN, FAILED)
    checks = checks.look_at(cond.WRITEBACK, st.force & waits, early, ~hugetlb)
    lru = frame.kind(flags) != frame.MOVABLE_OPS
    # A hugetlb folio without its mapping is being freed: -EBUSY.
    fail = jnp.where(hugetlb, FAILED, EAGAIN)
    return checks.look_at(cond.NO_MAPPING, no, fail, lru)


def _references(
    checks: Checks, folio: FolioView, pins: Flag | bool
) -> tuple[Checks, Index]:
    """The checks with what this one has found, and the reference count that it reads.

    Extra references that end before the n-th attempt are taken off, and a pin's if
    `pins`.
    """
    looked, marks = checks.going, checks.marks
    gone = looked & ~checks.blocks(cond.EXTRA_REF)
    drop = jnp.where(gone, marks >> cond.EXTRA_SHIFT, 0)
    pinned = looked & pins & ((marks & PIN_HELD) != 0)
    unpin = pinned & ~checks.blocks(cond.PINNED)
    checks = checks.wear(cond.EXTRA_REF, looked).wear(cond.PINNED, pinned)
    checks = checks.set(word=checks.word | bits(drops=gone, unpins=unpin))
    refs = folio.refs - drop - jnp.where(unpin, pin_refs(folio.flags), 0)
    return checks, refs


def _counted(checks: Checks, refs: Index, expected: Index) -> Checks:
    """-EAGAIN unless the reference count is the expected one."""
    busy = checks.going & (refs != expected)
    return checks.set(going=checks.going & ~busy, rc=jnp.where(busy, EAGAIN, checks.rc))


def check_move(
    rules: Rules, st: Stage, folio: FolioView, left: tuple[Index, ...], marks: Index
) -> AttemptResult:
    """The tests of move_to_new_folio().

    Args:
      st: what the pass may do.
      folio: scalars, or a lane for each of many folios.
      left, marks: its conditions, see conditions.py.
    Returns:
      rc is SUCCESS, EAGAIN or FAILED.
    Source: move_to_new_folio(), folio_migrate_mapping(), buffer_migrate_lock_buffers() in
    mm/migrate.c.
    """
    no = jnp.asarray(False)
    flags = folio.flags
    movable = frame.kind(flags) == frame.MOVABLE_OPS
    asked = movable & ((marks & cond.RELEASED) == 0)
    t = Checks(left, marks, jnp.int32(0), asked, jnp.int32(SUCCESS))
    t = t.look_at(cond.DRIVER_EAGAIN, no, EAGAIN).look_at(cond.DRIVER_ERROR, no, FAILED)
    t = _written(rules, st, t.set(going=~movable))
    t, refs = _references(t, folio, ~exclusive(flags))
    t = _counted(t, refs, frame.cache_refs(flags))
    hugetlb = frame.kind(flags) == frame.HUGETLB
    buffers = frame.has(flags, frame.PRIVATE) & ~hugetlb
    t = t.look_at(cond.BUFFERS_LOCKED, st.sleeps, EAGAIN, buffers)
    # folio_mc_copy(): -EHWPOISON.
    lost = t.going & frame.has(flags, frame.HURT)
    return t.result(jnp.where(lost, FAILED, t.rc))


def _written(rules: Rules, st: Stage, checks: Checks) -> Checks:
    """fallback_migrate_folio() of a dirty page, which SYNC has written out.

    That maps the page again, so that no pass moves it before it is unmapped anew.
    """
    dirty = checks.going & ((checks.marks & cond.UNWRITTEN) != 0)
    sync = rules.waits_for_writeback & st.sleeps & ~rules.gives_up_dirty
    starts = dirty & sync
    busy = checks.going & (starts | ((checks.marks & cond.WRITTEN_OUT) != 0))
    rc = jnp.where(busy, EAGAIN, jnp.where(dirty, FAILED, checks.rc))
    word = checks.word | bits(writes=starts)
    return checks.set(word=word, going=checks.going & ~busy & ~dirty, rc=rc)


def check_split(
    folio: FolioView,
    left: tuple[Index, ...],
    marks: Index,
    mapped: Index,
    trylock: Flag,
    freed: Flag,
) -> AttemptResult:
    """The tests of try_split_folio() and split_huge_page_to_list().

    A lock that is only tried, extra references, and mappings that the walk skips give
    EAGAIN; writeback, a missing mapping and locked buffers FAILED.

    Args:
      left, marks: the folio's conditions, see conditions.py.
      mapped: int32, entries that map its pages.
      trylock: whether the lock is only tried.
      freed: whether only the isolation holds it: it has no anon_vma any more.
    Returns:
      rc is SUCCESS, EAGAIN or FAILED.
    Source: split_huge_page_to_list(), can_split_folio() in mm/huge_memory.c.
    """
    no = jnp.asarray(False)
    flags = folio.flags
    t = Checks(left, marks, jnp.int32(0), jnp.asarray(True), jnp.int32(SUCCESS))
    t = t.look_at(cond.LOCKED, ~trylock, EAGAIN)
    t = t.look_at(cond.WRITEBACK, no, FAILED)
    lone = t.going & freed & frame.is_anon(flags)
    t = t.set(going=t.going & ~lone, rc=jnp.where(lone, FAILED, t.rc))
    t = t.look_at(cond.NO_MAPPING, no, FAILED)
    buffers = frame.has(flags, frame.PRIVATE)
    t = t.look_at(cond.BUFFERS_LOCKED, no, FAILED, buffers)
    # can_split_folio() is no attempt to migrate: nothing is counted down, and references
    # that end before the n-th attempt are there until it comes.
    t = _counted(t, folio.refs, mapped + frame.cache_refs(flags))
    t = t.look_at(cond.TEMP_STACK, no, EAGAIN, frame.on_stack(flags))
    return t.result(t.rc)
