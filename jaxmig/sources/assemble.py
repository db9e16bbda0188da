"""From lists of folios and entries, on the host, to a Machine.

Everything is a numpy array over folios or entries, so that 64 M pages are laid out in
seconds; regions (`builder.py`) and snapshots of real processes both end here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from jaxtyping import Array, Bool, Int32, Int64, UInt32

from jaxmig.linux.tlb import empty_tlb
from jaxmig.state import conditions as cond, contents, frame, pte, xla
from jaxmig.state.buckets import BASE_PAGES, LARGE, bucket, least_room
from jaxmig.state.machine import NOWHERE, Cpus, Geometry, Machine


@dataclasses.dataclass
class Folios:
    """The folios in memory, a row each."""

    order: Int32[np.ndarray, " folios"]
    node: Int32[np.ndarray, " folios"]
    flags: Int32[np.ndarray, " folios"]  # kind and bits of frame.py, without the order
    extra_refs: Int32[np.ndarray, " folios"]
    # Flags of single pages: folios, their pages, and a bit of frame.py.
    marks: list[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], int]] = (
        dataclasses.field(default_factory=list)
    )


@dataclasses.dataclass
class Entries:
    """Page-table entries, a row each."""

    folio: Int64[np.ndarray, " entries"]  # row in Folios; -1 if nothing is mapped
    page: Int32[np.ndarray, " entries"]  # base page within the folio
    bits: Int32[np.ndarray, " entries"]  # flags and address space, see pte.py
    # Position among the entries of a folio; None for the order of the rows.
    turn: Int32[np.ndarray, " entries"] | None = None


@dataclasses.dataclass
class Hardware:
    """Nodes, CPUs, TLBs."""

    nodes: int
    mask: Bool[np.ndarray, "mms cpus"]
    lazy: Bool[np.ndarray, " cpus"]
    tlb: tuple[int, int] = (128, 12)  # sets, ways of 4 KiB entries
    huge_tlb: tuple[int, int] = (128, 12)
    free: Sequence[int | None] = ()  # base pages by node, None: all that there is


@dataclasses.dataclass(frozen=True)
class Classes:
    """The sizes to which those of a machine are rounded up."""

    base: int = BASE_PAGES  # the least room for base pages and entries
    large: int = LARGE  # the least room for folios of a larger order
    pmds: int = LARGE
    up: Callable[[int, int], int] = bucket  # from a number and the least size to a size
    # Machines with and without shared pages or conditions are one class.
    conditions: bool = False
    # Orders, and folios of each on a node, for machines with larger folios that fit.
    pools: tuple[tuple[int, int], ...] = ()


EXACT: Final = Classes()


def geometry_of(
    hw: Hardware,
    folios: Folios,
    ptes: int,
    shared: bool,
    splits: bool,
    headroom: bool,
    classes: Classes,
) -> Geometry:
    """The machine's sizes: pools with room for every folio of their order on any node.

    Args:
      ptes: PTEs of all address spaces.
      shared: whether some page is mapped twice.
      splits: room for all large folios as base pages too.
      headroom: twice the room, so that a node can be source and destination of a call.
      classes: to which sizes are rounded up.
    Returns:
      The geometry, with the same pools on each node.
    Raises:
      ValueError: if the frames do not fit the index type.
    """
    orders = tuple(sorted({0, *np.unique(folios.order).tolist()}))
    counts = {o: int((folios.order == o).sum()) for o in orders}
    if splits:
        counts[0] = sum(n << o for o, n in counts.items())
    times, pools = 2 if headroom else 1, dict(classes.pools)
    common = orders != (0,) and all(
        n * times <= pools.get(o, 0) for o, n in counts.items()
    )
    if common:
        orders, blocks = tuple(pools), tuple(pools.values())
    else:
        base = least_room(1 << (hw.nodes - 1).bit_length(), classes.base)
        least = {o: classes.large if o else base for o in orders}
        blocks = tuple(classes.up(counts[o] * times, least[o]) for o in orders)
    per_node = sum(n << o for n, o in zip(blocks, orders, strict=True))
    if per_node * hw.nodes >= NOWHERE:
        raise ValueError(f"{per_node * hw.nodes} frames: at most {NOWHERE - 1}")
    hugetlb = bool(((folios.flags & frame.KIND) == frame.HUGETLB).any())
    hugetlb |= common
    poisoned = any(bit == frame.POISONED and len(at) for at, _, bit in folios.marks)
    return Geometry(
        hw.nodes, per_node, orders, blocks, ptes, shared, headroom, hugetlb, poisoned
    )


def place(
    geometry: Geometry, folios: Folios, seed: int | None
) -> tuple[Int64[np.ndarray, " folios"], Int32[np.ndarray, " slots"], np.ndarray]:
    """Head frame of each folio, the free stacks, and how many blocks are on each.

    Frames are allocated in order, or shuffled within their pool if there is a seed.
    """
    head = np.empty(folios.order.shape[0], np.int64)
    free = np.full(geometry.nodes * geometry.slots_per_node, NOWHERE, np.int32)
    top = np.zeros((geometry.nodes, len(geometry.orders)), np.int32)
    for node in range(geometry.nodes):
        for k, order in enumerate(geometry.orders):
            mine = np.flatnonzero((folios.node == node) & (folios.order == order))
            base = node * geometry.frames_per_node + geometry.pool_start(k)
            slots = np.arange(mine.size)
            if seed is not None:
                slots = np.random.default_rng((seed, node, order)).permutation(slots)
            head[mine] = base + (slots << order)
            left = np.arange(mine.size, geometry.pool_blocks[k])[::-1]
            start = node * geometry.slots_per_node + geometry.stack_start(k)
            free[start : start + left.size] = base + (left << order)
            top[node, k] = left.size
    return head, free, top


def chains(
    frames: int,
    frame_of: Int64[np.ndarray, " entries"],
    live: np.ndarray,
    turn: Int32[np.ndarray, " entries"] | None = None,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The reverse map: for each frame a chain of the entries that map it.

    Args:
      frames: of the machine.
      frame_of: the frame in whose row each entry's chain begins.
      live: bool[entries], whether each maps anything.
      turn: the order within a chain; None for that of the entries.
    Returns:
      The first entry of each frame and the next entry of each entry, NOWHERE if there
      is none; and whether some chain has two entries.
    """
    first = np.full(frames, NOWHERE, np.int32)
    following = np.full(frame_of.shape[0], NOWHERE, np.int32)
    entries = np.flatnonzero(live)
    if turn is not None:
        entries = entries[np.argsort(turn[entries], kind="stable")]
    # Written backwards, so that the lowest entry of a shared frame wins.
    first[frame_of[entries[::-1]]] = entries[::-1]
    late = first[frame_of[entries]] != entries
    if not late.any():
        return first, following, False
    by_frame = entries[np.argsort(frame_of[entries], kind="stable")]
    same = frame_of[by_frame[1:]] == frame_of[by_frame[:-1]]
    following[by_frame[:-1][same]] = by_frame[1:][same]
    return first, following, True


