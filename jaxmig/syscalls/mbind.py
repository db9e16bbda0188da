"""mbind(2) with MPOL_MF_MOVE: bring a range's pages where its new policy wants them.

Source: kernel_mbind(), do_mbind(), mpol_new(), queue_pages_range(), new_folio() in
mm/mempolicy.c, Linux 6.3 and 6.18.
"""

import dataclasses
import errno
from typing import Final

import numpy as np
from jaxtyping import Int32

from jaxmig import arguments
from jaxmig.machine import PMD_PAGES
from jaxmig.syscalls.lookup import PAGE_SHIFT
from jaxmig.syscalls.migratepages import usable
from jaxmig.syscalls.nodes import Nodes, get_nodes
from jaxmig.syscalls.scan import (
    MOVE,
    MOVE_ALL,
    STRICT,
    Found,
    Queue,
    on_nodes,
    order_of,
    scan,
)
from jaxmig.syscalls.session import Session
from jaxmig.syscalls.space import Area, Space
from jaxmig.syscalls.spread import migrate_over, nodes_with_room

# By number: MPOL_DEFAULT is 0.
POLICIES: Final = (
    "default",
    "preferred",
    "bind",
    "interleave",
    "local",
    "preferred_many",
    "weighted_interleave",
)
SIZE: Final = 1 << 64  # of an address space, in bytes


