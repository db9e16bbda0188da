"""migrate_pages(2): move all pages of a process from some nodes to others.

Source: kernel_migrate_pages(), do_migrate_pages(), migrate_to_node() in
mm/mempolicy.c, Linux 6.3 and 6.18.
"""

import errno

from jaxmig.calls.syscalls.nodes import Nodes, get_nodes, plan
from jaxmig.calls.syscalls.scan import MOVE, MOVE_ALL, QueuePages
from jaxmig.calls.syscalls.session import Session
from jaxmig.calls.syscalls.space import Space
from jaxmig.state import arguments


def migrate_pages(
    session: Session,
    space: Space,
    old: Nodes,
    new: Nodes,
    *,
    privileged: bool = True,
    pid: int | None = None,
    cpuset: Nodes | None = None,
    caller_cpuset: Nodes | None = None,
    maxnode: int | None = None,
    fault_at: int | None = None,
) -> int:
    """The call on the process of `space`.

    Args:
      old, new: the nodes that are emptied, and those that their pages go to.
      privileged: whether the caller has CAP_SYS_NICE; without it, it is the same user.
      pid: None or 0 for the process itself; any other PID is unknown.
      cpuset, caller_cpuset: nodes that the process and the caller may use; None: all.
      maxnode: as passed, one more than the bits of the masks; None: enough.
      fault_at: 0 if the old mask cannot be read, any other number if the new one.
    Raises:
      ValueError: for what is no number, no set of nodes, or no part of the machine.
    """
    space.check(session.state)
    old, new = arguments.node_set("old", old), arguments.node_set("new", new)
    cpuset = arguments.allowed("cpuset", cpuset)
    caller_cpuset = arguments.allowed("caller_cpuset", caller_cpuset)
    maxnode, pid = (
        arguments.register("maxnode", maxnode),
        arguments.register("pid", pid),
    )
    fault_at = arguments.register("fault_at", fault_at)
    sources = get_nodes(old, maxnode, fault_at == 0)
    if isinstance(sources, int):
        return sources
    targets = get_nodes(new, maxnode, fault_at is not None)
    if isinstance(targets, int):
        return targets
    if pid:
        return -errno.ESRCH
    if not privileged and not targets <= usable(session, cpuset):
        return -errno.EPERM
    targets &= usable(session, caller_cpuset)
    if not targets:
        return -errno.EINVAL
    flags = MOVE_ALL if privileged else MOVE
    busy = 0
    for source, target in plan(sources, targets):
        ret = migrate_to_node(session, space, source, target, flags)
        if ret < 0:
            return ret
        busy += ret
    return busy


def usable(session: Session, cpuset: Nodes | None) -> Nodes:
    """cpuset_mems_allowed(): the nodes with memory, those of the cpuset if there is one."""
    return session.memory if cpuset is None else session.memory & cpuset


def migrate_to_node(
    session: Session, space: Space, source: int, target: int, flags: int
) -> int:
    """Migrate one list of all folios of the process on one node to another node.

    Args:
      source, target: the two nodes.
      flags: MPOL_MF_* bits.
    Returns:
      Folios not moved, or -ENOMEM.
    """
    queue = QueuePages(session.view(), session.release, flags)
    for a in space.areas:
        if a.migratable:
            queue.add_area(a, 0, a.pages, frozenset({source}))
    session.refuse(queue.refused)
    session.shared_stay += queue.shared
    ret = session.migrate(queue.heads, target)
    # Before 6.7 a folio that could not be isolated was no failure.
    counted = queue.failed if session.release.counts_unisolated else 0
    return ret + counted if ret >= 0 else ret
