"""The outcome of one access: TLB hit, walk, migration entry, or a page never touched.

A hit uses the cached frame, also if the page table has changed since.  A miss, and the
first store through a clean entry, walk the page table as it is at the lane's time, and
find a migration entry between unmap and remap of the folio.

Source: do_swap_page() in mm/memory.c; choose_new_asid() and switch_mm_irqs_off() in
arch/x86/mm/tlb.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxmig.state import xla
from jaxmig.state.pytree import pytree
from jaxmig.time.access.state import (
    ASID_MASK,
    DIRTY,
    FIRST_OCTAVE,
    FRAME_SHIFT,
    NEVER,
    PTE_SHIFT,
    SUB_BINS,
    WAY_SHIFT,
    Access,
    Costs,
    Cpu,
    Group,
    GroupMask,
    Lanes,
    Mask,
    MigrationWindow,
    Shape,
    Stream,
)


@pytree
class AccessReads:
    """The values that a step's accesses read."""

    row: Group  # of the TLB
    hit: GroupMask
    cell: Group  # of the TLB: where it hit, or what it will replace
    load: Group  # what is cached there
    pte: Group
    unmap: Group
    remap: Group


def row_of(shape: Shape, folio: Array) -> Array:
    """The row of a folio within its CPU's rows."""
    base = jax.lax.rem(folio - shape.huge, np.int32(shape.sets))
    if not shape.huge:
        return base
    large = shape.sets + jax.lax.rem(folio, np.int32(shape.huge_sets))
    return jnp.where(folio < shape.huge, large, base)


def fetch(shape: Shape, cpu: Cpu, stream: Stream) -> tuple[Group, Group, GroupMask]:
    """Each lane's next folios, their mm << 24 | word << 1 | store, and which exist."""
    lane = jnp.arange(shape.cpus, dtype=jnp.int32)
    at = cpu.pos + jnp.arange(shape.group, dtype=jnp.int32)[:, None]
    block = stream.op.shape[1]
    op = stream.op[lane, jnp.minimum(at, block - 1)]
    return op[..., 0], op[..., 1], at < block


def look(
    shape: Shape, access: Access, cpu: Cpu, window: MigrationWindow, folio: Group
) -> AccessReads:
    """Read TLBs, page table and window for the accesses of one step.

    Args:
      folio: of each access.
    Returns:
      The values read, before any write of the step (see `xla.read`).
    """
    lane = jnp.arange(shape.cpus, dtype=jnp.int32)
    row = lane * shape.rows + row_of(shape, folio)
    near = folio - window.first
    inside = (near >= 0) & (near < window.unmap.shape[0])
    near = jnp.where(inside, near, 0)

    def reads() -> AccessReads:
        # Inside this function XLA searches the rows without storing them.
        key = search(shape, access, cpu, folio, row)
        cell = row * shape.width + (key & ((1 << WAY_SHIFT) - 1))
        return AccessReads(
            row=row,
            hit=key < 0,
            cell=cell,
            load=access.tlb.load.reshape(-1)[cell],
            pte=access.pte[folio],
            unmap=jnp.where(inside, window.unmap[near], NEVER),
            remap=jnp.where(inside, window.remap[near], -NEVER),
        )

    return xla.read(folio, reads)


def search(shape: Shape, access: Access, cpu: Cpu, folio: Group, row: Group) -> Group:
    """Find the way that holds a translation, else the way that it will replace.

    One minimum over the ways finds a hit, else a dead way, else the least recently used.

    Args:
      folio, row: of each access, and its row of the TLB.
    Returns:
      way - 16 for a hit, else age << 4 | way.
    """
    way = jnp.arange(shape.width, dtype=jnp.int32)
    tag, age = access.tlb.tag[row], access.tlb.age[row]
    match = tag == folio[..., None]
    if shape.asids == 1:
        gone = age <= cpu.flushed
    else:
        owner = (access.tlb.load[row] >> 1) & ASID_MASK
        match &= owner == cpu.asid[:, None]
        gone = jnp.zeros(age.shape, bool)
        for i in range(shape.asids):
            gone |= (owner == i) & (age <= cpu.flushed[:, i : i + 1])
    old = jnp.where(gone, 0, age) << WAY_SHIFT
    hit = jnp.int32(-(1 << WAY_SHIFT))
    return jnp.where(match & ~gone, way + hit, old + way).min(-1)