def assemble(
    hw: Hardware,
    folios: Folios,
    ptes: Entries,
    pmds: Entries,
    pmd_table: Int32[np.ndarray, " pmds"],
    *,
    left: np.ndarray | None = None,
    marks: np.ndarray | None = None,
    splits: bool = False,
    headroom: bool = False,
    seed: int | None = None,
    content: bool = True,
    classes: Classes = EXACT,
) -> Machine:
    """Lay out a machine from rows on the host.

    Args:
      ptes, pmds: entries of all address spaces, the PMD leaves apart.
      pmd_table: the PTE under each leaf at which its range begins.
      left, marks: conditions by folio (see conditions.py); None without any.
      splits: room for all large folios as base pages too.
      headroom: room for a node to be source and destination of one call.
      seed: of the order of frames within their pools; None for ascending order.
      content: whether frames hold their 4 KiB.
      classes: to which sizes are rounded up.
    Returns:
      The machine, with arrays on the device and empty TLBs.
    Raises:
      ValueError: if the frames do not fit the index type.
    """
    n_ptes = classes.up(ptes.folio.shape[0], classes.base)
    ptes = _padded(ptes, n_ptes)
    pmds = _padded(pmds, classes.up(pmds.folio.shape[0], classes.pmds))
    folio = np.concatenate([ptes.folio, pmds.folio])
    page = np.concatenate([ptes.page, pmds.page])
    bits = np.concatenate([ptes.bits, pmds.bits | pte.HUGE]).astype(np.int32)
    live = folio >= 0
    counts = np.bincount(folio[live], minlength=folios.order.shape[0])
    # What was never touched is no page of zeros, nor one that cannot be read.
    touched = [(at, n, bit, counts[at] > 0) for at, n, bit in folios.marks]
    folios = dataclasses.replace(
        folios, marks=[(at[some], n[some], bit) for at, n, bit, some in touched]
    )
    shared = _is_shared(folios, folio, page, live, counts)
    if classes.conditions and (shared or left is not None):
        shared = True
        left = (
            np.zeros((len(folios.order), len(cond.STATES)), int)
            if left is None
            else left
        )
        marks = np.zeros(len(folios.order), np.int32) if marks is None else marks
    g = geometry_of(hw, folios, n_ptes, shared, splits, headroom, classes)
    head, free, top = place(g, folios, seed)
    mapped = np.where(live, head[folio] + page, 0) if live.any() else folio * 0
    turn = pmds.turn
    if turn is not None:
        turn = np.concatenate([np.zeros(n_ptes, np.int32), turn])
    first, following, _ = chains(g.frames, mapped, live, turn)
    if left is not None and marks is not None:
        folios.flags[(left != 0).any(axis=1) | (marks != 0)] |= frame.CONDITIONED
    rows = _frame_rows(g, folios, head, counts, mapped, live, first)
    word = np.where(live, mapped, NOWHERE).astype(np.int32)
    used = _used(g.nodes, folios)
    table = np.resize(np.append(pmd_table, 0), pmds.folio.shape[0])
    limits = list(hw.free) + [None] * (g.nodes - len(hw.free))
    total = int(used.sum())
    nfree = [total if n is None else n for n in limits]
    return Machine(
        frame=xla.upload(rows),
        memory=_contents(rows) if content else None,
        pte=xla.upload(np.stack([word, bits], axis=1)),
        rmap_next=xla.upload(following),
        pmd_table=xla.upload(table.astype(np.int32)),
        free=xla.upload(free),
        top=xla.upload(top),
        nfree=xla.upload(np.asarray(nfree, np.int32)),
        tlb=empty_tlb(*hw.tlb, hw.lazy.shape[0]),
        huge_tlb=empty_tlb(*hw.huge_tlb, hw.lazy.shape[0]),
        cpus=_cpus(hw),
        conditions=_conditions(g, head, left, marks),
        geometry=g,
    )


