"""Many folios at once: rows of folios as lanes of arrays, padded with NOWHERE.

A padding lane, with head NOWHERE, reads row 0 and writes nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.state import xla
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree

CHUNK: Final = 1 << 14  # base pages a window: their rows stay in a CPU core's cache
WIDE: Final = 1 << 22  # on a GPU, where a window costs 200 kernel launches
TOGETHER: Final = 4  # lanes of one iteration, where they are gone through in turn
DEPTH: Final = 2  # entries of a chain that are read once a window
C = TypeVar("C", bound=tuple[Any, ...])
Index = Int32[Array, ""]
Lanes = Int32[Array, " lanes"]
Mask = Bool[Array, " lanes"]


@pytree
class Chains:
    """Entries that map each page, as they were read last: the first of each chain."""

    words: Int32[Array, "depth lanes 2"]
    # The entry behind each; None where nothing is mapped twice.
    following: Int32[Array, "depth lanes"] | None


@pytree
class Known:
    """Rows and entries as this call wrote them last: they need not be read again."""

    row: Int32[Array, "lanes 4"]
    chains: Chains


def many(count: int) -> bool:
    """Whether so many lanes are worth a second form, or a longer one, to be compiled."""
    return count >= CHUNK and not xla.short()


def chunk() -> int:
    """Base pages a window that suit this process's devices."""
    return CHUNK if jax.default_backend() == "cpu" else WIDE


def rows(
    array: Int32[Array, "n *columns"], index: Lanes
) -> Int32[Array, "lanes *columns"]:
    """Rows of `array`; a padding lane gets row 0."""
    safe = jnp.where(index == NOWHERE, 0, index)
    # `array[safe]` would compute what a negative index stands for, in every lane.
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(1, array.ndim)),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
    )
    size = (1, *array.shape[1:])
    return jax.lax.gather(array, safe[:, None], numbers, size, mode="promise_in_bounds")


def scatter(array: Array, index: Lanes, where: Mask, values: Array) -> Array:
    """`array` with some rows replaced.

    Args:
      array: any[rows, columns] or any[rows].
      index: int32[lanes], which row each lane writes.
      where: bool[lanes], lanes that write; NOWHERE in `index` does not either.
      values: any[lanes, columns] or any[lanes].
    Returns:
      The array.
    """
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(1, array.ndim)),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
    )
    here = jnp.where(where, index, NOWHERE)[:, None]
    values = jnp.broadcast_to(values, (index.shape[0], *array.shape[1:]))
    return jax.lax.scatter(
        array, here, values.astype(array.dtype), numbers, mode="drop"
    )


def columns(*values: Lanes) -> Int32[Array, "lanes columns"]:
    """Columns side by side; unlike jnp.stack, this fuses with what computes them."""
    column = jnp.arange(len(values))
    out = values[-1][:, None]
    for i, value in reversed(list(enumerate(values[:-1]))):
        out = jnp.where(column == i, value[:, None], out)
    return out


def totals(*values: Lanes | Mask) -> list[Int32[Array, ""]]:
    """Sums over all lanes in one pass; on a CPU, one for each costs ten times as much."""
    terms = [jnp.asarray(v, jnp.int32) for v in values]
    if len(terms) == 1:
        # XLA:CPU splits a reduction of one array into three.
        terms.append(jnp.zeros_like(terms[0]))
    zeros = (np.int32(0),) * len(terms)

    def plus(first: tuple, second: tuple) -> tuple:
        return tuple(x + y for x, y in zip(first, second, strict=True))

    return list(jax.lax.reduce(tuple(terms), zeros, plus, (0,))[: len(values)])


def some(*masks: Mask) -> list[Bool[Array, ""]]:
    """Whether any lane is in each mask."""
    return [n > 0 for n in totals(*masks)]


def rank(mask: Mask) -> Lanes:
    """Position of each lane among those of `mask`."""
    # New functions each time: JAX would go on using what it traced with other tricks.
    return jax.lax.platform_dependent(
        mask, cpu=lambda m: _rank_on_cpu(m), default=lambda m: running(m) - 1
    )


def _rank_on_cpu(mask: Mask) -> Lanes:
    lanes = jnp.arange(mask.shape[0], dtype=jnp.int32)
    (first,) = totals(mask)
    # The common masks are all lanes, or all but padding at the end.
    (others,) = totals(mask != (lanes < first))
    return jax.lax.cond(others == 0, lambda: lanes, lambda: running(mask) - 1)


