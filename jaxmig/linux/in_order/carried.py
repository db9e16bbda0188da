"""What a call carries from folio to folio, where it goes one folio at a time.

Linux's lists (`from`, unmap_folios, ret_folios ...) lie in one array, one behind the
other, each with a slot more than folios: what is written behind the end of a list
counts only once its size does.  Sizes, statistics and errors are registers of one small
array, since each array that a loop carries costs operations of its own at every step.
"""

import dataclasses
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32

from jaxmig.linux import tlb
from jaxmig.linux.call import CallState, Stats
from jaxmig.linux.folio import CROWDED, Where
from jaxmig.linux.in_order.target import Placed, nothing_placed
from jaxmig.linux.phases.copypage import Copies, no_copies
from jaxmig.linux.rules import Rules
from jaxmig.linux.tlb import Cached
from jaxmig.state import xla
from jaxmig.state.events import Events
from jaxmig.state.machine import Geometry
from jaxmig.state.pytree import pytree

Index = Int32[Array, ""]
# SYNC_FOLIOS: those that migrate_pages_sync() tries one by one.
LISTS: Final = 5
FROM, UNMAP_FOLIOS, RET_FOLIOS, SPLIT_FOLIOS, SYNC_FOLIOS = range(LISTS)
# Registers: the sizes of the lists, then struct migrate_pages_stats, what one pass
# leaves for the next, and how the call goes on.
(
    FAILED,
    FAILED_PAGES,
    THP_FAILED,
    THP_SPLIT,
    SPLITS,
    RETRY,
    RETRY_PAGES,
    RETRY_THPS,
    PIECES,  # pieces of split folios that are unmapped
    REMAINING,  # folios that will end up on the caller's list
    ERROR,  # 0, or folio.ENOMEM, EDEADLOCK, SLEEPS: stop
) = range(LISTS, LISTS + 11)
REGISTERS: Final = LISTS + 11
COPIES: Final = 512  # folios of one order whose copies are batched at most


@dataclasses.dataclass(frozen=True)
class Context:
    """What does not change during a call."""

    rules: Rules
    geometry: Geometry
    at: Where
    pmd_table: Int32[Array, " pmds"]


