"""One batch, phase by phase: the state that lies between two phases of a call.

A policy is data: which phases, in which order, on how many folios at a time.  Serial
migration is the same four phases on one folio.  Here they are functions of (Machine,
Batch) with nothing around them, for whoever wants to look in between: `stop`, teaching,
and the tests that let CPUs store into memory between two phases.

Only base pages, and what the first pass does to them: a folio that waits for a later
pass is still untouched.

Source: migrate_pages_batch(), unmap_and_move() in mm/migrate.c.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig import pte, tlb, xla
from jaxmig.frame import RMAP
from jaxmig.machine import NOWHERE, Machine
from jaxmig.phases import alloc, copypage, flush, lanes, remap as remapping, unmap as un
from jaxmig.phases.lanes import Known
from jaxmig.policy import fates
from jaxmig.policy.folio import Where
from jaxmig.policy.look import look
from jaxmig.policy.plan import seen_conditions
from jaxmig.pytree import pytree
from jaxmig.rules import Rules

Index = Int32[Array, ""]


@pytree
class Batch:
    """Folios on their way, padded with NOWHERE."""

    src: Int32[Array, " lanes"]
    dst: Int32[Array, " lanes"]  # NOWHERE: will stay
    unmapped: Bool[Array, " lanes"]  # those that phase 1 takes


def prepare(
    rules: Rules, m: Machine, src: Int32[Array, " lanes"], at: Where
) -> tuple[Machine, Batch]:
    """Which folios of `src` can be unmapped and moved now, and frames for them."""
    row, seen = look(rules, m, src, flush.deferrable(rules, m.cpus, at.cpu))
    left, marks = seen_conditions(m, src, row)
    live = (src != NOWHERE) & (row[:, 0] > 0)
    f = fates.folios(row, seen.maps, left, marks, live)
    first = fates.stage(rules, f, 1, False, live)
    m, dst = alloc.take_many(m, at.node, first.moved)
    return m, Batch(src, dst, first.unmapped)


def unmap(rules: Rules, m: Machine, b: Batch, at: Where) -> Machine:
    """Phase 1: migration entries."""
    del rules, at
    row = xla.read(b.src, lambda: lanes.rows(m.frame, b.src))
    known = Known(row, None)
    return un.unmap(m, b.src, known, b.unmapped, jnp.zeros_like(b.src))[0]


def flush_batch(rules: Rules, m: Machine, b: Batch, at: Where) -> Machine:
    """Phase 2, batched: all of the batch's address spaces, on the union of masks.

    An address space that no other CPU holds was not put off: one page at a time.
    """
    union = reached(rules, m, b, at) & flush.deferrable(rules, m.cpus, at.cpu).any()
    m = flush_pages(rules, m, b, at)
    if rules.broadcasts:
        return m
    return tlb.drop_all_sizes(m, union)


def flush_pages(rules: Rules, m: Machine, b: Batch, at: Where) -> Machine:
    """Phase 2, serial: each page alone, on the CPUs of its mask."""
    told = reached(rules, m, b, at)
    entry = m.tlb.entry
    safe = jnp.where(entry == NOWHERE, 0, entry)
    waits = pte.has(m.pte[safe][..., pte.BITS], pte.MIGRATION)
    dead = waits & (entry != NOWHERE) & tlb.lanes_of(told, m.tlb)[None]
    kept = jnp.where(dead, NOWHERE, entry)
    return dataclasses.replace(m, tlb=dataclasses.replace(m.tlb, entry=kept))


def reached(rules: Rules, m: Machine, b: Batch, at: Where) -> Bool[Array, " cpus"]:
    """CPUs whose loaded address space has an entry among the batch's, lazy ones not."""
    c = m.cpus
    if rules.broadcasts:
        return jnp.ones_like(c.lazy)
    row = lanes.rows(m.frame, b.src)
    mms = jnp.zeros(c.mask.shape[0], bool)

    def step(s: tuple) -> tuple:
        mms, entry = s
        old, following = lanes.entry_of(m, entry)
        here = entry != NOWHERE
        mm = jnp.where(here, pte.mm_of(old[:, pte.BITS]), c.mask.shape[0])
        return mms.at[mm].set(True, mode="drop"), following

    first = jnp.where(b.unmapped, row[:, RMAP], NOWHERE)
    mms, _ = lanes.along_chains(m.geometry.shared, step, (mms, first))
    told = (c.mask & mms[:, None]).any(axis=0)
    return told & ~c.lazy


def copy(rules: Rules, m: Machine, b: Batch, at: Where) -> Machine:
    """Phase 3: contents."""
    del rules, at
    return copypage.copy(m, b.src, b.dst)


def remap(rules: Rules, m: Machine, b: Batch, at: Where) -> Machine:
    """Phase 4: identity and entries, to the destination or back."""
    del rules, at
    m = copypage.switch(m, b.src, b.dst)
    moved = b.dst != NOWHERE
    m = remapping.remap(m, jnp.where(moved, b.dst, b.src), b.unmapped)
    return alloc.give_many(m, xla.after(b.src, b.dst), moved)


Phase = Callable[[Rules, Machine, Batch, Where], Machine]
NAMES: Final = ("unmap", "flush", "copy", "remap")
SERIAL: Final[tuple[Phase, ...]] = (unmap, flush_pages, copy, remap)
BATCHED: Final[tuple[Phase, ...]] = (unmap, flush_batch, copy, remap)


def until(
    rules: Rules,
    m: Machine,
    folios: Int32[Array, " folios"],
    first: Index,
    stop: Index,
    phase: str,
    at: Where,
) -> Machine:
    """Folios `first` ... `stop - 1` as one batch, up to and with `phase`."""
    index = jnp.arange(folios.shape[0])
    src = jnp.where((index >= first) & (index < stop), folios, NOWHERE)
    m, b = prepare(rules, m, src, at)
    phases = BATCHED if rules.batched else SERIAL
    for step in phases[: NAMES.index(phase) + 1]:
        m = step(rules, m, b, at)
    return m