def _padded(entries: Entries, size: int) -> Entries:
    """Entries up to `size`, the new ones of address space 0 and empty."""
    more = (0, size - entries.folio.shape[0])
    turn = None if entries.turn is None else np.pad(entries.turn, more)
    return Entries(
        np.pad(entries.folio, more, constant_values=-1),
        np.pad(entries.page, more),
        np.pad(entries.bits, more),
        turn,
    )


def _is_shared(
    folios: Folios,
    folio: np.ndarray,
    page: np.ndarray,
    live: np.ndarray,
    counts: np.ndarray,
) -> bool:
    if (counts[folios.order == 0] > 1).any():
        return True
    large = live & (folios.order[folio] > 0) if folios.order.size else live & False
    if not large.any():
        return False
    # Large folios: some page or PMD of theirs mapped twice.
    key = (folio[large] << 10) + page[large]
    return bool(np.unique(key).size < key.size)


def _used(nodes: int, folios: Folios) -> np.ndarray:
    mine = (folios.flags & frame.KIND) != frame.HUGETLB
    pages = (np.int64(1) << folios.order[mine]).astype(np.float64)
    return np.bincount(folios.node[mine], weights=pages, minlength=nodes).astype(
        np.int64
    )


def _frame_rows(
    geometry: Geometry,
    folios: Folios,
    head: np.ndarray,
    counts: np.ndarray,
    mapped: np.ndarray,
    live: np.ndarray,
    first: np.ndarray,
) -> np.ndarray:
    rows = np.zeros((geometry.frames, frame.COLUMNS), np.int32)
    rows[:, frame.RMAP] = first
    if live.any():
        rows[:, frame.MAPCOUNT] = np.bincount(mapped[live], minlength=geometry.frames)
    flags = (folios.flags | folios.order).astype(np.int32)
    rows[head, frame.FLAGS] = flags
    cached = np.asarray(frame.cache_refs(flags))
    rows[head, frame.REFCOUNT] = counts + cached + folios.extra_refs
    for order in geometry.orders[1:]:
        big = head[folios.order == order]
        tails = big[:, None] + np.arange(1, 1 << order)
        rows[tails, frame.FLAGS] = rows[big, frame.FLAGS, None] | frame.TAIL
        some = (first[tails] != NOWHERE).any(axis=1)
        some &= geometry.only_heads(rows[big])
        rows[big[some], frame.FLAGS] |= frame.TAILS_MAPPED
    for folio, page, bit in folios.marks:
        rows[head[folio] + page, frame.FLAGS] |= bit
        if bit == frame.POISONED:
            rows[head[folio], frame.FLAGS] |= frame.HURT
    return rows


def _contents(rows: np.ndarray) -> UInt32[Array, "frames 1024"]:
    """Contents that differ between all pages; zeros for pages marked ZERO."""
    memory = contents.fresh(rows.shape[0])
    zero = np.flatnonzero(rows[:, frame.FLAGS] & frame.ZERO)
    return memory.at[zero].set(0) if zero.size else memory


def _cpus(hw: Hardware) -> Cpus:
    mms, cpus = hw.mask.shape
    loaded = np.where(hw.mask.any(0), hw.mask.argmax(0), NOWHERE).astype(np.int32)
    return Cpus(
        mask=xla.upload(hw.mask),
        lazy=xla.upload(hw.lazy),
        mm=xla.upload(loaded),
        gen=xla.upload(np.zeros(cpus, np.int32)),
        mm_gen=xla.upload(np.zeros(mms, np.int32)),
        pending=xla.upload(np.zeros(cpus, bool)),
    )


def _conditions(
    geometry: Geometry,
    head: np.ndarray,
    left: np.ndarray | None,
    marks: np.ndarray | None,
) -> Int32[Array, "frames 4"] | None:
    if left is None or marks is None:
        return None
    # More tests than a field can count mean for ever.
    fields = np.minimum(left, cond.UNTIL_WAITED).T
    rows = np.zeros((geometry.frames, cond.WORDS), np.int32)
    rows[head] = np.stack(np.broadcast_arrays(*cond.pack(fields, marks)), axis=1)
    return xla.upload(rows)
