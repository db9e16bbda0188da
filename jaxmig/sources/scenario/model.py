"""The contents of a scenario file, as plain frozen values.

`load` has checked that `machine`, `processes`, `regions` and `conditions` fit together.
The arguments of a call need not: scenarios also show what Linux returns for bad ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from jaxmig.sources.scenario.errors import ScenarioError, error_in
from jaxmig.sources.scenario.locate import Where
from jaxmig.sources.scenario.words import BASE_PAGE

# The i-th base page of the region with a name, at whatever address it lies.
PageOf = tuple[str, int]
ConditionPages = Literal["all"] | tuple[Literal["every"], int] | tuple[int, ...]
Until = Literal["forever", "waited"] | tuple[Literal["attempt"], int]


@dataclass(frozen=True)
class MachineSpec:
    """The hardware; `node_size` in bytes by node, `free` as pairs of node and bytes.

    `lru_gen` and `compact_unevictable` are settings of its kernel.
    """

    profile: str
    nodes: int
    cpus: int
    node_size: tuple[int, ...]
    free: tuple[tuple[int, int], ...] = ()
    copy: str = "cpu"  # the copy engine: cpu, threads:N or dma:N
    max_batch: int = 512  # base pages that close a batch; 0: no limit
    lru_gen: bool = False
    compact_unevictable: bool = True

    def node_of_cpu(self, cpu: int) -> int:
        """The node of a CPU: CPUs are spread evenly over the nodes, in order."""
        return cpu * self.nodes // self.cpus

    def free_bytes(self, node: int) -> int | None:
        """Bytes free on `node` before the calls, None if the file does not say."""
        return dict(self.free).get(node)


@dataclass(frozen=True)
class ProcessSpec:
    """A process and the CPUs in its mm_cpumask, which run it or are lazy.

    CPUs in `left` have switched to another process; some releases keep them in the mask.
    """

    name: str
    running: tuple[int, ...] = ()
    lazy: tuple[int, ...] = ()
    left: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionSpec:
    """Pages of one kind at consecutive addresses, mapped by all of `processes`.

    `private` means that the pages have buffers, and not MAP_PRIVATE.  `shared` means
    MAP_SHARED, for a file's region.
    """

    processes: tuple[str, ...]
    name: str
    start: int
    size: int
    folio_order: int = 0
    kind: str = "anon"
    node: int = 0
    writable: bool = True
    mlocked: bool = False
    migratable: bool = True
    private: bool = False
    prot_none: bool = False
    mapped_twice: bool = False  # by each process, the second time right after the first
    shared: bool = True
    exec: bool = False
    migrate_folio: bool = True  # of a file system: whether it has that operation

    @property
    def n_pages(self) -> int:
        """Base pages."""
        return self.size // BASE_PAGE

    @property
    def n_folios(self) -> int:
        return self.n_pages >> self.folio_order

    @property
    def folio_size(self) -> int:
        """Bytes."""
        return BASE_PAGE << self.folio_order

    @property
    def end(self) -> int:
        """The first address after the region and its second mapping, if it has one."""
        return self.start + self.size * (1 + self.mapped_twice)


@dataclass(frozen=True)
class ConditionSpec:
    """A state that some base pages of a region are in, and when it ends.

    `pages` is "all", ("every", n) for every n-th from 0, or a list of indices, in which
    a repeated index counts again.  `until` is "forever", "waited" (it ends when a call
    waits for it) or ("attempt", n) (it ends before the n-th attempt).
    """

    region: str
    pages: ConditionPages
    state: str
    until: Until = "forever"

    def indices(self, n_pages: int) -> Sequence[int]:
        """Indices of the base pages, in a region that has `n_pages` of them."""
        if isinstance(self.pages, str):
            return range(n_pages)
        if self.pages and self.pages[0] == "every":
            return range(0, n_pages, int(self.pages[1]))
        return tuple(int(page) for page in self.pages)


@dataclass(frozen=True)
class CallSpec:
    """One call, with its arguments as in the file; None for those not given.

    `from_` and `to` are libnuma node strings.  `pages` names a region (every base page
    of it) or lists addresses; `nodes` is one node for all of them, or one for each, or,
    for mbind, a node string.  `flags` holds MPOL_MF_* bits.  mbind takes its range
    either from `pages` or from `start` and `length`, in bytes.  `order` and `direct` are
    compaction's.
    """

    syscall: str
    process: str
    cpu: int = 0
    from_: str | None = None
    to: str | None = None
    mode: str | None = None
    caller: str | None = None
    order: int | None = None
    direct: bool | None = None
    pages: str | tuple[int | PageOf, ...] | None = None
    nodes: int | str | tuple[int, ...] | None = None
    flags: int | None = None
    start: int | PageOf | None = None
    length: int | None = None
    policy: str | int | None = None
    privileged: bool = True
    pid: int | None = None
    cpuset: str | None = None
    caller_cpuset: str | None = None
    maxnode: int | None = None
    fault_at: int | None = None


@dataclass(frozen=True)
class Scenario:
    """A whole file.  `source` is its text, in which later errors find their line."""

    path: str
    kernels: tuple[str, ...]
    machine: MachineSpec
    processes: tuple[ProcessSpec, ...] = ()
    regions: tuple[RegionSpec, ...] = ()
    conditions: tuple[ConditionSpec, ...] = ()
    calls: tuple[CallSpec, ...] = ()
    source: str = field(default="", repr=False, compare=False)

    def process(self, name: str) -> ProcessSpec:
        """The process of that name; KeyError if there is none."""
        return {process.name: process for process in self.processes}[name]

    def region(self, name: str) -> RegionSpec:
        """The region of that name; KeyError if there is none."""
        return {region.name: region for region in self.regions}[name]

    def address(self, page: int | PageOf) -> int:
        """The address of an element of `pages`, or of a `start`."""
        if isinstance(page, int):
            return page
        name, index = page
        return self.region(name).start + index * BASE_PAGE

    def addresses(self, call: CallSpec) -> Sequence[int]:
        """The `pages` array of `call`, as addresses."""
        if isinstance(call.pages, str):
            region = self.region(call.pages)
            return range(region.start, region.start + region.size, BASE_PAGE)
        return tuple(self.address(page) for page in call.pages or ())

    def error(self, where: Where, value: str | None, problem: str) -> ScenarioError:
        """An error found while playing, for `where` such as ("condition", 2, "until").

        Args:
          value: as it is shown; None to leave it out.
          problem: what is wrong and, after a semicolon, what to do.
        """
        return error_in(self.path, self.source, where, value, problem)
