"""What the page tables say of the base pages of a window, before it is unmapped.

Source: folio_mapcount(), page_vma_mapped_walk() as try_to_migrate_one() sees it.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux import tlb
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, lanes, pte, xla
from jaxmig.state.frame import FLAGS, RMAP
from jaxmig.state.lanes import DEPTH, Chains, Lanes, Mask
from jaxmig.state.machine import NOWHERE, Machine
from jaxmig.state.pytree import pytree
from jaxmig.state.window import Window


@pytree
class PageMaps:
    """What the page tables say of each base page."""

    mm: Lanes  # address space of the first mapping
    maps: Lanes
    held: Lanes  # mappings that are flushed when cleared: a TLB may hold them
    counted: Lanes  # PTEs whose flush is deferred to the batch's
    later: Lanes  # as `held`, when unmapped again: remapping drops NUMA hints
    pmds: Lanes  # mappings by a PMD leaf, of a folio's first page
    dirty: Mask  # whether one of its entries is
    # Where nothing is shared, the entry of a driver's page is among them.
    chains: Chains


def look(
    rules: Rules, m: Machine, window: Window, put_off: Bool[Array, " mms"]
) -> PageMaps:
    """The mappings of a window's pages.

    Args:
      put_off: address spaces whose flushes are deferred (`tlb.should_defer`).
    Returns:
      int32[lanes] and bool[lanes], by base page.
    Source: page_vma_mapped_walk() in mm/page_vma_mapped.c.
    """
    row = window.page_row
    first = jnp.where(window.page == NOWHERE, NOWHERE, chain(m, row))
    zero = jnp.zeros_like(first)
    hugetlb = frame.kind(row[:, FLAGS]) == frame.HUGETLB

    def step(carry: tuple, i: Int32[Array, ""]) -> tuple:
        seen, entry = carry
        here = entry != NOWHERE
        # The entry of a driver's page is read, too: `apply._zap` needs its words.
        at = entry if m.geometry.shared else row[:, RMAP]
        old, following = xla.read(at, lambda: lanes.entry_of(m, at))
        bits = old[:, pte.BITS]
        held = here & pte.accessible(bits)
        later = here & ~pte.has(bits, pte.VM_PROT_NONE)
        counted = here & tlb.defers_entry(rules, bits)
        counted &= put_off[jnp.where(here, pte.mm_of(bits), 0)]
        pmd = zero > 0
        if window.large:
            # pmdp_invalidate() flushes even a PROT_NONE entry, which no TLB can hold.
            pmd = here & pte.has(bits, pte.HUGE)
            always = pmd & ~hugetlb
            held, later = held | always, later | always
        first_mm = jnp.where(seen.maps == 0, pte.mm_of(bits), seen.mm)
        seen = PageMaps(
            first_mm,
            seen.maps + here,
            seen.held + held,
            seen.counted + counted,
            seen.later + later,
            seen.pmds + pmd,
            seen.dirty | (here & pte.has(bits, pte.DIRTY)),
            _with(seen.chains, i, old, following),
        )
        return seen, following

    chains = _no_chains(m.geometry.shared, first)
    start = (PageMaps(zero, zero, zero, zero, zero, zero, zero > 0, chains), first)
    seen, _ = lanes.along_chains(m.geometry.shared, step, start)
    words = seen.chains.words.reshape(-1, *first.shape, 2)
    chains = dataclasses.replace(seen.chains, words=words)
    return dataclasses.replace(seen, chains=chains)


def _no_chains(shared: bool, first: Lanes) -> Chains:
    """No entries yet; a row of words holds those of all lanes one behind the other.

    XLA:CPU would fill rows of two words ten times as slowly.
    """
    # One more row, for entries that are not kept.
    depth, count = DEPTH + 1 if shared else 1, first.shape[0]
    none = jnp.zeros((depth, count), jnp.int32)
    words = jnp.zeros((depth, 2 * count), jnp.int32)
    return Chains(words, none if shared else None)


def _with(
    chains: Chains, i: Int32[Array, ""], words: Int32[Array, "lanes 2"], behind: Lanes
) -> Chains:
    """The chains with the entries at place `i`."""
    if chains.following is None:
        return Chains(words[None], None)
    at = jnp.minimum(i, DEPTH)
    words = xla.put(chains.words, at, words.reshape(-1))
    return Chains(words, xla.put(chains.following, at, behind))


def chain(m: Machine, row: Int32[Array, "lanes 4"]) -> Lanes:
    """First entries of the pages' rmap chains; a driver's page (no rmap) has none."""
    if m.conditions is None:
        return row[:, RMAP]
    movable = frame.kind(row[:, FLAGS]) == frame.MOVABLE_OPS
    return jnp.where(movable, NOWHERE, row[:, RMAP])


@pytree
class FolioMaps:
    """What the page tables say of each folio."""

    maps: Lanes
    dirty: Mask  # the folio, or one of its entries


def of_folios(m: Machine, window: Window, seen: PageMaps) -> FolioMaps:
    """The mappings of a window's folios, from those of their pages."""
    flagged = frame.has(window.flags, frame.DIRTY)
    if not window.large:
        return FolioMaps(seen.maps, flagged | seen.dirty)
    if m.geometry.shared:
        dirty = window.total(seen.dirty.astype(jnp.int32)) > 0
        return FolioMaps(window.total(seen.maps), flagged | dirty)
    # A page has one mapping at most: each sum fits 16 bits.
    both = window.total(seen.maps | seen.dirty.astype(jnp.int32) << 16)
    return FolioMaps(both & 0xFFFF, flagged | (both >> 16 > 0))
