"""Node sets as users write them and as get_nodes() in mm/mempolicy.c reads them."""

from __future__ import annotations

import errno

MAX_NUMNODES = 1024
PAGE_BITS = 4096 * 8
EFAULT, EINVAL = -errno.EFAULT, -errno.EINVAL


def parse(text: object, nodes: int) -> set[int]:
    """libnuma's node strings: "0", "0,2", "1-3", "all", "!0"; or a list."""
    if isinstance(text, int):
        return {text}
    if isinstance(text, list):
        return {int(n) for n in text}
    word = str(text).strip()
    if word.startswith("!"):
        return set(range(nodes)) - parse(word[1:], nodes)
    # Relative to a cpuset of all nodes, so the plus changes nothing.
    word = word.removeprefix("+")
    if word == "all":
        return set(range(nodes))
    found: set[int] = set()
    for part in filter(None, word.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def get_nodes(wanted: set[int], maxnode: int | None, fault: bool) -> int | set[int]:
    """get_nodes(): the mask as the kernel sees it, or -EINVAL or -EFAULT."""
    # maxnode counts one bit more than the mask has; 0 wraps around.
    bits = (MAX_NUMNODES if maxnode is None else maxnode - 1) % (1 << 64)
    if maxnode is None and wanted:
        bits = max(bits, max(wanted) + 1)
    if bits == 0:
        return set()
    if bits > PAGE_BITS:
        return EINVAL
    if fault:
        return EFAULT
    # Bits behind maxnode are not read.
    seen = {n for n in wanted if 0 <= n < bits}
    return EINVAL if any(n >= MAX_NUMNODES for n in seen) else seen


def node_remap(node: int, old: set[int], new: set[int]) -> int:
    """node_remap(): the n-th node of one set to the n-th of the other, modulo."""
    if node not in old or not new:
        return node
    return sorted(new)[sorted(old).index(node) % len(new)]


def plan(old: set[int], new: set[int]):
    """do_migrate_pages(): (source, destination) in the order Linux takes them."""
    left = set(old)
    while left:
        best = None
        for s in sorted(left):
            # With sets of different size a node that stays in use keeps its pages.
            if len(old) != len(new) and s in new:
                continue
            d = node_remap(s, old, new)
            if s == d:
                continue
            best = (s, d)
            # Best: the destination will not be emptied any more.
            if d not in left:
                break
        if best is None:
            return
        left.discard(best[0])
        yield best
