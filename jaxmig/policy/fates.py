"""What becomes of a base page over all passes of a batch, in closed form.

A folio's way through the passes follows from its conditions alone: each state holds up
as many tries as it has tests left, one state after the other, in the order of the
kernel's tests.  So the try at which a folio is unmapped, the look at which its
references are right and the pass at which it is given up are sums and minima on arrays,
not a loop.

`stepwise.py` walks the same passes one attempt at a time and is the proof of this page.

Source: migrate_pages_sync(), migrate_pages_batch(), migrate_folio_unmap(),
migrate_folio_move() in mm/migrate.c, Linux 6.3 to 6.18.
"""

from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import conditions as cond, frame
from jaxmig.frame import FLAGS, REFCOUNT
from jaxmig.policy.folio import PIN_HELD, pin_refs
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

ASYNC_PASSES: Final = 3
SYNC_PASSES: Final = 7
ALL_PASSES: Final = 10

Lanes = Int32[Array, " lanes"]
Mask = Bool[Array, " lanes"]
# A lane array a state: columns of one matrix would be copied at every change.
States = tuple[Int32[Array, " lanes"], ...]


@pytree
class Stage:
    """One stage of one batch, folio by folio."""

    tries: Lanes  # unmap attempts that got a destination
    pin_tries: Lanes  # of those, walks that a pinned page refused
    unmapped: Mask
    looks: Lanes  # move attempts
    moved: Mask
    left: States  # what the tests wore out
    extra_gone: Mask  # its extra references were found gone
    pin_gone: Mask
    asleep: Mask  # would sleep for ever


@pytree
class Folios:
    """What the closed form needs to know of each folio, all of order 0."""

    row: Int32[Array, "lanes 4"]
    maps: Lanes  # entries that map it
    left: States
    marks: Lanes
    live: Mask  # on the list, not freed
    unknown: Mask  # it has references that no condition explains

    @property
    def exclusive(self) -> Mask:
        """Pinned, its entries refuse."""
        return frame.has(self.row[:, FLAGS], frame.EXCLUSIVE_MAP)

    @property
    def movable(self) -> Mask:
        """A driver's page: no rmap, no reference check."""
        return frame.kind(self.row[:, FLAGS]) == frame.MOVABLE_OPS


def folios(
    row: Int32[Array, "lanes 4"], maps: Lanes, left: States, marks: Lanes, live: Mask
) -> Folios:
    """Folios as they are found."""
    known = _held_by(row, marks)
    rest = row[:, REFCOUNT] - maps - frame.cache_refs(row[:, FLAGS])
    return Folios(row, maps, left, marks, live, rest != known)


def lost(row: Int32[Array, "lanes 4"], before: Lanes, after: Lanes) -> Lanes:
    """References that were found gone, from the folios' marks before and after."""
    return _held_by(row, before & ~after)


def _held_by(row: Int32[Array, "lanes 4"], marks: Lanes) -> Lanes:
    pins = jnp.where((marks & PIN_HELD) != 0, pin_refs(row[..., FLAGS]), 0)
    return (marks >> cond.EXTRA_SHIFT) + pins


def put(left: States, state: int, value: Lanes) -> States:
    """`left` with one state's lanes replaced."""
    return (*left[:state], value, *left[state + 1 :])


def _take(
    left: Lanes, tries: Lanes, where: Mask | bool = True
) -> tuple[Lanes, Lanes, Lanes]:
    """A state that holds up tries: (tries it took, tries that go on, what is left)."""
    taken = jnp.minimum(jnp.where(where, left, 0), tries)
    worn = jnp.where(left < cond.UNTIL_WAITED, left - taken, left)
    return taken, tries - taken, worn


def stage(rules: Rules, f: Folios, passes: int, sleeps: bool, todo: Mask) -> Stage:
    """Fates of the folios `todo` in a stage of so many passes.

    `sleeps`: the stage may sleep on locks, and on writeback if the mode is SYNC.
    """
    zero = jnp.zeros_like(f.maps)
    left = f.left
    asleep = todo & False
    going = jnp.where(todo, passes, 0)
    spent = zero  # tries that ended at the lock, at writeback ...
    lock, wb = left[cond.LOCKED], left[cond.WRITEBACK]
    if sleeps:
        asleep |= _endless(f, cond.LOCKED, todo & (lock > 0))
        left = put(left, cond.LOCKED, jnp.where(todo, 0, lock))
    else:
        taken, going, worn = _take(lock, going)
        spent += taken
        left = put(left, cond.LOCKED, worn)
    reached = todo & (going > 0)
    if sleeps and rules.waits_for_writeback:
        asleep |= _endless(f, cond.WRITEBACK, reached & (wb > 0))
        left = put(left, cond.WRITEBACK, jnp.where(reached, 0, wb))
        given_up = reached & False
    else:
        # -EBUSY: one look, and this stage is over for the folio.
        given_up = reached & (wb > 0)
        worn = jnp.where(given_up & (wb < cond.UNTIL_WAITED), wb - 1, wb)
        left = put(left, cond.WRITEBACK, worn)
        spent += given_up
        going = jnp.where(given_up, 0, going)
    return _walks(rules, f, passes, sleeps, left, going, spent, asleep)


