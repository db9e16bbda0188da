"""A log of one call: what happened, in order, as rows of six int32 words.

    COUNT   ones, many, amount     counters that went up: by 1, or by `amount`
    BEGIN   scope, n               a call, list or stage begins, with n folios
    END     scope
    FOLIO   head, order, scope     the next rows are about this folio
    ALLOC   head, pages, node      a destination is reserved
    SET     entry, pfn, bits, order    an entry became a migration entry
    REMOVE  entry, pfn, bits, order    a migration entry became an entry of `pfn`
    COPY    src, dst, pages
    FLUSH   mm, sent, own, batch   a flush request; `sent` and `own` are pages as the
                                   trace point tlb_flush prints them, or NONE
    CPUS    first, ipis, full, one CPUs from `first` on, as masks of 32 bits: those
                                   interrupted, those that flush everything, one page
    PIECES  entry, head, bits, n   a PMD leaf was split; n entries below it replace it
    STATS   failed, thp_failed, thp_split, split, ret    of the call, at its end

The first word of a row is its kind.  Entries are numbers of `Machine.pte`, `bits` its
second word.  Masks in COUNT number the counters as `events.LOGGED` does.
"""

import dataclasses
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.state import xla
from jaxmig.state.pytree import pytree

COLUMNS: Final = 6
COUNT, BEGIN, END, FOLIO, ALLOC, SET, REMOVE, COPY, FLUSH, CPUS, PIECES, STATS = range(
    1, 13
)
# Scopes, outermost first: one closes all that are inside it.
CALL, HUGETLBS, BATCH, SPLIT, ALONE, UNMAP, SEND, MOVE, UNDO = range(9)
NONE: Final = -2  # no flush of this kind; -1 is a flush of everything
ALL: Final = -1
WORD: Final = 32

Word = int | Int32[Array, ""] | Bool[Array, ""]


@pytree
class Log:
    """Rows in order of events; rows beyond the capacity are only counted."""

    # One more than the capacity: what does not fit is written there.
    records: Int32[Array, "rows 6"]
    length: Int32[Array, ""]
    lost: Int32[Array, ""]

    def append(self, kind: int, *words: Word, when: Word = True) -> "Log":
        """This log and one more row, if `when`."""
        row = [jnp.asarray(w).astype(jnp.int32) for w in (kind, *words)]
        row += [jnp.int32(0)] * (COLUMNS - len(row))
        capacity = self.records.shape[0] - 1
        n = jnp.asarray(when).astype(jnp.int32)
        room = (self.length < capacity).astype(jnp.int32)
        # Written in any case: a row that does not count is overwritten by the next.
        records = xla.put(self.records, self.length, jnp.stack(row))
        return Log(records, self.length + n * room, self.lost + n * (1 - room))

    def append_cpus(
        self,
        ipis: Bool[Array, " cpus"],
        full: Bool[Array, " cpus"],
        one: Bool[Array, " cpus"],
        when: Word = True,
    ) -> "Log":
        """This log and a row for each 32 CPUs of which one is interrupted.

        Args:
          ipis: CPUs that are interrupted.
          full, one: CPUs that flush everything, or one page.
          when: whether there was a flush.
        Returns:
          The log.
        """
        words = -(-ipis.shape[0] // WORD)
        masks = jnp.stack([_packed(m, words) for m in (ipis, full, one)])

        def some(i: Int32[Array, ""], log: "Log") -> "Log":
            at = masks[:, i]
            return log.append(CPUS, i * WORD, *at, when=when & (at[0] != 0))

        if words == 1:
            return some(jnp.int32(0), self)
        return jax.lax.fori_loop(0, words, some, self)

    def rows(self) -> Int32[np.ndarray, "rows 6"]:
        """The rows that were written.  Host only."""
        # A copy: a view would keep the whole buffer alive.
        return np.asarray(self.records)[: int(self.length)].copy()


@dataclasses.dataclass(frozen=True)
class Written:
    """The log of one call of migrate_pages(), on the host."""

    rows: Int32[np.ndarray, "rows 6"]
    mode: str
    reason: str


def empty(capacity: int) -> Log:
    """A log with room for `capacity` rows.

    Raises:
      ValueError: for no room at all.
    """
    if capacity < 1:
        raise ValueError(f"log={capacity}: room for at least one row")
    records = jnp.zeros((capacity + 1, COLUMNS), jnp.int32)
    return Log(records, jnp.int32(0), jnp.int32(0))


def cpus_of(mask: Any, first: Any = 0) -> list[int]:
    """CPUs of one mask of a CPUS row.  Host only."""
    bits = int(mask) & 0xFFFFFFFF
    return [int(first) + i for i in range(WORD) if bits >> i & 1]


def _packed(cpus: Bool[Array, " cpus"], words: int) -> Int32[Array, " words"]:
    wide = jnp.zeros(words * WORD, bool).at[: cpus.shape[0]].set(cpus)
    bits = jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32)
    sums = (wide.reshape(words, WORD) * bits).sum(axis=1, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(sums, jnp.int32)
