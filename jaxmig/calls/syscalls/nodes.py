"""Sets of nodes: as users write them, as the kernel copies them in, and in what order
do_migrate_pages() empties them.

Source: numa_parse_nodestring() of libnuma; get_nodes(), do_migrate_pages() in
mm/mempolicy.c; node_remap() in include/linux/nodemask.h, Linux 6.3.
"""

import errno
from collections.abc import Iterator
from typing import Final

MAX_NUMNODES: Final = 1024
MASK_BITS: Final = 4096 * 8  # the longest mask a user may pass: one page of bits

Nodes = frozenset[int]


def parse_nodes(text: str | int | None, nodes: int) -> Nodes:
    """The set that a node string names on a machine of `nodes` nodes.

    Nodes that the machine lacks stay in the set: the call itself refuses or ignores them.
    `!` and `all` refer to the machine's own nodes.
    """
    everything = frozenset(range(nodes))
    if text is None:
        return everything
    if isinstance(text, int):
        return frozenset({text})
    word = text.strip()
    inverse = word.startswith("!")
    word = word.removeprefix("!").removeprefix("+")
    found: set[int] = set()
    for part in filter(None, word.split(",")):
        first, _, last = part.partition("-")
        found |= everything if part == "all" else set(_span(first, last or first))
    return everything - found if inverse else frozenset(found)


def _span(first: str, last: str) -> range:
    # One node beyond the largest that Linux knows stands for all of them.
    return range(int(first), min(int(last), MAX_NUMNODES) + 1)


def get_nodes(wanted: Nodes, maxnode: int | None, fault: bool) -> Nodes | int:
    """The mask as get_nodes() reads it, or a negative errno.

    Args:
      maxnode: as passed to the call, one more than the bits of the mask; None: enough.
      fault: whether the mask cannot be read.
    """
    if maxnode is None:
        bits = max(MAX_NUMNODES, *(n + 1 for n in wanted), 1)
    else:
        # An unsigned long: 0 - 1 is its largest value.
        bits = (maxnode - 1) % (1 << 64)
    if bits == 0:
        return frozenset()
    if bits > MASK_BITS:
        return -errno.EINVAL
    if fault:
        return -errno.EFAULT
    seen = frozenset(n for n in wanted if n < bits)
    return -errno.EINVAL if any(n >= MAX_NUMNODES for n in seen) else seen


def node_remap(node: int, old: Nodes, new: Nodes) -> int:
    """The node of `new` at the position that `node` has in `old`, modulo its length."""
    if node not in old or not new:
        return node
    return sorted(new)[sorted(old).index(node) % len(new)]


def plan(old: Nodes, new: Nodes) -> Iterator[tuple[int, int]]:
    """(source, destination), one pair at a time, as do_migrate_pages() picks them.

    It prefers a destination that is not still to be emptied, so that pages are not moved
    twice; if there is none, it takes the last candidate of the scan.
    """
    left = set(old)
    while left:
        pair = _next_pair(left, old, new)
        if pair is None:
            return
        left.discard(pair[0])
        yield pair


def _next_pair(left: set[int], old: Nodes, new: Nodes) -> tuple[int, int] | None:
    pair = None
    for source in sorted(left):
        # Between sets of different sizes only nodes outside the new set are emptied.
        if len(old) != len(new) and source in new:
            continue
        target = node_remap(source, old, new)
        if source == target:
            continue
        pair = source, target
        if target not in left:
            break
    return pair