def running(mask: Mask | Lanes) -> Lanes:
    """How many lanes of `mask` there are up to each lane, or the sums of numbers."""
    ones = mask.astype(jnp.int32)
    if not xla.marks():
        return jnp.cumsum(ones)
    return jax.lax.platform_dependent(ones, cpu=_running_on_cpu, default=jnp.cumsum)


def _running_on_cpu(ones: Lanes) -> Lanes:
    def add(sums: tuple[Index], one: Index) -> tuple[tuple[Index], Index]:
        total = sums[0] + one
        return (total,), total

    # XLA:CPU's own cumsum costs six times as much.
    return in_turn(add, (jnp.int32(0),), ones)[1]


def in_turn(
    step: Callable[[C, Index], tuple[C, Index]],
    start: C,
    values: Lanes,
    together: int = 1,
) -> tuple[C, Lanes]:
    """One lane after the other, on a CPU, in one compiled function.

    Args:
      step: (carry, value of the lane) -> (carry, number of the lane), int32 all.
      start: a tuple of int32, the carry before the first lane.
      values: int32[lanes], not negative.
      together: lanes of one iteration: only steps that compute much gain by it.
    Returns:
      The carry after the last lane; int32[lanes], their numbers.
    """
    count = values.shape[0]
    together = math.gcd(count, together) if many(count) else 1

    def turns(values: Lanes, *start: Index) -> tuple[Any, Lanes]:
        def some(i: Array, state: tuple[Any, Lanes]) -> tuple[Any, Lanes]:
            carry, numbers = state
            for n in range(together):
                at = (i.astype(jnp.uint32) * together + n).astype(jnp.int32)
                value = jax.lax.dynamic_slice(values, (at,), (1,))[0]
                carry, number = step(carry, value)
                numbers = xla.put(numbers, at, number)
            return carry, numbers

        # All lanes: with a number of trips that is data, vmap would make scatters of it.
        return jax.lax.fori_loop(0, count // together, some, (start, values))

    # XLA must not fold them: see `xla.whole`.
    known = (xla.after(number, values) for number in start)
    return xla.whole(turns, values, *known)


def dealt(
    group: Lanes,
    first: Int32[Array, " groups"],
    step: int,
) -> tuple[Lanes, Int32[Array, " groups"]]:
    """A number for each lane: those of a group count from the group's first number.

    Args:
      group: int32[lanes], below `groups`; a lane of group `groups` gets any number.
      first: int32[groups], the number of each group's first lane.
      step: from one lane of a group to its next.
    Returns:
      int32[lanes]; int32[groups], the numbers that would come next.
    """
    several = functools.partial(_dealt, group, first, step)
    if first.shape[0] > 1 and not many(group.shape[0]):
        return several()
    # Mostly there is one group, of all lanes or all but padding: `rank` has a short way
    # for these.
    counts = jnp.stack(totals(*(group == n for n in range(first.shape[0]))))

    def one_group() -> tuple[Lanes, Array]:
        only = counts.argmax().astype(jnp.int32)
        return xla.row(first, only) + step * rank(group == only), first + step * counts

    if first.shape[0] == 1:
        return one_group()
    return jax.lax.cond((counts > 0).sum() <= 1, one_group, several)


def _dealt(
    group: Lanes, first: Int32[Array, " groups"], step: int
) -> tuple[Lanes, Int32[Array, " groups"]]:
    elsewhere = functools.partial(_dealt_by_groups, step=step)
    if not xla.marks():
        return elsewhere(group, first)
    cpu = functools.partial(_dealt_in_turn, step=step)
    return jax.lax.platform_dependent(group, first, cpu=cpu, default=elsewhere)


def _dealt_in_turn(
    group: Lanes, first: Int32[Array, " groups"], step: int
) -> tuple[Lanes, Int32[Array, " groups"]]:
    def deal(
        following: tuple[Index, ...], group: Index
    ) -> tuple[tuple[Index, ...], Index]:
        number, after = following[0], []
        for n, mine in enumerate(following):
            number = jnp.where(group == n, mine, number)
            after.append(mine + jnp.where(group == n, step, 0))
        return tuple(after), number

    following, numbers = in_turn(deal, tuple(first), group, TOGETHER)
    return numbers, jnp.stack(following)


def _dealt_by_groups(
    group: Lanes, first: Int32[Array, " groups"], step: int
) -> tuple[Lanes, Int32[Array, " groups"]]:
    def one(n: Array, carry: tuple[Lanes, Array]) -> tuple[Lanes, Array]:
        numbers, following = carry
        mine = group == n
        (count,) = totals(mine)

        def number() -> Lanes:
            return jnp.where(mine, first[n] + step * (running(mine) - 1), numbers)

        # Of most groups there is no lane.
        numbers = jax.lax.cond(count > 0, number, lambda: numbers)
        return numbers, following.at[n].add(step * count)

    return jax.lax.fori_loop(0, first.shape[0], one, (group * 0, first))


def padding(count: int) -> Lanes:
    """Padding lanes."""
    return jnp.full(count, NOWHERE, jnp.int32)


def pick(mask: Mask) -> Lanes:
    """The lanes of `mask`, one after the other, and NOWHERE behind them."""
    count = mask.shape[0]
    place = jnp.where(mask, running(mask) - 1, NOWHERE)
    return scattered(place, jnp.arange(count, dtype=jnp.int32), padding(count))


def scattered(place: Lanes, values: Array, empty: Array) -> Array:
    """`empty` with the values of the lanes that have a place at their places."""

    def on_cpu(place: Lanes, values: Array, empty: Array) -> Array:
        # The others write behind the last place: a branch that skips them would often be
        # mispredicted.  On a GPU so many writes to one place would be serialized.
        count = empty.shape[0]
        room = jnp.concatenate([empty, empty[:1]])
        place = jnp.where(place == NOWHERE, count, place)
        return room.at[place].set(values)[:count]

    def elsewhere(place: Lanes, values: Array, empty: Array) -> Array:
        return empty.at[place].set(values, mode="drop")

    return jax.lax.platform_dependent(
        place, values, empty, cpu=on_cpu, default=elsewhere
    )


def numbers(place: Lanes, limit: Int32[Array, ""]) -> Lanes:
    """`place // limit`, the number of the batch at each place.

    Places are below 2^22, or, for a limit above the number of lanes, below twice the
    limit.
    """
    return jax.lax.platform_dependent(
        place, limit, cpu=_by_floats, default=jnp.floor_divide
    )


def _by_floats(place: Lanes, limit: Int32[Array, ""]) -> Lanes:
    # CPUs have no vector division of integers.  With 0.5 added the quotient is farther from
    # a whole number than the rounding error.
    short = jnp.floor((place.astype(jnp.float32) + 0.5) / limit.astype(jnp.float32))
    few = limit < place.shape[0]
    return jnp.where(few, short.astype(jnp.int32), (place >= limit).astype(jnp.int32))


def entry_of(m: Machine, entry: Lanes) -> tuple[Int32[Array, "lanes 2"], Lanes]:
    """Both words of each entry, and the next entry that maps the same frame."""
    if not m.geometry.shared:
        # Nothing is mapped twice: the chain ends here, and its array need not be read.
        return rows(m.pte, entry), jnp.full_like(entry, NOWHERE)
    following = rows(m.rmap_next, entry)
    return rows(m.pte, entry), jnp.where(entry == NOWHERE, NOWHERE, following)


def entry_or(
    chains: Chains, m: Machine, entry: Lanes, i: Int32[Array, ""]
) -> tuple[Int32[Array, "lanes 2"], Lanes]:
    """entry_of(), without reading what is known.

    Args:
      chains: the entries from each chain's first on.
      entry: int32[lanes], of each lane the entry at place `i` of its chain, or NOWHERE.
      i: int32.
    Returns:
      int32[lanes, 2] words; int32[lanes], the entries behind.
    """
    nowhere = jnp.full_like(entry, NOWHERE)
    if chains.following is None:
        return chains.words[0], nowhere
    words, behind = chains.words, chains.following

    def known() -> tuple[Array, Lanes]:
        at = jnp.minimum(i, DEPTH - 1)
        return words[at], jnp.where(entry == NOWHERE, nowhere, behind[at])

    return jax.lax.cond(i < DEPTH, known, lambda: entry_of(m, entry))


def along_chains(shared: bool, step: Callable[[C, Int32[Array, ""]], C], start: C) -> C:
    """`step` once for every entry of the longest chain, all lanes in lockstep.

    Args:
      shared: whether a chain can have more than one entry.
      step: (carry, int32 place in the chain) -> carry.
      start: a tuple whose second item is each lane's entry.
    Returns:
      The carry after the last entry.
    """
    if not shared:
        return step(start, jnp.int32(0))

    def one(carry: tuple[Array, C]) -> tuple[Array, C]:
        i, inner = carry
        return i + 1, step(inner, i)

    def more(carry: tuple[Array, C]) -> Array:
        return (carry[1][1] != NOWHERE).any()

    return jax.lax.while_loop(more, one, (jnp.int32(0), start))[1]
