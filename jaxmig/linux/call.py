"""The state of one call, in windows or one folio at a time: machine, events, statistics."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.state.events import Events
from jaxmig.state.machine import Machine
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]


@pytree
class List:
    """The first `size` of `folios` are on the list."""

    folios: Int32[Array, " folios"]
    size: Int32[Array, ""]


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


def no_stats() -> Stats:
    """All zero."""
    return Stats(*(jnp.int32(0) for _ in range(5)))


@pytree
class CallState:
    """Everything a call carries."""

    m: Machine
    ev: Events
    todo: List  # `from`
    stats: Stats
    error: Int32[Array, ""]  # 0, or folio.ENOMEM, EDEADLOCK, SLEEPS: stop
    remaining: Int32[Array, ""]  # folios that will end up on the caller's list
    in_order: Int32[Array, ""]  # folios that were migrated one by one

    def note(self, kind: int, *words: object) -> "CallState":
        """This call with a row more in its log, if it has one."""
        return self.set(ev=self.ev.note(kind, *words))

    def set(self, **changes: object) -> "CallState":
        """This call with some fields replaced."""
        return dataclasses.replace(self, **changes)
