"""The interface of every kind of target."""

import dataclasses
from collections.abc import Callable

from jaxmig.calls.syscalls import Space
from jaxmig.host.naming import TargetError
from jaxmig.state.machine import Machine


@dataclasses.dataclass(frozen=True)
class Setting:
    """The hardware that a target is put on."""

    nodes: int = 2
    cpus: int = 4
    running: tuple[int, ...] = ()
    lazy: tuple[int, ...] = ()
    tlb: tuple[int, int] = (128, 12)
    huge_tlb: tuple[int, int] = (128, 12)
    free: tuple[int | None, ...] = ()  # base pages by node, None: as much as needed
    content: bool = True
    seed: int = 0
    node: int = 0  # where a workload's memory lies

    @property
    def limited(self) -> bool:
        """Whether some node may run out of memory."""
        return any(pages is not None for pages in self.free)


@dataclasses.dataclass(frozen=True)
class WhatIf:
    """Changes to a target; None and 0 leave it as it is."""

    thp: int | None = None  # percent of its pages in THPs
    folio: int | None = None  # order of its other private anonymous folios
    pinned: float = 0  # percent of its folios that are pinned
    place: int | None = None  # the node where all of its pages are


@dataclasses.dataclass(frozen=True)
class Target:
    """Memory that can be built as a machine, and what is known about it."""

    name: str
    description: str
    pages: int  # base pages of all processes that are built
    running: tuple[int, ...]  # CPUs, as the target itself numbers them
    build: Callable[[Setting], tuple[Machine, Space]]
    ran: str = ""  # where these CPUs are from, if they were found and not chosen
    nodes: int = 1  # how many its pages need
    by_node: dict[int, int] = dataclasses.field(default_factory=dict)  # base pages
    # Makes the target with other sizes, pins or node; None if it cannot be changed.
    changed: Callable[[WhatIf], "Target"] | None = None
    own_sizes: bool = False  # it has pages of 4 KiB and 2 MiB as it was found
    thp: int = 0  # percent of its pages in THPs, as it was found
    areas: tuple[tuple[int, str], ...] = ()  # first page and name of each, where known
    laid_out: int = 0  # base pages whose addresses are made up from numa_maps
    unmovable: tuple[tuple[str, int], ...] = ()  # (why, pages)
    foreign: int = 0  # the most mappings of its pages by processes not on the machine
    missing: tuple[str, ...] = ()  # what could not be read
    assumed: tuple[str, ...] = ()  # what was assumed about its pages

    def what_if(self, change: WhatIf) -> "Target":
        """The changed target, whose `assumed` lists what was done.

        Raises:
          TargetError: its pages are not known well enough.
        """
        if change == WhatIf():
            return self
        if self.changed is None:
            problem = "which pages could be larger or pinned is not known of it"
            raise TargetError(f"{self.name}: {problem}; take a snapshot or memhog")
        return self.changed(change)
