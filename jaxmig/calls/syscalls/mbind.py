"""mbind(2) with MPOL_MF_MOVE: move a range's pages to the nodes of its new policy.

Source: kernel_mbind(), do_mbind(), mpol_new(), queue_pages_range(), new_folio() in
mm/mempolicy.c, Linux 6.3 and 6.18.
"""

import dataclasses
import errno
from typing import Final

import numpy as np
from jaxtyping import Int32

from jaxmig.calls.syscalls.lookup import PAGE_SHIFT
from jaxmig.calls.syscalls.migratepages import usable
from jaxmig.calls.syscalls.nodes import Nodes, get_nodes
from jaxmig.calls.syscalls.scan import (
    MOVE,
    MOVE_ALL,
    STRICT,
    Found,
    QueuePages,
    on_nodes,
    order_of,
    scan,
)
from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Area, Space
from jaxmig.calls.syscalls.spread import migrate_over, nodes_with_room
from jaxmig.state import arguments
from jaxmig.state.machine import PMD_PAGES

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
    session: Session,
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
    """The call on bytes `start` ... `start` + `length` - 1 of a process.

    Args:
      start, length: address and size of the range, bytes.
      policy: a name in POLICIES, or the number that was passed.
      nodes: the policy's nodes, as in the mask that was passed.
      flags: MPOL_MF_* bits.
      home: node of the calling CPU, from which "bind" and "local" look for memory.
      privileged: whether the caller has CAP_SYS_NICE.
      caller_cpuset: nodes that the caller may use; None: all.
      maxnode: as passed, one more than the bits of the mask; None: enough.
      fault_at: not None if the mask cannot be read.
    Raises:
      ValueError: for a policy without such a name, for what is no number or no set of
        nodes, and for what is no part of the machine.
    """
    space.check(session.state)
    nodes = arguments.node_set("nodes", nodes)
    caller_cpuset = arguments.allowed("caller_cpuset", caller_cpuset)
    maxnode = arguments.register("maxnode", maxnode)
    home = arguments.whole("home", home, 0, session.nodes - 1)
    start, length, flags = (
        arguments.whole(name, value, arguments.SIGNED, arguments.WORD)
        for name, value in (("start", start), ("length", length), ("flags", flags))
    )
    if isinstance(policy, str):
        mode = POLICIES.index(arguments.one_of("policy", policy, POLICIES))
    else:
        mode = arguments.whole("policy", policy, arguments.SIGNED, arguments.WORD)
    last = len(POLICIES) if session.release.weighs_interleave else len(POLICIES) - 1
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
    p = Policy(POLICIES[mode], wanted, wanted & usable(session, caller_cpuset), home)
    if not p.valid:
        return -errno.EINVAL
    if p.name == "default":
        flags &= ~STRICT
    first = start >> PAGE_SHIFT
    return _bind(session, space, p, flags, first, first + (length >> PAGE_SHIFT))


@dataclasses.dataclass(frozen=True)
class Policy:
    """struct mempolicy: the nodes that were passed, and those of them that may be used."""

    name: str
    wanted: Nodes
    nodes: Nodes
    home: int

    @property
    def valid(self) -> bool:
        """mpol_new() and mpol_set_nodemask()."""
        if self.name in ("default", "local"):
            return not self.wanted
        # "preferred" without a node means "local".
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
    session: Session, space: Space, policy: Policy, flags: int, first: int, last: int
) -> int:
    """do_mbind() after the checks of its arguments."""
    if policy.name != "default" and not space.covers(first, last):
        return -errno.EFAULT
    if not flags:
        return 0
    queue, numbers = (
        QueuePages(session.view(), session.release, flags),
        [np.zeros(0, np.int64)],
    )
    for a in space.areas:
        low, high = max(first, a.start) - a.start, min(last - a.start, a.pages)
        if low >= high or not (a.migratable or flags & STRICT):
            continue
        found, waiting = scan(session.view(), a, low, high)
        found = found.take(
            ~on_nodes(found, policy.wanted) if policy.wanted else slice(None)
        )
        if flags == STRICT and len(found.head):
            return -errno.EIO
        queue.wait(waiting)
        ends = _queue(queue, a, found)
        # Interleaving counts pages from the file's start, or from address 0 without one.
        offset = a.start if a.anonymous else 0
        numbers += [f.page + offset for f in queue.taken[len(numbers) - 1 :]]
        if ends:
            break
    session.refuse(queue.refused)
    ret = _migrate(session, queue, policy, np.concatenate(numbers))
    return -errno.EIO if flags & STRICT and (ret or queue.failed) else 0


def _queue(queued: QueuePages, area: Area, found: Found) -> bool:
    """Isolate what is misplaced; True if the walk ends here."""
    # Up to 6.6 a strict walk ends with the page-table page of what it cannot move.
    ends = bool(queued.flags & STRICT) and not queued.release.counts_unisolated
    if not area.migratable:
        queued.failed += len(found.head)
        return ends and len(found.head) > 0
    if ends:
        # The second PTE of a large folio finds it isolated, and counts as a failure.
        free = queued.isolates(found.head, area.again) & found.once()
        stuck = queued.wants(found) & ~free
        if stuck.any():
            block = (area.start + found.page) // PMD_PAGES
            queued.add(found.take(block <= block[stuck.argmax()]), area.again)
            queued.failed += 1
            return True
    queued.add(found, area.again)
    return False


def _migrate(
    session: Session, queue: QueuePages, policy: Policy, page_number: np.ndarray
) -> int:
    """Migrate the list to the policy's nodes; the result of migrate_pages()."""
    heads = queue.heads
    if not len(heads):
        return 0
    order = order_of(session.view(), heads)
    node = _spread(session, policy, heads, order, page_number)
    tried = policy.nodes if policy.name == "bind" else range(session.nodes)
    room = sum(session.free(n) for n in tried)
    return migrate_over(session, heads, node, room, reason="mempolicy_mbind")


def _spread(
    session: Session,
    policy: Policy,
    heads: np.ndarray,
    order: np.ndarray,
    page_number: np.ndarray,
) -> Int32[np.ndarray, " folios"]:
    """The node that each folio goes to: the first of its zones with memory left.

    Raises:
      NotModelled: that depends on memory freed while the list is migrated.
    """
    zones = policy.zones(session.nodes)
    home = np.full(len(order), zones[0], np.int32)
    if "interleave" in policy.name:
        members = np.asarray(sorted(policy.nodes), np.int32)
        home = members[(page_number >> order) % len(members)]
    free = [session.free(n) for n in range(session.nodes)]
    need = np.bincount(home, weights=np.exp2(order), minlength=session.nodes)
    if (need <= free).all():
        return home

    def tried(i: int) -> list[int]:
        near = [(int(home[i]) + k) % session.nodes for k in range(session.nodes)]
        return near if "interleave" in policy.name else zones

    return nodes_with_room(session, heads, tried)
