"""The lists that a caller hands to migrate_pages(), and the sum of their results."""

import itertools
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from jaxmig.calls.callers.candidates import Candidates, Numbers
from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Heads
from jaxmig.linux.folio import Fallback
from jaxmig.state.machine import NOWHERE


def cuts(size: Numbers, pages: int) -> list[int]:
    """Where lists begin and end: each closes with the folio that brings it to `pages`."""
    if (size == 1).all():
        return [*range(0, len(size), pages), len(size)]
    ends, found = np.cumsum(size), [0]
    while found[-1] < len(size):
        before = ends[found[-1] - 1] if found[-1] else 0
        last = int(np.searchsorted(ends, before + pages)) + 1
        found.append(min(last, len(size)))
    return found


def downwards(candidates: Candidates) -> Candidates:
    """A list to whose head its folios were added in address order."""
    return candidates.take(np.arange(len(candidates))[::-1])


class Lists:
    """The calls of one caller.

    Attributes:
      failed: folios not migrated, summed over the calls.
      short: -ENOMEM if some call returned that, else 0.
      calls: of migrate_pages().
    """

    def __init__(
        self,
        session: Session,
        node: int,
        mode: str,
        reason: str,
        *,
        memalloc: bool = False,
    ) -> None:
        self.session, self.node, self.mode = session, node, mode
        self.reason, self.memalloc = reason, memalloc
        self.failed = self.short = self.calls = 0

    @property
    def ret(self) -> int:
        """-ENOMEM, or folios not migrated."""
        return self.short or self.failed

    def one(
        self,
        heads: Heads,
        *,
        batch: int | None = None,
        lists: int = 1,
        puts_back: bool = False,
        fallback: Fallback | None = None,
    ) -> int:
        """Migrate one list, or `lists` of them as batches of one call.

        Args:
          heads: folios of the lists, in order.
          batch: base pages of each list; None for the session's own batch limit.
          lists: how many calls of Linux this stands for.
          puts_back: the caller puts back what is on its list even after a success.
          fallback: other nodes that may be used; None: there are none.
        Returns:
          Folios not migrated, or -ENOMEM.
        """
        ret = self.session.migrate(
            heads,
            self.node,
            mode=self.mode,
            reason=self.reason,
            memalloc=self.memalloc,
            batch=batch,
            puts_back=puts_back,
            fallback=fallback,
        )
        return self._count(ret, lists)

    def fall_back(
        self, candidates: Candidates, allowed: Collection[int], keeps: bool
    ) -> None:
        """Migrate one list, whose folios go elsewhere once the target is full.

        Args:
          candidates: folios of the list.
          allowed: nodes that may be used instead; near are those with the next numbers.
          keeps: whether only they may be used; if not, the first folio that finds room on
            the target clears the mask of nodes, and then every node may be.
        """
        s = self.session
        others = set(allowed) - {self.node}
        enough = int(candidates.size.sum()) <= s.free(self.node)
        if enough or (not others and (keeps or s.free(self.node) == 0)):
            self.one(candidates.head)
            return
        node = np.arange(s.state.geometry.nodes, dtype=np.int32)
        near = (node - self.node) % np.int32(s.nodes)
        # No node is the target if the machine lacks that.
        near += not 0 <= self.node < s.nodes
        distance = np.where(node < s.nodes, near, NOWHERE)
        mask = np.isin(node, list(others))
        how = Fallback(*map(jnp.asarray, (distance, mask, np.bool_(keeps))))
        self.one(candidates.head, fallback=how)

    def _count(self, ret: int, lists: int) -> int:
        self.calls += lists
        self.short, self.failed = min(self.short, ret), self.failed + max(ret, 0)
        return ret

    def each(self, candidates: Candidates, ends: list[int]) -> None:
        """Migrate lists that do not depend on one another; `ends` is as from `cuts`."""
        if self.alike(candidates):
            return self._alike(candidates.head, np.asarray(ends))
        for first, last in itertools.pairwise(ends):
            self.one(candidates.head[first:last])
        return None

    def roomy(self, candidates: Candidates) -> bool:
        """Whether there is memory for all of these, so that their order does not matter.

        Never with a log: a trace shows each call in its place.
        """
        return self.session.logs is None and self.session.free(self.node) >= int(
            candidates.size.sum()
        )

    def alike(self, candidates: Candidates) -> bool:
        """Whether lists of these folios may be batches of one call.

        They may if memory cannot end, no folio can be split and none can fail.
        """
        return bool((candidates.order == 0).all()) and self.roomy(candidates)

    def _alike(self, heads: Heads, ends: np.ndarray) -> None:
        """Migrate lists of equal length in one call, with batches of that length."""
        length = np.diff(ends)
        if not self.session.release.batched:
            self.one(heads, lists=len(length))
            return
        for pages in np.unique(length).tolist():
            first = ends[:-1][length == pages]
            some = heads[first[:, None] + np.arange(pages)]
            # The call's own limit may cut lists into smaller batches.
            limit = min(self.session.batch or pages, pages)
            if pages % limit == 0:
                self.one(some.reshape(-1), batch=limit, lists=len(first))
            else:
                for part in some:
                    self.one(part)
