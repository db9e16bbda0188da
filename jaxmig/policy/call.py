"""The state of one call: machine, events, lists, statistics.

Lists of folios are int32 arrays with a length; a pass over a list keeps what must be
retried by compacting it in place, as the kernel leaves such folios on `from`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig import wall
from jaxmig.events import Events
from jaxmig.machine import Machine
from jaxmig.pytree import pytree

Index = Int32[Array, ""]


@pytree
class List:
    """The first `size` of `folios` are on the list."""

    folios: Int32[Array, " folios"]
    size: Int32[Array, ""]

    def append(self, folio: Index, when: Index) -> "List":
        """The list with `folio` at its end, if `when`."""
        slot = jnp.minimum(self.size, self.folios.shape[0] - 1)
        old = wall.read(slot, lambda: self.folios[slot])
        new = jnp.where(when, folio, old)
        return List(wall.put(self.folios, slot, new), self.size + when)

    def at(self, i: Index) -> Index:
        """The i-th folio."""
        return wall.read(i, lambda: self.folios[i])


def nothing(like: Int32[Array, " folios"]) -> List:
    """An empty list that can hold as many folios as `like`."""
    return List(jnp.zeros_like(like), jnp.int32(0))


@pytree
class Stats:
    """struct migrate_pages_stats, of a stage or of a call."""

    failed: Int32[Array, ""]  # folios: what becomes the return value
    failed_pages: Int32[Array, ""]
    thp_failed: Int32[Array, ""]
    thp_split: Int32[Array, ""]
    split: Int32[Array, ""]

    def add(self, **more: Index) -> "Stats":
        """These and `more`."""
        new = {k: getattr(self, k) + v for k, v in more.items()}
        return dataclasses.replace(self, **new)

    def plus(self, other: "Stats") -> "Stats":
        """Field by field."""
        return jax.tree.map(jnp.add, self, other)


def no_stats() -> Stats:
    """All zero."""
    return Stats(*(jnp.int32(0) for _ in range(5)))


@pytree
class Retry:
    """What one pass leaves for the next."""

    folios: Int32[Array, ""]
    thps: Int32[Array, ""]
    pages: Int32[Array, ""]


def no_retry(first: int = 0) -> Retry:
    """Nothing to retry; `first` 1 starts the passes."""
    return Retry(jnp.int32(first), jnp.int32(0), jnp.int32(0))


@pytree
class Call:
    """Everything a call carries."""

    m: Machine
    ev: Events
    todo: List  # `from`
    held: List  # unmapped and locked
    ret: List  # permanently failed, to be given back (or to be tried one by one)
    split: List  # heads of folios that were split
    stats: Stats
    retry: Retry
    error: Int32[Array, ""]  # 0, or folio.ENOMEM, EDEADLOCK, SLEEPS: stop
    remaining: Int32[Array, ""]  # folios that will end up on the caller's list

    def note(self, kind: int, *words: object) -> "Call":
        """This call with a row more in its log, if it has one."""
        return self.set(ev=self.ev.note(kind, *words))

    def set(self, **changes: object) -> "Call":
        """This call with some fields replaced."""
        return dataclasses.replace(self, **changes)


def each(
    k: Call, first: Index, stop: Index, step: Callable[[Call, Index], Call]
) -> Call:
    """`step(k, i)` for i in first ... stop - 1, until the call has an error."""

    def body(c: tuple[Call, Index]) -> tuple[Call, Index]:
        return step(c[0], c[1]), c[1] + 1

    def go_on(c: tuple[Call, Index]) -> Array:
        return (c[1] < stop) & (c[0].error == 0)

    return jax.lax.while_loop(go_on, body, (k, jnp.asarray(first)))[0]


def passes(k: Call, limit: int, one: Callable[[Call, Index], Call]) -> Call:
    """`one(k, pass)` while something is left to retry, at most `limit` times."""

    def body(c: tuple[Call, Index]) -> tuple[Call, Index]:
        return one(c[0].set(retry=no_retry()), c[1]), c[1] + 1

    def go_on(c: tuple[Call, Index]) -> Array:
        k, n = c
        return (n < limit) & (k.retry.folios > 0) & (k.error == 0)

    start = k.set(retry=no_retry(1))
    return jax.lax.while_loop(go_on, body, (start, jnp.int32(0)))[0]
