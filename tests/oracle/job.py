"""What a caller inside the kernel works on, and what comes of its lists."""

from __future__ import annotations

from dataclasses import dataclass, field

from .folio import Folio, Region
from .isolate import run
from .kernel import Kernel, Request
from .nodes import parse
from .world import Process


@dataclass(frozen=True, eq=False)
class Page:
    """A folio of the process, at the first address where that maps it.

    Reading: frames lie in the order of addresses, so that ``vpn`` stands for the pfn.
    """

    vpn: int
    folio: Folio
    region: Region

    @property
    def migratable(self) -> bool:
        """What an area that nobody migrates maps has a frame, but is on no LRU."""
        return self.region.migratable


@dataclass(eq=False)
class Job:
    """One run of a caller."""

    k: Kernel
    call: dict
    process: Process
    mode: str
    reason: str
    memalloc: bool
    to: set[int]
    frames: list[Page] = field(default_factory=list)
    failed: int = 0  # folios that migrate_pages() gave back
    error: int = 0
    busy: bool = False  # something of the range could not even be listed

    @staticmethod
    def of(
        k: Kernel, call: dict, process: Process, mode: str, reason: str, memalloc: bool
    ) -> Job:
        """From a call: all frames of the process on ``from``, in address order."""
        nodes = len(k.world.free)
        to = parse(call.get("to", "1"), nodes)
        memalloc = call.get("memalloc", memalloc)
        job = Job(k, call, process, call.get("mode", mode), reason, memalloc, to)
        job.frames = _frames(process, parse(call.get("from", "0"), nodes))
        return job

    @property
    def pages(self) -> list[Page]:
        """What could be listed."""
        return [p for p in self.frames if p.migratable]

    @property
    def target(self) -> int:
        """The node where pages go."""
        return min(self.to, default=0)

    def request(self) -> Request:
        """Exactly one node, no fallback."""
        return Request(lambda src: self.target, self.mode, self.reason, self.memalloc)

    def send(self, folios: list[Folio], request: Request | None = None) -> int:
        """One call of migrate_pages(); an empty list makes none."""
        if not folios:
            return 0
        rc = self.migrate(folios, request or self.request())
        self.count(rc)
        return rc

    def migrate(self, folios: list[Folio], request: Request) -> int:
        """The call without its result being counted."""
        self.k.sent += 1
        return run(self.k, request, folios)

    def count(self, rc: int) -> None:
        """Add the result of one list to the whole.

        Reading: the run's result is -ENOMEM if any of its lists met it.
        """
        self.error = min(self.error, rc)
        self.failed += max(rc, 0)


def _frames(process: Process, nodes: set[int]) -> list[Page]:
    """What a scan by frame numbers meets."""
    found, met = [], set()
    for entry in process.entries_in(0, 1 << 62):
        folio = entry.folio
        if folio is None or folio.node not in nodes:
            continue
        if id(folio) not in met:
            found.append(Page(entry.vpn, folio, entry.region))
        met.add(id(folio))
    return found
