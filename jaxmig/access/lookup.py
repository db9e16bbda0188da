"""What one access meets: TLB hit, walk, migration entry, or a page never touched.

A hit uses the frame as cached, also where the page table says otherwise by now.  A
miss, and the first store through a clean entry, walk the page table as it is at the
lane's time, and find a migration entry between unmap and remap of the folio.

Source: do_swap_page() in mm/memory.c; choose_new_asid() and switch_mm_irqs_off() in
arch/x86/mm/tlb.c, Linux 6.3.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import wall
from jaxmig.access.state import (
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
    Lanes,
    Mask,
    Shape,
    Stream,
    Window,
)
from jaxmig.pytree import pytree


@pytree
class Seen:
    """All that one access reads."""

    folio: Lanes
    op: Lanes
    row: Int32[Array, "cpus 3*ways"]
    pte: Lanes
    unmap: Lanes
    remap: Lanes


def row_of(s: Shape, folio: Lanes) -> Lanes:
    """The row of a folio within its CPU's rows."""
    base = (folio - s.huge) % s.sets
    if not s.huge:
        return base
    return jnp.where(folio < s.huge, s.sets + folio % s.huge_sets, base)


def look(s: Shape, a: Access, w: Window, stream: Stream) -> Seen:
    """Reads of one step, behind a wall: see `wall.py`."""
    lane = jnp.arange(s.cpus, dtype=jnp.int32)

    def reads() -> Seen:
        at = jnp.minimum(a.cpu.pos, stream.op.shape[1] - 1)
        op = stream.op[lane, at]
        folio = op[:, 0]
        near = folio - w.first
        inside = (near >= 0) & (near < w.unmap.shape[0])
        near = jnp.where(inside, near, 0)
        return Seen(
            folio,
            op[:, 1],
            a.tlb[lane * s.rows + row_of(s, folio)],
            a.pte[folio],
            jnp.where(inside, w.unmap[near], NEVER),
            jnp.where(inside, w.remap[near], -NEVER),
        )

    return wall.read(a.cpu.pos, reads)


def generation(w: Window, mm: Lanes, t: Lanes) -> Lanes:
    """tlb_gen of an address space at `t`: every entry cleared moves the first one's."""
    cleared = jnp.clip((t - w.start) // w.unit, 0, w.count)
    return w.gen[mm] + jnp.where(mm == 0, cleared, 0)


def enter(s: Shape, c: Cpu, w: Window, mm: Lanes, age: Array, on: Mask) -> Cpu:
    """switch_mm_irqs_off(): another address space, or the end of lazy mode.

    An ASID that lags behind its mm's generation, or is given away, is flushed.
    """
    switch = on & (mm != c.mm)
    asid, taken = c.asid, switch
    if s.asids > 1:
        known = c.asid_mm == mm[:, None]
        found = known.any(1)
        fresh = c.next_asid % s.asids
        asid = jnp.where(found, jnp.argmax(known, 1).astype(jnp.int32), fresh)
        asid = jnp.where(switch, asid, c.asid)
        taken = switch & ~found
    here = jnp.arange(s.asids) == asid[:, None]
    gen = generation(w, jnp.where(on, mm, 0), c.clock)
    behind = jnp.where(here, c.asid_gen, 0).sum(1) < gen
    flush = taken | ((switch | (on & c.asleep)) & behind)
    at = here & flush[:, None]
    return dataclasses.replace(
        c,
        mm=jnp.where(on, mm, c.mm),
        asid=asid,
        next_asid=c.next_asid + taken,
        asid_mm=jnp.where(here & taken[:, None], mm[:, None], c.asid_mm),
        asid_gen=jnp.where(at, gen[:, None], c.asid_gen),
        flushed=jnp.where(at, age - 1, c.flushed),
    )


def dead(s: Shape, c: Cpu, age: Array, load: Array) -> Bool[Array, "cpus ways"]:
    """Entries filled before the last flush of their ASID."""
    if s.asids == 1:
        return age <= c.flushed
    owner = (load >> 1) & 7
    gone = jnp.zeros(age.shape, bool)
    for i in range(s.asids):
        gone |= (owner == i) & (age <= c.flushed[:, i : i + 1])
    return gone


def bin_of(ns: Lanes) -> Lanes:
    """Bin of a time: below 2^8 ns one bin, then 16 an octave."""
    octave = 31 - jax.lax.clz(jnp.maximum(ns, 1))
    part = (ns >> jnp.maximum(octave - 4, 0)) & (SUB_BINS - 1)
    fine = 1 + (octave - FIRST_OCTAVE) * SUB_BINS + part
    return jnp.where(octave < FIRST_OCTAVE, 0, fine)


@pytree
class Outcome:
    """What becomes of one step's accesses."""

    done: Mask
    blocked: Mask
    touched: Mask
    walked: Mask
    store: Mask
    frame: Lanes
    cost: Lanes
    row: Int32[Array, "cpus 3*ways"]


def decide(s: Shape, k: Costs, a: Access, seen: Seen, c: Cpu, on: Mask) -> Outcome:
    """Hit, walk, wait or first touch, and the row afterwards."""
    n = s.width
    tag, age, load = seen.row[:, :n], seen.row[:, n : 2 * n], seen.row[:, 2 * n :]
    way = jnp.arange(n, dtype=jnp.int32)
    gone = dead(s, c, age, load)
    match = (tag == seen.folio[:, None]) & ~gone
    if s.asids > 1:
        match &= ((load >> 1) & 7) == c.asid[:, None]
    old = jnp.where(gone, 0, age) << WAY_SHIFT
    # One minimum finds the hit, else a dead way, else the least recently used one.
    key = jnp.where(match, way - 16, old + way).min(1)
    hit = key < 0
    here = way == (key & 15)[:, None]
    cached = jnp.where(here, load, 0).sum(1)
    store = (seen.op & 1) == 1
    clean = (cached & 1) == 0
    walk = on & (~hit | (store & clean))
    moving = (seen.unmap <= c.clock) & (c.clock < seen.remap)
    blocked = walk & moving
    touched = walk & ~moving & (seen.pte < 0)
    done = on & ~blocked & ~touched
    frame = jnp.where(hit, cached >> FRAME_SHIFT, seen.pte >> PTE_SHIFT)
    dirty = store | jnp.where(hit, ~clean, (seen.pte & DIRTY) != 0)
    new = (frame << FRAME_SHIFT) | (c.asid << 1) | dirty
    near = frame // s.folios == c.node
    cost = k.gen + k.hit + jnp.where(walk, k.walk, 0)
    cost += jnp.where(near, k.local, k.remote)
    row = jnp.concatenate(
        [
            jnp.where(here, seen.folio[:, None], tag),
            jnp.where(here, a.age, age),
            jnp.where(here, new[:, None], load),
        ],
        axis=1,
    )
    return Outcome(done, blocked, touched, walk, store, frame, cost, row)
