"""The request to a caller, and its result."""

import dataclasses
import errno as errnos
from typing import Any

from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Space


@dataclasses.dataclass(frozen=True)
class Request:
    """One call of a caller.

    Attributes:
      old, node: it works on the folios of `space` on the nodes `old`, and they go to
        `node`.
      tier: of demotion: nodes that it may use instead when `node` is full.
      order, direct: of compaction: log2 of the pages that it is to free (-1: all it
        can), and whether an allocation waits for it; None: as its mode says.
      lru_gen: reclaim uses the multi-generational LRU.
      compact_unevictable: vm.compact_unevictable_allowed.
    """

    session: Session
    space: Space
    old: frozenset[int]
    node: int
    mode: str
    order: int | None = None
    direct: bool | None = None
    lru_gen: bool = False
    compact_unevictable: bool = True
    tier: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class CallerOutcome:
    """The result of a caller's lists.

    Attributes:
      ret: folios not migrated, summed over the lists, or -ENOMEM.
      error: negative errno that the caller itself returns, 0 if none.
      lists: calls of migrate_pages().
      reclaimed: base pages that the caller dropped instead.
      nr_isolated: the error that the call leaves in NR_ISOLATED_ANON and
        NR_ISOLATED_FILE together, base pages.
    """

    ret: int
    error: int
    lists: int
    reclaimed: int = 0
    nr_isolated: int = 0

    def fields(self, caller: str) -> dict[str, Any]:
        """The fields that the result record of a caller has beside its counts."""
        return {
            "caller": caller,
            "caller_errno": errnos.errorcode[-self.error] if self.error else None,
            "caller_error": self.error,
            "lists": self.lists,
            "reclaimed": self.reclaimed,
            "nr_isolated": self.nr_isolated,
        }
