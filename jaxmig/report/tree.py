"""Where the modelled time goes, as a call tree with percentages like perf's.

The functions are those of the release's own code: unmap_and_move() and what it calls in
the serial releases, migrate_pages_batch() in the batched ones.  Siblings stand in the
order in which they run, so that serial and batched trees can be compared.  A name in
brackets is no function but a cost that several share.

Source: mm/migrate.c, mm/rmap.c, Linux 6.2 and 6.3; folios_mc_copy() for copy engines.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from jaxmig.report.units import duration
from jaxmig.time.cost import Cost
from jaxmig.time.machines import Profile
from jaxmig.time.machines.sampling import SAMPLES

_BATCH = "migrate_pages/migrate_pages_batch"
_UNMAP = f"{_BATCH}/migrate_folio_unmap"
_MOVE = f"{_BATCH}/migrate_folio_move"
_BATCHED: Final = {
    "call": "migrate_pages/[the call itself]",
    "alloc": f"{_UNMAP}/alloc_migration_target",
    "lock": f"{_UNMAP}/[lock, isolation, LRU add]",
    "walk": f"{_UNMAP}/try_to_migrate/try_to_migrate_one",
    "clear": f"{_UNMAP}/try_to_migrate/ptep_clear_flush",
    "defer": f"{_UNMAP}/try_to_migrate/set_tlb_ubc_flush_pending",
    "flush": f"{_BATCH}/try_to_unmap_flush",
    "engine": f"{_BATCH}/folios_mc_copy",
    "copy": f"{_MOVE}/move_to_new_folio/folio_copy",
    "switch": f"{_MOVE}/move_to_new_folio/folio_migrate_flags",
    "cached": f"{_MOVE}/move_to_new_folio/[page cache]",
    "drain": f"{_MOVE}/lru_add_drain",
    "remap": f"{_MOVE}/remove_migration_ptes",
}
_ONE = "migrate_pages/unmap_and_move"
_LOCKED = f"{_ONE}/__unmap_and_move"
_SERIAL: Final = {
    "call": "migrate_pages/[the call itself]",
    "alloc": f"{_ONE}/alloc_migration_target",
    "lock": f"{_LOCKED}/[lock, isolation, LRU add]",
    "walk": f"{_LOCKED}/try_to_migrate/try_to_migrate_one",
    "clear": f"{_LOCKED}/try_to_migrate/ptep_clear_flush",
    "defer": f"{_LOCKED}/try_to_migrate/set_tlb_ubc_flush_pending",
    "flush": f"{_ONE}/try_to_unmap_flush",
    "engine": f"{_ONE}/folios_mc_copy",
    "copy": f"{_LOCKED}/move_to_new_folio/migrate_folio/folio_copy",
    "switch": f"{_LOCKED}/move_to_new_folio/migrate_folio/folio_migrate_flags",
    "cached": f"{_LOCKED}/move_to_new_folio/migrate_folio/[page cache]",
    "drain": f"{_LOCKED}/lru_add_drain",
    "remap": f"{_LOCKED}/remove_migration_ptes",
}
_Leaves = list[tuple[list[str], int]]


@dataclasses.dataclass(frozen=True)
class Node:
    """A function and the ns spent in it and in what it calls."""

    name: str
    ns: int
    children: tuple["Node", ...] = ()


def call_tree(cost: Cost) -> Node:
    """The tree of one call, summing to its total, without functions of no time."""
    paths = _BATCHED if cost.policy == "batched" else _SERIAL
    spent = ((paths[place], cost.places.get(place, 0)) for place in paths)
    return _grow([(path.split("/"), ns) for path, ns in spent if ns])


def tree_rows(root: Node) -> Iterator[tuple[int, str, int, float]]:
    """(depth, name, ns, percent of the root) of every node, parents first."""

    def walk(node: Node, depth: int) -> Iterator[tuple[int, str, int, float]]:
        yield depth, node.name, node.ns, 100.0 * node.ns / (root.ns or 1)
        for child in node.children:
            yield from walk(child, depth + 1)

    return walk(root, 0)


def tree_text(root: Node, least: float = 0.0) -> str:
    """The tree as text, with a line for each function: percent, time, name.

    Args:
      least: leave out functions with a smaller share, in percent of the root.
    """
    lines = []
    for depth, name, ns, percent in tree_rows(root):
        if percent >= least or depth == 0:
            indent = "  " * depth
            lines.append(f"{percent:6.2f} % {duration(ns):>9}  {indent}{name}")
    return "\n".join(lines)


def trees_text(calls: Iterable[tuple[Mapping[str, Any], Cost]]) -> str:
    """The trees of records' calls, each under the kernels that have it."""
    alike: dict[tuple[str, Node], list[str]] = {}
    for r, cost in calls:
        alike.setdefault((r["policy"], call_tree(cost)), []).append(r["kernel"])
    return "\n\n".join(
        f"Modelled time of {', '.join(kernels)} ({policy}):\n{tree_text(tree)}"
        for (policy, tree), kernels in alike.items()
    )


def causes_text(cost: Cost, profile: Profile) -> str:
    """The costs that cause most of a total's range, with their own ranges and shares."""
    if not cost.causes:
        return f"No cost of {profile.name} that was used has a range."
    lines = [
        f"Range of {SAMPLES:,} machines drawn from the ranges of {profile.name}'s costs; "
        "most of it comes from:"
    ]
    for key, share in cost.causes:
        n = profile.numbers[key]
        ends = f"{n.low:,} .. {n.high:,} {n.unit}"
        lines.append(f"{100 * share:6.2f} %  {key} = {n.value:,} ({ends}; {n.origin})")
    return "\n".join(lines)


def tree_dict(root: Node) -> Mapping[str, Any]:
    """The tree as plain data for JSON: {"name", "ns", "children"}."""
    children = [tree_dict(child) for child in root.children]
    return {"name": root.name, "ns": root.ns, "children": children}


def _grow(leaves: _Leaves) -> Node:
    """The tree over leaves whose paths begin with the same name."""
    name = leaves[0][0][0] if leaves else "migrate_pages"
    branches: dict[str, _Leaves] = {}
    for path, ns in leaves:
        if len(path) > 1:
            branches.setdefault(path[1], []).append((path[1:], ns))
    children = tuple(_grow(branch) for branch in branches.values())
    return Node(name, sum(ns for _, ns in leaves), children)
