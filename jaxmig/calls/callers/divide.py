"""Splitting one folio, outside of migrate_pages().

Source: try_to_split_thp_page() in mm/memory-failure.c, split_huge_page_to_list() in
mm/huge_memory.c.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxmig.calls.syscalls.session import Session, SleepsForever
from jaxmig.engine.migrate import replace
from jaxmig.linux.call import CallState, List, no_stats
from jaxmig.linux.checks import Stage
from jaxmig.linux.folio import SLEEPS, SUCCESS, Where
from jaxmig.linux.in_order import carried as reg
from jaxmig.linux.in_order.attempt import DIVIDE, look
from jaxmig.linux.in_order.carried import Context
from jaxmig.linux.in_order.step import step
from jaxmig.linux.releases import Defers
from jaxmig.linux.rules import from_word
from jaxmig.state import events, frame, xla
from jaxmig.state.events import Events
from jaxmig.state.machine import Machine

Index = Int32[Array, ""]


def divide(session: Session, head: int) -> bool:
    """Split a folio into base pages, after a wait for its lock; whether that worked.

    Raises:
      SleepsForever: the lock is never free.
    """
    # Who has isolated it holds a reference, which can_split_folio() sees in its turn.
    taken = int((session.view().flags(np.asarray([head]))[0] & frame.LRU) == 0)
    _hold(session, head, taken)
    rc = int(session.work(program, jnp.int32(head)))
    _hold(session, head, -taken)
    if rc == SLEEPS:
        raise SleepsForever
    return rc == SUCCESS


def _hold(session: Session, head: int, refs: int) -> None:
    if refs:
        rows = session.state.frame.at[head, frame.REFCOUNT].add(refs)
        session.rewind(replace(session.state, frame=rows))


@functools.cache
def program(defers: Defers | None) -> xla.Program:
    """The program that splits a folio."""

    def split(
        m: Machine, head: Index, cpu: Index, bits: Index
    ) -> tuple[Machine, Events, Index]:
        r, none, yes = from_word(bits, defers), jnp.int32(0), jnp.asarray(True)
        k = CallState(
            m=m,
            ev=events.none(m.cpus.lazy.shape[0]),
            todo=List(head[None], jnp.int32(1)),
            stats=no_stats(),
            error=none,
            remaining=none,
            in_order=none,
        )
        c = Context(r, m.geometry, Where(cpu=cpu, node=none), m.pmd_table)
        st, s = Stage(yes, yes, posted=~yes, force=yes, isolated=~yes), reg.begin(k)
        s, p = step(c, st, s, look(s, head), jnp.int32(DIVIDE), ~yes)
        k = reg.end(k, s, m.memory)
        return k.m, k.ev, p.rc

    return xla.Program(split)


def pieces(head: int, pages: int) -> np.ndarray:
    """Frames of the pieces of a folio, in address order."""
    return np.arange(head, head + pages, dtype=np.int32)
