"""The lists that a caller hands to migrate_pages(), and the sum of their results."""

import itertools
from collections.abc import Collection

import numpy as np

from jaxmig.calls.callers.candidates import Candidates, Numbers
from jaxmig.calls.syscalls.session import NotModelled, Session
from jaxmig.calls.syscalls.space import Heads
from jaxmig.calls.syscalls.spread import migrate_over, nodes_with_room


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
    ) -> int:
        """Migrate one list, or `lists` of them as batches of one call.

        Args:
          heads: folios of the lists, in order.
          batch: base pages of each list; None for the session's own batch limit.
          lists: how many calls of Linux this stands for.
          puts_back: the caller puts back what is on its list even after a success.
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
        )
        return self._count(ret, lists)

    def over(self, heads: Heads, nodes: Heads, room: int) -> int:
        """Migrate one list whose folios go to different nodes, see `migrate_over`."""
        how = {"mode": self.mode, "reason": self.reason, "memalloc": self.memalloc}
        return self._count(migrate_over(self.session, heads, nodes, room, **how), 1)

    def fall_back(
        self, candidates: Candidates, allowed: Collection[int], who: str
    ) -> None:
        """Migrate one list, whose folios go elsewhere once the target is full.

        Args:
          candidates: folios of one node.
          allowed: nodes that may be used instead; near are those with the next numbers.
          who: the caller's name, for the error.
        Raises:
          NotModelled: where folios go depends on more than memory.
        """
        s = self.session
        near = [(self.node + i) % s.nodes for i in range(s.nodes)]
        tried = [n for n in near if n == self.node or n in allowed]
        if int(candidates.size.sum()) <= s.free(self.node) or len(tried) < 2:
            self.one(candidates.head)
            return
        nodes = nodes_with_room(s, candidates.head, lambda _: tried, who)
        home, stay = int(candidates.node[0]), int((nodes == candidates.node[0]).sum())
        if min(stay, s.free(home)) > int(s.state.top[home, 0]):
            problem = "the machine was made without frames for pages that go nowhere"
            raise NotModelled(f"{who}: {problem}; leave more memory free")
        self.over(candidates.head, nodes, sum(s.free(n) for n in tried))

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
