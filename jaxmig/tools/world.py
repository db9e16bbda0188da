"""The machine of a scenario: its nodes, CPUs, processes and pages, laid out.

build(scenario) --> (Machine, Layout)
"""

import dataclasses
from typing import Final

import numpy as np

from jaxmig.calls.syscalls import Area, Space, parse_nodes
from jaxmig.sources.builder import Builder, Process, Region
from jaxmig.sources.scenario import RegionSpec, Scenario
from jaxmig.state.machine import Machine

PAGE_SHIFT: Final = 12
ANONYMOUS: Final = ("anon", "cow", "ksm", "swapcache")
FRAMELESS: Final = ("untouched", "zero_page")


@dataclasses.dataclass(frozen=True)
class Layout:
    """The address spaces and nodes of the machine that `build` made."""

    spaces: dict[str, Space]  # by name of the process
    memory: frozenset[int]  # nodes that have memory


def build(
    scenario: Scenario,
    *,
    content: bool = False,
    seed: int | None = None,
    share_programs: bool = False,
) -> tuple[Machine, Layout]:
    """The machine before the first call.

    Args:
      content: whether frames hold their 4 KiB.
      seed: of a random order of the frames on their nodes; None for ascending order.
      share_programs: as for `Builder.build`.
    Returns:
      The machine, and the processes' address spaces in it.
    Raises:
      ScenarioError: for more references to a folio than the model counts.
    """
    spec = scenario.machine
    # The smallest TLBs, since a call's counts do not depend on their contents.
    b = Builder(
        spec.nodes, spec.cpus, free=_free(scenario), tlb=(1, 1), huge_tlb=(1, 1)
    )
    owners = {p.name: b.process(p.name, p.running, p.lazy) for p in scenario.processes}
    regions = [_map(b, r, owners) for r in scenario.regions]
    for i, c in enumerate(scenario.conditions):
        r = scenario.region(c.region)
        until = c.until if isinstance(c.until, str) else c.until[1]
        region = regions[scenario.regions.index(r)]
        try:
            b.condition(region, c.state, c.indices(r.n_pages), until)
        except ValueError as error:
            where = ("condition", i, "pages")
            raise scenario.error(where, None, f"{error}; name fewer") from None
    if not share_programs:
        _fill_processes(b)
    large = [r for r in scenario.regions if r.folio_order]
    b.splits = any(r.kind != "hugetlb" for r in large)
    m = b.build(
        content=content,
        seed=seed,
        headroom=_stays(scenario),
        share_programs=share_programs,
    )
    spaces = {
        name: Space(
            [
                area
                for spec_, r in zip(scenario.regions, regions, strict=True)
                if name in spec_.processes
                for area in _areas(m, spec_, r, p)
            ]
        )
        for name, p in owners.items()
    }
    return m, Layout(
        spaces, frozenset(n for n, size in enumerate(spec.node_size) if size)
    )


def _map(builder: Builder, spec: RegionSpec, owners: dict[str, Process]) -> Region:
    return builder.mmap(
        [owners[name] for name in spec.processes],
        spec.n_pages,
        spec.node,
        order=spec.folio_order,
        kind=spec.kind,
        name=spec.name,
        writable=spec.writable,
        mlocked=spec.mlocked,
        migratable=spec.migratable,
        private=spec.private,
        prot_none=spec.prot_none,
        mapped_twice=spec.mapped_twice,
        shared=spec.shared,
        migrate_folio=spec.migrate_folio,
    )


def _free(scenario: Scenario) -> list[int]:
    """Base pages free on each node: as in the file, or those that regions leave."""
    spec = scenario.machine
    used = np.zeros(spec.nodes, np.int64)
    for r in scenario.regions:
        bare: list[np.ndarray] = [np.zeros(0, np.int64)]
        for c in scenario.conditions:
            if c.region == r.name and c.state in FRAMELESS:
                bare.append(np.asarray(c.indices(r.n_pages)) >> r.folio_order)
        absent = np.unique(np.concatenate(bare)).size
        # The hugetlb pool is no free memory.
        if r.kind != "hugetlb":
            used[r.node] += (r.n_folios - absent) << r.folio_order
    size = np.asarray(spec.node_size, np.int64) >> PAGE_SHIFT
    free = np.minimum(size - used, np.iinfo(np.int32).max)
    for node, left in spec.free:
        free[node] = left >> PAGE_SHIFT
    return [int(n) for n in free]


def _fill_processes(builder: Builder) -> None:
    """Pad the processes to the next power of two, as their number is an array's size.

    Those added run nowhere, map nothing and have no Space.
    """
    while builder.processes and len(builder.processes) & (len(builder.processes) - 1):
        builder.process("(padding)")


def _stays(scenario: Scenario) -> bool:
    """Whether some call may move folios to the node that they are on."""
    nodes = scenario.machine.nodes
    for c in scenario.calls:
        if c.syscall == "mbind":
            return True
        if c.caller == "demotion" and _may_fill(scenario, c.to):
            return True
        if c.syscall == "kernel":
            old, new = parse_nodes(c.from_, nodes), parse_nodes(c.to, nodes)
            if old & new:
                return True
    return False


def _may_fill(scenario: Scenario, to: str | None) -> bool:
    """Whether a node may run full, so that folios go to another node or stay."""
    node = min(parse_nodes(to, scenario.machine.nodes), default=0)
    return _free(scenario)[node] < sum(r.n_pages for r in scenario.regions)


def _areas(
    m: Machine, spec: RegionSpec, region: Region, process: Process
) -> list[Area]:
    """A process's mapping of a region, or both of them."""
    placed = [(region.first_pte, region.first_pmd)]
    if region.mapped_twice:
        placed.append((region.again_pte, region.again_pmd))
    areas = []
    for i, (ptes, pmds) in enumerate(placed):
        pmd = pmds.get(process.number)
        areas.append(
            Area(
                start=(region.start >> PAGE_SHIFT) + i * region.pages,
                pages=region.pages,
                first_pte=ptes[process.number],
                first_pmd=-1 if pmd is None else m.geometry.ptes + pmd,
                migratable=region.migratable,
                anonymous=spec.kind in ANONYMOUS,
                hugetlb=spec.kind == "hugetlb",
                writable=spec.writable,
                accessible=not spec.prot_none,
                executable=spec.exec,
                shared=spec.kind not in ANONYMOUS and spec.shared,
                file=spec.kind not in ANONYMOUS,
                again=i > 0,
            )
        )
    return areas
