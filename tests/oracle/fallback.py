"""Where reclaim and DAMON find new frames once their first node is full."""

from __future__ import annotations

from .folio import Folio
from .job import Job
from .kernel import Request


class Fallback:
    """alloc_demote_folio(), later alloc_migrate_folio(), and the node mask of one list."""

    def __init__(self, job: Job, allowed: set[int], keeps_mask: bool) -> None:
        self.job = job
        self.allowed = allowed
        self.keeps_mask = keeps_mask
        self.lost = False

    def request(self) -> Request:
        """One list's call, which asks here for every folio."""
        job = self.job
        return Request(self.nodes, job.mode, job.reason, job.memalloc, self.placed)

    def nodes(self, src: Folio) -> list[int]:
        """The first node, then what the mask allows.

        Reading: distances grow with the number, as for memory policies.
        """
        count, home = len(self.job.k.world.free), self.job.target
        near = [(home + i) % count for i in range(count)]
        return [home] + [n for n in near if self.lost or n in self.allowed]

    def placed(self, node: int) -> None:
        """The first success exactly there leaves the mask empty: any node will do."""
        if node == self.job.target and not self.keeps_mask:
            self.lost = True
