"""The modelled time as stacks, for flamegraph.pl and similar tools, and for speedscope.

    6.2 serial;migrate_pages;unmap_and_move;... 12345

Both are the call tree that `report.tree` draws; the weights are nanoseconds.

Source: stackcollapse-perf.pl of FlameGraph; file-format-schema.json of speedscope.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from jaxmig.report.records import Record
from jaxmig.report.tree import Node, call_tree
from jaxmig.time.cost import Cost

SCHEMA = "https://www.speedscope.app/file-format-schema.json"
Priced = tuple[Record, Cost]


def folded(priced: Iterable[Priced]) -> str:
    """A line for each stack; calls of one kernel are added up."""
    total: dict[str, int] = {}
    for record, cost in priced:
        for stack, ns in stacks(call_tree(cost)):
            key = ";".join((_title(record), *stack))
            total[key] = total.get(key, 0) + ns
    return "".join(f"{stack} {ns}\n" for stack, ns in total.items())


def speedscope(priced: Iterable[Priced], version: str) -> dict[str, Any]:
    """A document of speedscope's own format, with a profile for each call."""
    frames: dict[str, int] = {}
    profiles = []
    for i, (record, cost) in enumerate(priced, 1):
        samples, weights = [], []
        for stack, ns in stacks(call_tree(cost)):
            samples.append([frames.setdefault(f, len(frames)) for f in stack])
            weights.append(ns)
        profile = {
            "type": "sampled",
            "name": f"{_title(record)}, call {i}: {record['syscall']}",
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": sum(weights),
            "samples": samples,
            "weights": weights,
        }
        profiles.append(profile)
    return {
        "$schema": SCHEMA,
        "exporter": f"jaxmig {version}",
        "shared": {"frames": [{"name": name} for name in frames]},
        "profiles": profiles,
    }


def stacks(root: Node) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each function's own time, ns, with the functions that it was called from."""

    def walk(
        node: Node, above: tuple[str, ...]
    ) -> Iterator[tuple[tuple[str, ...], int]]:
        here = (*above, node.name)
        own = node.ns - sum(child.ns for child in node.children)
        if own > 0:
            yield here, own
        for child in node.children:
            yield from walk(child, here)

    return walk(root, ())


def _title(record: Record) -> str:
    return f"{record['kernel']} {record['policy']}"
