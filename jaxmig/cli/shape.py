"""The machine that options, profile and target together ask for."""

import argparse
import dataclasses

from jaxmig.cli import traces
from jaxmig.cli.errors import Failure, Usage
from jaxmig.cli.room import check_room
from jaxmig.host import nodes
from jaxmig.sources.targets import Setting, Target
from jaxmig.time.machines import Profile


@dataclasses.dataclass(frozen=True)
class NodeShape:
    """The hardware, and the nodes that FROM and TO are on it."""

    setting: Setting
    old: frozenset[int]
    new: frozenset[int]


def of(args: argparse.Namespace, profile: Profile, target: Target) -> NodeShape:
    """The hardware for a target.

    Raises:
      Usage: options that do not fit together.
      Failure: a machine that does not fit into memory.
    """
    n = args.nodes or max(2, target.nodes)
    if target.nodes > n:
        raise Failure(
            f"{target.name} has pages on node {target.nodes - 1}; "
            f"give --nodes {target.nodes} or more"
        )
    cpus = args.cpus or profile.cpus
    running, lazy = _cpus(args, cpus, target)
    old = nodes_of("FROM", args.from_, n, "--nodes ")
    new = nodes_of("TO", args.to, n, "--nodes ")
    setting = Setting(
        nodes=n,
        cpus=cpus,
        running=running,
        lazy=lazy,
        tlb=profile.tlb,
        huge_tlb=profile.tlb_huge,
        content=args.content is not False,
        seed=args.seed or 0,
        node=min(old),
    )
    free = _free(args, n, target, setting.node)
    # A call that keeps a log leaves the machine before it alone.
    machines = 2 if traces.step_by_step(args, target.pages, cpus) else 1
    check_room(target.name, target.pages, n, setting.content, machines, target.foreign)
    return NodeShape(dataclasses.replace(setting, free=free), old, new)


def nodes_of(name: str, text: str, n: int, more: str = "") -> frozenset[int]:
    """The nodes of one argument.

    Args:
      name: of the argument.
      text: what was given for it.
      n: how many nodes the machine has.
      more: the option that gives it more, and a space; "" if the command has none.
    Raises:
      Usage: an empty set, or a node that the machine lacks.
    """
    try:
        found = nodes.parse(text, n, more)
    except nodes.NodeError as error:
        raise Usage(f"{name}: {error}") from None
    if not found:
        raise Usage(f"{name}: {text!r} names none of the nodes 0-{n - 1}; name one")
    return frozenset(found)


def _cpus(
    args: argparse.Namespace, count: int, target: Target
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    lazy = args.lazy or ()
    for name, given in (("running", args.running), ("lazy", lazy)):
        bad = [c for c in given or () if c >= count]
        if bad:
            raise Usage(f"--{name}: CPU {bad[0]}: the machine has CPUs 0-{count - 1}")
    if args.running is None:
        folded = nodes.fold(target.running, count)
        return tuple(c for c in folded if c not in lazy), lazy
    both = sorted(set(args.running) & set(lazy))
    if both:
        raise Usage(f"--lazy: CPU {both[0]} runs the target already; it cannot be lazy")
    return args.running, lazy


def _free(
    args: argparse.Namespace, n: int, target: Target, node: int
) -> tuple[int | None, ...]:
    """Base pages free by node; None for as many as the target needs."""
    free: list[int | None] = [None] * n
    if args.node_size is not None:
        used = target.by_node or {node: target.pages}
        for i in range(n):
            left = args.node_size - used.get(i, 0)
            free[i] = left
            if left < 0:
                raise Failure(
                    f"--node-size: {target.name} has {used[i]:,} pages on node {i}, "
                    f"which holds {args.node_size:,}; give a larger size"
                )
    for i, pages in (args.free or {}).items():
        if i >= n:
            raise Usage(f"--free: node {i}: the machine has nodes 0-{n - 1}")
        free[i] = pages
    return tuple(free)