def _endless(f: Folios, state: int, there: Mask) -> Mask:
    return there & ((f.marks & cond.forever(state)) != 0)


def _walks(
    rules: Rules,
    f: Folios,
    passes: int,
    sleeps: bool,
    left: States,
    going: Lanes,
    spent: Lanes,
    asleep: Mask,
) -> Stage:
    """The tries that get past lock and writeback: missing mapping, stack, pin."""
    walks = ~f.movable & (f.maps > 0)
    gates = (
        (cond.NO_MAPPING, ~f.movable),
        (cond.TEMP_STACK, walks & frame.on_stack(f.row[:, FLAGS])),
        (cond.PINNED, walks & f.exclusive),
    )
    pin_tries = jnp.zeros_like(going)
    for state, here in gates:
        taken, going, worn = _take(left[state], going, here)
        left = put(left, state, worn)
        spent += taken
        if state == cond.PINNED:
            pin_tries = taken
    unmapped = (going > 0) & ~asleep
    tries = spent + unmapped
    return _looks(rules, f, passes, sleeps, left, tries, pin_tries, unmapped, asleep)


def _looks(
    rules: Rules,
    f: Folios,
    passes: int,
    sleeps: bool,
    left: States,
    tries: Lanes,
    pin_tries: Lanes,
    unmapped: Mask,
    asleep: Mask,
) -> Stage:
    """The move attempts: driver's answer, references, buffers."""
    going = jnp.where(unmapped, passes, 0)
    # A driver that has an error to report does so once it is not busy any more.
    driver = f.movable & ((f.marks & cond.RELEASED) == 0)
    looks, going, worn = _take(left[cond.DRIVER_EAGAIN], going, driver)
    left = put(left, cond.DRIVER_EAGAIN, worn)
    e = left[cond.DRIVER_ERROR]
    error = driver & (going > 0) & (e > 0)
    worn = jnp.where(error & (e < cond.UNTIL_WAITED), e - 1, e)
    left = put(left, cond.DRIVER_ERROR, worn)
    looks += error
    going = jnp.where(error, 0, going)
    held = ~f.movable & (going > 0)
    extra, pin = left[cond.EXTRA_REF], left[cond.PINNED]
    pinned = ~f.exclusive & ((f.marks & PIN_HELD) != 0)
    blocked = jnp.maximum(extra, jnp.where(pinned, pin, 0))
    # References that no condition explains never go away.
    blocked = jnp.where(f.unknown, cond.UNTIL_WAITED, blocked)
    taken, going, _ = _take(blocked, going, held)
    looks += taken
    # The look that finds the references gone, or right, is a test of them too.
    seen = jnp.where(held, taken + (going > 0), 0)
    left = put(left, cond.EXTRA_REF, _take(extra, seen)[2])
    left = put(left, cond.PINNED, _take(pin, seen, pinned)[2])
    extra_gone = held & (seen > extra)
    # An exclusive pin is looked for by the walk: who was unmapped has none.
    pin_held = (f.marks & PIN_HELD) != 0
    pin_gone = held & jnp.where(f.exclusive, pin_held, pinned & (seen > pin))
    buffers = held & frame.has(f.row[:, FLAGS], frame.PRIVATE)
    b = left[cond.BUFFERS_LOCKED]
    if sleeps:
        waits = buffers & (going > 0)
        asleep |= _endless(f, cond.BUFFERS_LOCKED, waits & (b > 0))
        left = put(left, cond.BUFFERS_LOCKED, jnp.where(waits, 0, b))
    else:
        taken, going, worn = _take(b, going, buffers)
        left = put(left, cond.BUFFERS_LOCKED, worn)
        looks += taken
    moved = unmapped & (going > 0)
    return Stage(
        tries=tries,
        pin_tries=pin_tries,
        unmapped=unmapped,
        looks=looks + moved,
        moved=moved,
        left=left,
        extra_gone=extra_gone,
        pin_gone=pin_gone,
        asleep=asleep,
    )


def after(f: Folios, s: Stage) -> Folios:
    """The folios as a stage leaves them."""
    low = (1 << cond.EXTRA_SHIFT) - 1
    marks = jnp.where(s.extra_gone, f.marks & low, f.marks)
    marks = jnp.where(s.pin_gone, marks & ~cond.PIN_HELD, marks)
    return Folios(f.row, f.maps, s.left, marks, f.live, f.unknown)
