"""migrate_pages(2) and mbind(2): tests in Linux's order, then the work."""

from __future__ import annotations

import errno

from .folio import Folio, Region
from .isolate import MOVE, MOVE_ALL, STRICT, Scan, putback, queue_pages_range, run
from .kernel import EIO, Kernel, Request
from .nodes import EFAULT, EINVAL, get_nodes, parse, plan
from .scenario import size
from .world import Process

EPERM, ESRCH = -errno.EPERM, -errno.ESRCH
FLAGS = {"strict": STRICT, "move": MOVE, "move_all": MOVE_ALL, "lazy": 8, "": 0}


def flag_bits(flags: object) -> int:
    """Flags as a number, a word, words joined by "|" or a list of words."""
    if isinstance(flags, int):
        return flags
    words = flags if isinstance(flags, list) else str(flags).split("|")
    return sum({FLAGS[str(w).strip().lower().removeprefix("mpol_mf_")] for w in words})


def allowed(k: Kernel, call: dict, key: str) -> set[int]:
    """cpuset_mems_allowed() of the target ("cpuset") or of the caller."""
    nodes = k.world.memory
    return parse(call[key], len(k.world.free)) & nodes if key in call else nodes


def find_task(call: dict) -> int:
    """find_task_by_vpid(): only the call's own process has a pid here.

    Reading: 0 means that process itself; any other number names nobody.
    """
    return 0 if call.get("pid", 0) == 0 else ESRCH


def migrate_pages(k: Kernel, call: dict, process: Process) -> int:
    """kernel_migrate_pages() in mm/mempolicy.c."""
    count, maxnode, fault = len(k.world.free), call.get("maxnode"), call.get("fault_at")
    old = get_nodes(parse(call.get("from", "0"), count), maxnode, fault == 0)
    if isinstance(old, int):
        return old
    new = get_nodes(parse(call.get("to", "1"), count), maxnode, fault is not None)
    if isinstance(new, int):
        return new
    if find_task(call):
        return ESRCH
    privileged = call.get("privileged", True)
    # First the target's cpuset, unless privileged, then the caller's.
    if not new <= allowed(k, call, "cpuset") and not privileged:
        return EPERM
    new = new & allowed(k, call, "caller_cpuset")
    if not new:
        return EINVAL
    # Each source node is emptied in turn; one error ends it all.
    busy = 0
    for source, target in plan(old, new):
        rc = _migrate_to_node(k, process, source, target, privileged)
        if rc < 0:
            return rc
        busy += rc
    return busy


def _migrate_to_node(
    k: Kernel, process: Process, source: int, target: int, privileged: bool
) -> int:
    """migrate_to_node(): one list of everything on one node."""
    scan = Scan(k, MOVE_ALL if privileged else MOVE, {source})
    queue_pages_range(scan, process, 0, 1 << 62)
    rc = run(k, Request(lambda src: target), scan.folios) if scan.folios else 0
    if rc >= 0 and k.release.has("count_unisolated"):
        # Up to 6.6 nobody hears of folios that could not be isolated.
        rc += scan.failed
    return rc


# mbind(2) ---------------------------------------------------------------------

POLICIES = ("default", "preferred", "bind", "interleave", "local", "preferred_many")


def mbind(k: Kernel, call: dict, process: Process) -> int:
    """kernel_mbind() and do_mbind() in mm/mempolicy.c."""
    count = len(k.world.free)
    policy = call.get("policy", "bind")
    if isinstance(policy, int) and 0 <= policy < len(POLICIES):
        policy = POLICIES[policy]
    if policy not in POLICIES:
        return EINVAL
    given = call.get("nodes", call.get("to", ""))
    fault = call.get("fault_at") is not None
    nodes = get_nodes(parse(given, count), call.get("maxnode"), fault)
    if isinstance(nodes, int):
        return nodes
    flags = flag_bits(call.get("flags", 0))
    if flags & ~(STRICT | MOVE | MOVE_ALL):
        return EINVAL
    if flags & MOVE_ALL and not call.get("privileged", True):
        return EPERM
    start, length = _range(k, call)
    if start % 4096 or (start + length) % (1 << 64) < start:
        return EINVAL
    # An empty range is fine before the policy has been looked at.
    if length == 0:
        return 0
    usable = nodes & allowed(k, call, "caller_cpuset")
    if _bad_policy(policy, nodes, usable):
        return EINVAL
    # The default policy has no wrong node.
    flags &= ~STRICT if policy == "default" else ~0
    return _bind(k, process, call, policy, (nodes, usable), flags, (start, length))


