"""One process of N base pages, laid out on the device.

machine(pages) equals, bit for bit, what Builder makes of one process that runs on all
CPUs but CPU 0 and maps one region.  It needs no arrays on the host, which at large sizes
would exceed the machine itself.  Its TLBs may also be warm.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxmig.linux.tlb import empty_tlb
from jaxmig.state import contents, frame, pte
from jaxmig.state.buckets import BASE_PAGES, LARGE, bucket
from jaxmig.state.machine import BLANK, NOWHERE, Cpus, Geometry, Machine, Tlb

# Anonymous memory that one process has written to.
FLAGS = frame.ANON | frame.LRU | frame.EXCLUSIVE_MAP | frame.DIRTY
BITS = (
    pte.PRESENT
    | pte.YOUNG
    | pte.SOFT_DIRTY
    | pte.VM_WRITE
    | pte.EXCLUSIVE
    | pte.WRITE
    | pte.DIRTY
)
STEP = 1 << 10  # rows laid out at a time: every size of a machine is a multiple

Order = Int32[Array, " slots"]


def machine(
    pages: int,
    *,
    cpus: int = 4,
    nodes: int = 2,
    seed: int | None = 0,
    content: bool = True,
    tlb: tuple[int, int] = (128, 12),
    warm: bool = True,
) -> Machine:
    """A machine with one process that has all its pages on node 0.

    Args:
      pages: base pages; as many are free on every node.
      cpus, nodes: of the machine.
      seed: of a random order of the frames on their node; None for address order.
      content: whether frames hold their 4 KiB.
      tlb: sets and ways of each CPU's 4 KiB TLB.
      warm: whether the TLBs of all CPUs but the first are full of translations.
    Returns:
      The machine, with arrays on the device.
    Raises:
      ValueError: if there are no pages, or more frames than the index type can count.
    """
    room = bucket(pages, BASE_PAGES)
    if pages < 1 or room * nodes >= NOWHERE:
        raise ValueError(f"{pages} pages on each of {nodes} nodes: 1 to {NOWHERE - 1}")
    g = Geometry(nodes, room, (0,), (room,), room, shared=False)
    frames = order(pages, room, seed)
    rows, entries, free = _lay_out(frames, jnp.int32(pages), g)
    top = np.full((nodes, 1), room, np.int32)
    top[0] -= pages
    m = Machine(
        frame=rows,
        memory=contents.fresh(g.frames) if content else None,
        pte=entries,
        rmap_next=jnp.full(room + LARGE, NOWHERE, jnp.int32),
        pmd_table=jnp.zeros(LARGE, jnp.int32),
        free=free,
        top=jnp.asarray(top),
        nfree=jnp.full(nodes, pages, jnp.int32),
        tlb=empty_tlb(*tlb, cpus),
        huge_tlb=empty_tlb(*tlb, cpus),
        cpus=_running(cpus),
        conditions=None,
        geometry=g,
    )
    return warmed(m, pages) if warm else m


def _running(cpus: int) -> Cpus:
    elsewhere = np.arange(cpus) > 0
    return Cpus(
        mask=jnp.asarray(elsewhere[None]),
        lazy=jnp.zeros(cpus, bool),
        mm=jnp.asarray(np.where(elsewhere, 0, NOWHERE).astype(np.int32)),
        gen=jnp.zeros(cpus, jnp.int32),
        mm_gen=jnp.zeros(1, jnp.int32),
        pending=jnp.zeros(cpus, bool),
    )


def order(pages: int, room: int, seed: int | None) -> Order:
    """The frame of each page, followed by the frames that are left, descending.

    The permutation is the same as that of `assemble.place`.
    """
    frames = np.arange(room, dtype=np.int32)
    frames[pages:] = frames[pages:][::-1]
    if seed is not None:
        np.random.default_rng((seed, 0, 0)).shuffle(frames[:pages])
    return jnp.asarray(frames)


@functools.partial(jax.jit, static_argnums=2)
def _lay_out(
    frames: Order, pages: Int32[Array, ""], geometry: Geometry
) -> tuple[Array, Array, Array]:
    """The rows of the frames, the entries and the free stacks."""
    blank = jnp.asarray(BLANK, jnp.int32)
    rows = jnp.broadcast_to(blank, (geometry.frames, frame.COLUMNS))
    lanes = jnp.arange(STEP, dtype=jnp.int32)

    def some(i: Array, rows: Array) -> Array:
        entry = i * STEP + lanes
        pfn = jax.lax.dynamic_slice_in_dim(frames, i * STEP, STEP)
        one = jnp.asarray([1, 1, FLAGS, 0], jnp.int32)
        new = one + jnp.asarray([0, 0, 0, 1], jnp.int32) * entry[:, None]
        at = jnp.where(entry < pages, pfn, NOWHERE)
        return rows.at[at].set(new, mode="drop")

    rows = jax.lax.fori_loop(0, -(-pages // STEP), some, rows)
    here = jnp.arange(geometry.ptes) < pages
    small = jnp.stack([jnp.where(here, frames, NOWHERE), here * BITS], axis=1)
    # Entries behind the last page map nothing, nor do the PMD leaves.
    leaves = jnp.asarray([NOWHERE, pte.HUGE], jnp.int32)
    entries = jnp.concatenate([small, jnp.broadcast_to(leaves, (LARGE, 2))])
    return rows, entries, _stacks(frames, pages, geometry)


def _stacks(frames: Order, pages: Int32[Array, ""], geometry: Geometry) -> Array:
    """The free stacks: node 0 has the frames without a page, other nodes have all."""
    room = geometry.frames_per_node
    slot = jnp.arange(room, dtype=jnp.int32)
    first = jnp.where(slot < room - pages, room - 1 - slot, NOWHERE)
    ends = jnp.arange(2, geometry.nodes + 1, dtype=jnp.int32)[:, None] * room
    return jnp.concatenate([first, (ends - 1 - slot).reshape(-1)])


def warmed(m: Machine, pages: int) -> Machine:
    """`m` with the TLBs full: every slot of every running CPU holds one of its pages.

    The first `pages` entries are those of the process.
    """
    return dataclasses.replace(m, tlb=_fill(m.tlb, m.pte, m.cpus.mask[0], pages))


@jax.jit
def _fill(tlb: Tlb, entries: Array, running: Array, pages: Array) -> Tlb:
    sets, slots = tlb.entry.shape
    ways = slots // running.shape[0]
    slot = jnp.arange(slots, dtype=jnp.int32)
    row = jnp.arange(sets, dtype=jnp.int32)[:, None]
    # Of the pages that share a set, each CPU holds different ones.
    deep = (pages - row + sets - 1) // sets
    way = slot % ways
    entry = row + sets * ((way + slot // ways * ways) % jnp.maximum(deep, 1))
    held = (way < deep) & jnp.repeat(running, ways)
    word = entries[jnp.where(held, entry, 0)]
    bits = word[..., pte.BITS] & (pte.WRITE | pte.DIRTY)
    return Tlb(
        entry=jnp.where(held, entry, tlb.entry),
        pfn=jnp.where(held, word[..., pte.PFN], tlb.pfn),
        bits=jnp.where(held, bits, tlb.bits),
        age=jnp.where(held, way, tlb.age),
    )
