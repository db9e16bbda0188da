"""move_pages(2): kernel_move_pages() and do_pages_move() in mm/migrate.c."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from .folio import Entry, Folio
from .isolate import MOVE, MOVE_ALL, isolate, run
from .kernel import EBUSY, Kernel, Request, mapped_shared
from .nodes import EFAULT, EINVAL, MAX_NUMNODES
from .syscalls import EPERM, allowed, find_task, flag_bits
from .world import Process

EACCES, ENOENT, ENODEV = -errno.EACCES, -errno.ENOENT, -errno.ENODEV
STAT_CHUNK = 16


def move_pages(k: Kernel, call: dict, process: Process) -> tuple[int, list[int | None]]:
    """kernel_move_pages(): the result and the status array (None: not written)."""
    # Reading: without flags MPOL_MF_MOVE is meant.
    pages = addresses(k, call.get("pages", []))
    status: list[int | None] = [None] * len(pages)
    flags = flag_bits(call.get("flags", "move"))
    # MPOL_MF_STRICT is refused here, unlike in mbind().
    if flags & ~(MOVE | MOVE_ALL):
        return EINVAL, status
    if flags & MOVE_ALL and not call.get("privileged", True):
        return EPERM, status
    if rc := find_task(call):
        return rc, status
    nodes = call.get("nodes", call.get("to"))
    if nodes is None:
        return _query(k, call, process, pages, status), status
    nodes = nodes if isinstance(nodes, list) else [int(nodes)] * len(pages)
    move = Move(k, call, process, bool(flags & MOVE_ALL), status)
    return _move(move, pages, nodes), status


def addresses(k: Kernel, pages: object) -> list[int]:
    """A region's name, or a list of addresses and [region, index] pairs."""
    if isinstance(pages, str):
        region = k.world.regions[pages]
        return [(region.start + i) * 4096 for i in range(region.pages)]
    if isinstance(pages, int):
        return [pages]
    found = []
    for item in pages:  # type: ignore[attr-defined]
        if isinstance(item, str):
            found += addresses(k, item)
        elif isinstance(item, int):
            found.append(item)
        else:
            found.append((k.world.regions[item[0]].start + item[1]) * 4096)
    return found


def _query(
    k: Kernel, call: dict, process: Process, pages: list[int], status: list[int | None]
) -> int:
    """do_pages_stat(): nodes only, sixteen pages at a time."""
    for start in range(0, len(pages), STAT_CHUNK):
        chunk = range(start, min(start + STAT_CHUNK, len(pages)))
        if call.get("fault_at", -1) in chunk:
            return EFAULT
        for i in chunk:
            found = lookup(k, process, pages[i] // 4096)
            status[i] = found if isinstance(found, int) else node_of(found)
    return 0


def node_of(entry: Entry) -> int:
    """page_to_nid() of a mapped page."""
    assert entry.folio is not None
    return entry.folio.node


def lookup(k: Kernel, process: Process, vpn: int) -> int | Entry:
    """follow_page(FOLL_DUMP), from 6.12 folio_walk_start(): the entry or an errno."""
    region = process.region_of(vpn)
    if region is None:
        return EFAULT
    entry = process.lookup(vpn)
    walk = k.release.has("folio_walk")
    # An empty anonymous area has nothing to dump; other areas may still fault in.
    nothing = EFAULT if region.anonymous and not walk else ENOENT
    if entry is None:
        return nothing
    if entry.folio is None:
        return EFAULT  # the zero page
    if entry.state != "present":
        return ENOENT
    hidden = not entry.accessible and entry.level != "huge"
    if hidden and not k.release.has("follow_protnone"):
        return nothing if entry.level == "pmd" else ENOENT
    return entry


@dataclass
class Move:
    """The local variables of do_pages_move()."""

    k: Kernel
    call: dict
    process: Process
    move_all: bool
    status: list[int | None]
    folios: list[Folio] = field(default_factory=list)
    node: int | None = None
    start: int = 0


def _move(m: Move, pages: list[int], nodes: list[int]) -> int:
    """do_pages_move(): the list is sent whenever the node or the luck changes."""
    mems = allowed(m.k, m.call, "cpuset")
    rc = 0
    at = len(pages)
    for i, address in enumerate(pages):
        node = nodes[i] if i < len(nodes) else -1
        rc = _check(m, i, node, mems)
        # The queue is still sent, and its statuses are written.
        if rc:
            at = i
            break
        if m.node is None:
            m.node, m.start = node, i
        elif node != m.node:
            if err := _flush(m, i):
                return err
            m.node, m.start = node, i
        found = add_page(m, address // 4096, node)
        if found > 0:
            continue
        # A page that needs no move, or cannot, closes the list.
        m.status[i] = found or node
        if err := _flush(m, i):
            # Page i has its status: it is not one of those left untried.
            return err - 1 if err > 0 else err
        m.node = None
    err = _flush(m, at)
    return rc or err


def _check(m: Move, i: int, node: int, mems: set[int]) -> int:
    """The errors that end the call at element i."""
    if m.call.get("fault_at") == i:
        return EFAULT
    if not 0 <= node < MAX_NUMNODES or node not in m.k.world.memory:
        return ENODEV
    return 0 if node in mems else EACCES


def _flush(m: Move, i: int) -> int:
    """move_pages_and_store_status()."""
    if not m.folios:
        return 0
    node = m.node
    assert node is not None
    folios, m.folios = m.folios, []
    rc = run(m.k, Request(lambda src: node), folios)
    # A positive result adds what was not attempted; no status is written.
    if rc:
        return rc + len(m.status) - i if rc > 0 else rc
    m.status[m.start : i] = [node] * (i - m.start)
    return 0


def add_page(m: Move, vpn: int, node: int) -> int:
    """add_page_for_migration(): 1 queued, 0 there already, or an errno."""
    region = m.process.region_of(vpn)
    if region is None or not region.migratable:
        return EFAULT
    entry = lookup(m.k, m.process, vpn)
    if isinstance(entry, int):
        return entry
    folio = entry.folio
    assert folio is not None
    # Asked first: a page that is there already has no other problem.
    if folio.node == node:
        return 0
    if mapped_shared(m.k, folio) and not m.move_all:
        return EACCES
    # An error left over from the check before, as Linux had it.
    if folio.hugetlb and vpn != entry.vpn and not m.k.release.has("hugetlb_tail"):
        return EACCES
    if not isolate(folio):
        return EBUSY
    m.folios.append(folio)
    return 1