def _nodeless(policy: str) -> bool:
    """Policies that take no nodes."""
    return policy in ("default", "local")


def _bad_policy(policy: str, nodes: set[int], usable: set[int]) -> bool:
    """mpol_new() and mpol_set_nodemask()."""
    if _nodeless(policy):
        return bool(nodes)
    if policy == "preferred" and not nodes:
        return False  # becomes "local"
    return not usable


def _range(k: Kernel, call: dict) -> tuple[int, int]:
    """Start and length in bytes: of a region, or as given."""
    name = call.get("region", call.get("pages"))
    region = k.world.regions.get(name) if isinstance(name, str) else None
    start = call.get("start", region.start * 4096 if region else 0)
    if isinstance(start, list):
        start = (k.world.regions[start[0]].start + start[1]) * 4096
    length = size(call.get("len", region.pages * 4096 if region else 0))
    return start, -(-length // 4096) * 4096 % (1 << 64)


def _bind(
    k: Kernel,
    process: Process,
    call: dict,
    policy: str,
    masks: tuple[set[int], set[int]],
    flags: int,
    span: tuple[int, int],
) -> int:
    """do_mbind() behind its argument checks."""
    first, last = span[0] // 4096, (span[0] + span[1]) // 4096
    if policy != "default" and _hole(process, first, last):
        return EFAULT
    if not flags & (STRICT | MOVE | MOVE_ALL):
        return 0
    scan = Scan(k, flags, masks[0], invert=True)
    # Nothing has been migrated yet, so what was queued just goes back.
    if queue_pages_range(scan, process, first, last):
        putback(scan.folios)
        return EIO
    rc = 0
    if scan.folios:
        target = _targets(k, policy, masks[1])
        rc = run(k, Request(target, reason="mempolicy_mbind"), scan.folios)
    return EIO if (rc or scan.failed) and flags & STRICT else 0


def _hole(process: Process, first: int, last: int) -> bool:
    """Whether some page of the range belongs to no region."""
    at = first
    while at < last:
        region = process.region_of(at)
        if region is None:
            return True
        # Regions may touch each other: that leaves no hole.
        at = region.start + region.pages
    return False


def _targets(k: Kernel, policy: str, nodes: set[int]):
    """Nodes to try for a folio, by policy.

    Reading: zones are tried from the caller's node upwards, then from node 0;
    "bind" stays inside its set, the others fall back to any node.
    """
    count = len(k.world.free)

    def zonelist(home: int) -> list[int]:
        """Nodes in the order of fallback."""
        return [(home + i) % count for i in range(count)]

    def choose(src: Folio) -> list[int]:
        """The policy's nodes for one folio."""
        if policy == "bind":
            return [n for n in zonelist(k.cpu.node) if n in nodes]
        if policy == "preferred_many":
            near = [n for n in zonelist(k.cpu.node) if n in nodes]
            return near + zonelist(k.cpu.node)
        if policy == "interleave":
            return zonelist(sorted(nodes)[_interleave(src) % len(nodes)])
        if policy == "preferred" and nodes:
            return zonelist(min(nodes))
        return zonelist(k.cpu.node)

    return choose


def _interleave(src: Folio) -> int:
    """interleave_nid(): the folio's number in its object, or in the address space."""
    if not src.maps:
        return 0
    entry = src.maps[0]
    region: Region = entry.region
    page = entry.vpn - (0 if region.anonymous else region.start)
    return page >> src.order