def generation(window: MigrationWindow, mm: Lanes, time: Lanes) -> Lanes:
    """tlb_gen of each lane's address space at a time, ns on the lane's clock.

    Every entry cleared raises that of address space 0.
    """
    cleared = jnp.clip((time - window.start) // window.unit, 0, window.count)
    return window.gen[mm] + jnp.where(mm == 0, cleared, 0)


def enter(
    shape: Shape, cpu: Cpu, window: MigrationWindow, mm: Lanes, age: Array, on: Mask
) -> Cpu:
    """switch_mm_irqs_off() on CPUs that load another address space or were lazy.

    Args:
      mm: the address space that each CPU's next access uses.
      age: of the present step.
      on: CPUs that take a step.
    Returns:
      The CPUs, with `mm` loaded and stale ASIDs flushed.
    """
    comes = on & ((mm != cpu.mm) | cpu.asleep)
    return xla.when(comes.any(), lambda c: _switch(shape, c, window, mm, age, on), cpu)


def _switch(
    shape: Shape, cpu: Cpu, window: MigrationWindow, mm: Lanes, age: Array, on: Mask
) -> Cpu:
    """Flush an ASID that is behind its mm's generation, or gets another mm."""
    switch = on & (mm != cpu.mm)
    asid, taken = cpu.asid, switch
    if shape.asids > 1:
        known = cpu.asid_mm == mm[:, None]
        found = known.any(1)
        fresh = cpu.next_asid % shape.asids
        asid = jnp.where(found, jnp.argmax(known, 1).astype(jnp.int32), fresh)
        asid = jnp.where(switch, asid, cpu.asid)
        taken = switch & ~found
    here = jnp.arange(shape.asids) == asid[:, None]
    gen = generation(window, jnp.where(on, mm, 0), cpu.clock)
    behind = jnp.where(here, cpu.asid_gen, 0).sum(1) < gen
    flush = taken | ((switch | (on & cpu.asleep)) & behind)
    at = here & flush[:, None]
    return dataclasses.replace(
        cpu,
        mm=jnp.where(on, mm, cpu.mm),
        asid=asid,
        next_asid=cpu.next_asid + taken,
        asid_mm=jnp.where(here & taken[:, None], mm[:, None], cpu.asid_mm),
        asid_gen=jnp.where(at, gen[:, None], cpu.asid_gen),
        flushed=jnp.where(at, age - 1, cpu.flushed),
    )


def bin_of(ns: Array) -> Array:
    """The bin of a time: one bin below 2^8 ns, then 16 for each octave."""
    octave = 31 - jax.lax.clz(jnp.maximum(ns, 1))
    part = (ns >> jnp.maximum(octave - 4, 0)) & (SUB_BINS - 1)
    fine = 1 + (octave - FIRST_OCTAVE) * SUB_BINS + part
    return jnp.where(octave < FIRST_OCTAVE, 0, fine)


@pytree
class StepOutcome:
    """The outcome of one step: accesses that happen, and a first one that may wait."""

    done: GroupMask
    some: Mask  # lanes of which any is done
    blocked: Mask
    touched: Mask
    walked: GroupMask
    store: GroupMask
    frame: Group
    cost: Group
    load: Group  # the payload of its cell of the TLB afterwards


def decide(
    shape: Shape,
    costs: Costs,
    cpu: Cpu,
    seen: AccessReads,
    op: Group,
    able: GroupMask,
    pause: Lanes,
    limit: Lanes,
) -> StepOutcome:
    """Decide which accesses hit, walk, wait or touch a page first.

    Accesses in different rows of the TLB are independent, so that the next ones of a lane
    are looked up together.  They happen up to the first that must wait, begins too late,
    or uses the row of an earlier one; that one is left to the next step.

    Args:
      seen: what `look` has read.
      op: mm << 24 | word << 1 | store of each access.
      able: accesses that exist and are due.
      pause: before the first access, ns.
      limit: time up to which each lane may begin accesses, ns.
    Returns:
      What each access does, and its cost in ns.
    """
    store = (op & 1) == 1
    clean = (seen.load & 1) == 0
    walk = ~seen.hit | (store & clean)
    frame = jnp.where(seen.hit, seen.load >> FRAME_SHIFT, seen.pte >> PTE_SHIFT)
    near = (frame >= shape.folios) == (cpu.node > 0)
    cost = costs.gen + costs.hit + jnp.where(walk, costs.walk, 0)
    cost += jnp.where(near, costs.local, costs.remote)
    # The first access reads the page table before the pause, the others begin after it.
    begin = cpu.clock + jnp.cumsum(cost, 0) - cost
    begin += jnp.where(jnp.arange(shape.group)[:, None] > 0, pause, 0)
    moving = (seen.unmap <= begin) & (begin < seen.remap)
    blocked, touched = walk & moving, walk & ~moving & (seen.pte < 0)
    fine = able & (begin < limit) & ~blocked & ~touched & ~_again(shape, seen.row)
    done = jnp.cumsum(~fine, 0) == 0
    dirty = store | jnp.where(seen.hit, ~clean, (seen.pte & DIRTY) != 0)
    return StepOutcome(
        done=done,
        some=done[0],
        blocked=able[0] & blocked[0],
        touched=able[0] & touched[0],
        walked=walk,
        store=store,
        frame=frame,
        cost=cost,
        load=(frame << FRAME_SHIFT) | (cpu.asid << 1) | dirty,
    )


def _again(shape: Shape, row: Group) -> GroupMask:
    """Whether each access uses the row of an earlier one of its lane."""
    same = row[:, None] == row[None]
    earlier = np.tri(shape.group, k=-1, dtype=bool)
    return (same & earlier[:, :, None]).any(1)