@pytree
class State:
    """The machine as it is now, what happened, lists and registers."""

    frame: Int32[Array, "frames 4"]
    copies: Copies | None  # None if there are no contents
    pte: Int32[Array, "entries 2"]
    rmap_next: Int32[Array, " entries"]
    free: Int32[Array, " slots"]
    top: Int32[Array, "nodes orders"]
    nfree: Int32[Array, " nodes"]
    conditions: Int32[Array, "frames 4"] | None
    cached: Cached
    ev: Events
    lists: Int32[Array, " places"]
    reg: Int32[Array, " registers"]
    placed: Placed | None  # None: all folios go to one node

    def set(self, **changes: object) -> "State":
        """This state with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def __getitem__(self, register: int) -> Index:
        return self.reg[register]

    def add(self, counts: dict[int, Any]) -> "State":
        """This state with registers increased."""
        index, reg = jnp.arange(REGISTERS), self.reg
        for register, n in counts.items():
            reg = reg + jnp.where(index == register, n, 0)
        return self.set(reg=reg)

    def put(self, values: dict[int, Any]) -> "State":
        """This state with registers replaced."""
        index, reg = jnp.arange(REGISTERS), self.reg
        for register, n in values.items():
            reg = jnp.where(index == register, n, reg)
        return self.set(reg=reg)

    def empty(self, register: Any, when: Any) -> "State":
        """This state with a list, or another register, at 0 if `when`."""
        gone = (jnp.arange(REGISTERS) == register) & when
        return self.set(reg=jnp.where(gone, 0, self.reg))

    @property
    def room(self) -> int:
        """Places of one list."""
        return self.lists.shape[0] // LISTS

    def at(self, which: Any, i: Index) -> Index:
        """The i-th folio of a list."""
        place = which * self.room + i
        return xla.read(i, lambda: xla.row(self.lists, place))

    def append(self, which: Any, folio: Index, when: Any) -> "State":
        """This state with `folio` at the end of a list, if `when`."""
        index = jnp.arange(REGISTERS)
        mine = index == which
        size = jnp.where(mine, self.reg, 0).sum(dtype=jnp.int32)
        lists = xla.put(self.lists, which * self.room + size, folio)
        return self.set(lists=lists, reg=self.reg + (mine & when))

    def append_all(self, to: int, which: int, first: Index, last: Index) -> "State":
        """Items `first` ... `last` - 1 of one list, at the end of another or of itself.

        Args:
          to: the list that grows: FROM ... SYNC_FOLIOS.
          which: the list they are read from, which stays as it is.
          first, last: int32, places on that list; nothing happens if `last` is not above.
        Returns:
          This state, both lists in its `lists` and the new size in `reg`.
        """

        def go_on(carry: tuple[Array, Index, Index]) -> Any:
            return carry[1] < last

        def move(carry: tuple[Array, Index, Index]) -> tuple[Array, Index, Index]:
            lists, i, slot = carry
            folio = xla.read(i, lambda: xla.row(lists, which * self.room + i))
            return xla.put(lists, to * self.room + slot, folio), i + 1, slot + 1

        start = (self.lists, jnp.asarray(first), self[to])
        lists, _, size = jax.lax.while_loop(go_on, move, start)
        return self.set(lists=lists).put({to: size})

    @property
    def waits(self) -> Any:
        """Whether `copies` is full, and has to be copied before the next folio."""
        return False if self.copies is None else self.copies.full

    def note(self, kind: int, *words: Any, when: Any = True) -> "State":
        """This state with a row more in its log, if it has one."""
        return self.set(ev=self.ev.note(kind, *words, when=when))


def begin(call: CallState, falls_back: bool = False) -> State:
    """The state at the beginning of a call on `call.todo`.

    `falls_back`: whether folios may go to other nodes than the target.
    """
    m, n = call.m, call.todo.folios.shape[0]
    spare = jnp.zeros(LISTS * (n + 1) - n, jnp.int32)
    reg = jnp.zeros(REGISTERS, jnp.int32).at[FROM].set(call.todo.size)
    s = call.stats
    stats = (s.failed, s.failed_pages, s.thp_failed, s.thp_split, s.split)
    state = State(
        frame=m.frame,
        copies=None if m.memory is None else no_copies(len(m.geometry.orders), COPIES),
        pte=m.pte,
        rmap_next=m.rmap_next,
        free=m.free,
        top=m.top,
        nfree=m.nfree,
        conditions=m.conditions,
        cached=tlb.cached(m),
        ev=call.ev,
        lists=jnp.concatenate([call.todo.folios, spare]),
        reg=reg,
        placed=nothing_placed(m.frame.shape[0]) if falls_back else None,
    )
    state = state.add(dict(zip(range(FAILED, RETRY), stats, strict=True)))
    return state.put({REMAINING: call.remaining, ERROR: call.error})


def end(call: CallState, state: State, memory: Array | None) -> CallState:
    """The call after it."""
    m = dataclasses.replace(
        call.m,
        frame=state.frame,
        memory=memory,
        pte=state.pte,
        rmap_next=state.rmap_next,
        free=state.free,
        top=state.top,
        nfree=state.nfree,
        conditions=state.conditions,
    )
    # After -ENOMEM with nothing unmapped no flush is sent, though a walk that failed may
    # have set tlb_ubc: its entries are present again, so no stale translation is left.
    cpus = state.cached.cpus
    cpus = dataclasses.replace(cpus, pending=cpus.pending & False)
    m = tlb.put_back(m, dataclasses.replace(state.cached, cpus=cpus))
    stats, error = Stats(*(state[i] for i in range(FAILED, RETRY))), state[ERROR]
    if state.placed is not None:
        error = jnp.where(state.placed.crowded, CROWDED, error)
    return call.set(
        m=m, ev=state.ev, stats=stats, remaining=state[REMAINING], error=error
    )