def mbind(
    s: Session,
    space: Space,
    start: int,
    length: int,
    policy: str | int,
    nodes: Nodes,
    flags: int = 0,
    *,
    home: int = 0,
    privileged: bool = True,
    caller_cpuset: Nodes | None = None,
    maxnode: int | None = None,
    fault_at: int | None = None,
) -> int:
    """The call on bytes `start` ... `start` + `length` - 1: 0 or a negative errno.

    Args:
      home: node of the calling CPU, from which "bind" and "local" look for memory.
      fault_at: not None if the mask cannot be read.
    Raises:
      ValueError: for a policy without such a name, for what is no number or no set of
        nodes, and for what is no part of the machine.
    """
    space.check(s.state)
    nodes = arguments.node_set("nodes", nodes)
    caller_cpuset = arguments.allowed("caller_cpuset", caller_cpuset)
    maxnode = arguments.register("maxnode", maxnode)
    home = arguments.whole("home", home, 0, s.nodes - 1)
    start, length, flags = (
        arguments.whole(name, value, arguments.SIGNED, arguments.WORD)
        for name, value in (("start", start), ("length", length), ("flags", flags))
    )
    if isinstance(policy, str):
        mode = POLICIES.index(arguments.one_of("policy", policy, POLICIES))
    else:
        mode = arguments.whole("policy", policy, arguments.SIGNED, arguments.WORD)
    last = len(POLICIES) if s.release.weighs_interleave else len(POLICIES) - 1
    if not 0 <= mode < last:
        return -errno.EINVAL
    wanted = get_nodes(nodes, maxnode, fault_at is not None)
    if isinstance(wanted, int):
        return wanted
    if flags & ~(STRICT | MOVE | MOVE_ALL):
        return -errno.EINVAL
    if flags & MOVE_ALL and not privileged:
        return -errno.EPERM
    start, length = start % SIZE, -(-(length % SIZE) // 4096) * 4096 % SIZE
    if start % 4096 or start + length >= SIZE:
        return -errno.EINVAL
    if length == 0:
        return 0
    p = Policy(POLICIES[mode], wanted, wanted & usable(s, caller_cpuset), home)
    if not p.valid:
        return -errno.EINVAL
    if p.name == "default":
        flags &= ~STRICT
    first = start >> PAGE_SHIFT
    return _bind(s, space, p, flags, first, first + (length >> PAGE_SHIFT))


@dataclasses.dataclass(frozen=True)
class Policy:
    """struct mempolicy: what was asked and what the caller may use of it."""

    name: str
    wanted: Nodes
    nodes: Nodes
    home: int

    @property
    def valid(self) -> bool:
        """mpol_new() and mpol_set_nodemask()."""
        if self.name in ("default", "local"):
            return not self.wanted
        # Preferring nothing is another way to say "local".
        return bool(self.nodes) or (self.name == "preferred" and not self.wanted)

    def zones(self, nodes: int) -> list[int]:
        """Nodes in the order in which an allocation tries them."""
        near = [(self.home + i) % nodes for i in range(nodes)]
        mine = [n for n in near if n in self.nodes]
        match self.name:
            case "bind":
                return mine
            case "preferred_many":
                return mine + [n for n in near if n not in self.nodes]
            case "preferred" if self.nodes:
                return [(min(self.nodes) + i) % nodes for i in range(nodes)]
        return near


def _bind(
    s: Session, space: Space, p: Policy, flags: int, first: int, last: int
) -> int:
    """do_mbind() behind the checks of its arguments."""
    if p.name != "default" and not space.covers(first, last):
        return -errno.EFAULT
    if not flags:
        return 0
    queue, numbers = Queue(s.view(), s.release, flags), [np.zeros(0, np.int64)]
    for a in space.areas:
        low, high = max(first, a.start) - a.start, min(last - a.start, a.pages)
        if low >= high or not (a.migratable or flags & STRICT):
            continue
        found, waiting = scan(s.view(), a, low, high)
        found = found.take(~on_nodes(found, p.wanted) if p.wanted else slice(None))
        if flags == STRICT and len(found.head):
            return -errno.EIO
        queue.wait(waiting)
        ends = _queue(queue, a, found)
        # Interleaving counts from the object's start; anonymous memory is its own.
        offset = a.start if a.anonymous else 0
        numbers += [f.page + offset for f in queue.taken[len(numbers) - 1 :]]
        if ends:
            break
    s.refuse(queue.refused)
    ret = _migrate(s, queue, p, np.concatenate(numbers))
    return -errno.EIO if flags & STRICT and (ret or queue.failed) else 0


def _queue(queue: Queue, a: Area, found: Found) -> bool:
    """Isolate what is misplaced; True if the walk ends here."""
    # Up to 6.6 a strict walk ends with the page-table page of what it cannot move.
    ends = bool(queue.flags & STRICT) and not queue.release.counts_unisolated
    if not a.migratable:
        queue.failed += len(found.head)
        return ends and len(found.head) > 0
    if ends:
        # The second PTE of a large folio finds it isolated, and counts as stuck.
        free = queue.isolates(found.head, a.again) & found.once()
        stuck = queue.wants(found) & ~free
        if stuck.any():
            block = (a.start + found.page) // PMD_PAGES
            queue.add(found.take(block <= block[stuck.argmax()]), a.again)
            queue.failed += 1
            return True
    queue.add(found, a.again)
    return False


def _migrate(s: Session, queue: Queue, p: Policy, number: np.ndarray) -> int:
    """The list to the nodes that the policy names; the result of migrate_pages()."""
    heads = queue.heads
    if not len(heads):
        return 0
    order = order_of(s.view(), heads)
    node = _spread(s, p, heads, order, number)
    tried = p.nodes if p.name == "bind" else range(s.nodes)
    room = sum(s.free(n) for n in tried)
    return migrate_over(s, heads, node, room, reason="mempolicy_mbind")


def _spread(
    s: Session, p: Policy, heads: np.ndarray, order: np.ndarray, number: np.ndarray
) -> Int32[np.ndarray, " folios"]:
    """The node each folio goes to: the first in its order with memory left.

    Raises NotModelled where that would change while the list is worked on.
    """
    zones = p.zones(s.nodes)
    home = np.full(len(order), zones[0], np.int32)
    if "interleave" in p.name:
        members = np.asarray(sorted(p.nodes), np.int32)
        home = members[(number >> order) % len(members)]
    free = [s.free(n) for n in range(s.nodes)]
    need = np.bincount(home, weights=np.exp2(order), minlength=s.nodes)
    if (need <= free).all():
        return home

    def tried(i: int) -> list[int]:
        near = [(int(home[i]) + k) % s.nodes for k in range(s.nodes)]
        return near if "interleave" in p.name else zones

    return nodes_with_room(s, heads, tried, "mbind()")
