"""Splitting a large folio into base pages, when it cannot be moved whole.

An anonymous folio's pages stay mapped, each by a PTE of its own.  The pages of a file
or shmem folio are unmapped, and mapped again by later faults.  What becomes of the
entries is in `entry.py`; here are the frames' rows.

Source: split_huge_page_to_list(), unmap_folio(), can_split_folio() in mm/huge_memory.c,
try_split_folio() in mm/migrate.c, Linux 6.3 to 6.18.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.call import CallState
from jaxmig.linux.phases.copypage import blank
from jaxmig.linux.rules import Rules
from jaxmig.state import frame, pte, xla
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT, RMAP
from jaxmig.state.machine import NOWHERE, Geometry

Index = Int32[Array, ""]
Flag = Bool[Array, ""]
Rows = Int32[Array, "frames 4"]


def mappings(rows: Rows, head: Index, pages: Index) -> tuple[Index, Index]:
    """How many entries map a folio, and how many of its pages are zeros; 0 pages: none."""

    def page(i: Index, total: tuple[Index, Index]) -> tuple[Index, Index]:
        row = xla.read(i, lambda: xla.row(rows, head + i))
        return total[0] + row[MAPCOUNT], total[1] + frame.is_empty(row[FLAGS])

    return jax.lax.fori_loop(0, pages, page, (jnp.int32(0), jnp.int32(0)))


def leaves_of(
    geometry: Geometry, following: Array, entries: Array, first: Index, when: Flag
) -> Index:
    """PMD leaves that map a folio.

    Args:
      following: int32[entries], Machine.rmap_next.
      entries: int32[entries, 2], Machine.pte.
      first: int32, the first entry of its head's chain.
      when: if not, the chain is not read.
    Returns:
      int32; 0 on machines where no folio has two of them.
    """
    if not geometry.shares_pmds:
        return jnp.int32(0)

    def step(carry: tuple[Index, Index]) -> tuple[Index, Index]:
        entry, n = carry
        words, after = xla.read(
            entry, lambda: (xla.row(entries, entry), xla.row(following, entry))
        )
        return after, n + pte.has(words[pte.BITS], pte.HUGE)

    start = (jnp.where(when, first, NOWHERE), jnp.int32(0))
    return jax.lax.while_loop(lambda c: c[0] != NOWHERE, step, start)[1]


def loses_one_leaf(rules: Rules, flags: Index, leaves: Index) -> Flag:
    """Whether a split only splits the first of a folio's PMD leaves, and then fails.

    try_to_migrate_one() of these releases ends the walk there; file folios go through
    try_to_unmap().
    """
    return rules.splits_one_shared_pmd & frame.is_anon(flags) & (leaves > 1)


def maps_zeros(rules: Rules, flags: Index) -> Flag:
    """Whether pieces of zeros are mapped to the zero page: try_to_map_unused_to_zeropage().

    Not in VM_LOCKED areas.
    """
    locked = frame.has(flags, frame.MLOCKED)
    return rules.zero_pieces & frame.is_anon(flags) & ~locked


def piece_rows(
    rows: Rows, head: Index, flags: Index, pages: Index, zeros: Flag
) -> Rows:
    """Rows of the pieces: base pages with the references their mappings give them.

    Args:
      rows: int32[frames, 4].
      head, flags: int32, the folio's head frame and flags.
      pages: int32, its base pages; 0: nothing happens.
      zeros: whether pieces of zeros are mapped to the zero page, see `maps_zeros`.
    Returns:
      int32[frames, 4].
    Source: __split_huge_page_tail(), __split_huge_page() in mm/huge_memory.c.
    """
    stays = frame.is_anon(flags)
    # Flags of the large folio that its base pages do not inherit.
    gone = frame.ORDER | frame.TAIL | frame.PRIVATE | frame.SPLIT_QUEUED
    gone |= frame.TAILS_MAPPED
    folio = flags & ~(gone | frame.ZERO | frame.POISONED | frame.HURT)
    cached = frame.cache_refs(folio)

    def piece(index: Index, rows: Rows) -> Rows:
        old = xla.read(index, lambda: xla.row(rows, head + index))
        own = old[FLAGS] & (frame.ZERO | frame.POISONED)
        # A piece is its own head: HURT is set if that page is poisoned.
        own |= jnp.where(frame.has(own, frame.POISONED), frame.HURT, 0)
        mapped = stays & ~(zeros & frame.is_empty(own))
        maps = jnp.where(mapped, old[MAPCOUNT], 0)
        chain = jnp.where(mapped, old[RMAP], NOWHERE)
        bits = folio | own
        row = jnp.stack([maps + cached, maps, bits, chain])
        return xla.put(rows, head + index, row)

    return jax.lax.fori_loop(0, pages, piece, rows)


def put_back_zeros(call: CallState) -> CallState:
    """Free pieces of zeros that no pass has tried, at the end of a call.

    -ENOMEM may end a call, or the list of pieces, before their turn.  No entry maps them:
    they are freed when the caller drops the list's reference.
    """
    m, g = call.m, call.m.geometry
    if g.orders == (0,):
        return call

    def put_back(carry: tuple[Rows, Array]) -> tuple[Rows, Array]:
        rows, nfree = carry

        def unmapped() -> Array:
            flags = rows[:, FLAGS]
            gone = frame.is_empty(flags) & (rows[:, REFCOUNT] == 0)
            used = frame.kind(flags) != frame.FREE
            return gone & used & ~frame.has(flags, frame.TAIL)

        gone = xla.read(nfree, unmapped)
        pages = gone.reshape(g.nodes, -1).sum(axis=1, dtype=jnp.int32)
        index = jnp.where(gone, jnp.arange(rows.shape[0]), NOWHERE)
        return rows.at[index].set(blank(1)[0], mode="drop"), nfree + pages

    # Nearly all calls leave no piece behind, and do not read the table of frames.
    some = (call.error != 0) | ((call.stats.split > 0) & (call.remaining > 0))
    rows, nfree = xla.when(some, put_back, (m.frame, m.nfree))
    return call.set(m=dataclasses.replace(m, frame=rows, nfree=nfree))


def pieces_of(geometry: Geometry, head: Index) -> Index:
    """How many pieces a split folio became: its frame lies in the pool of its old order."""
    offset = head % geometry.frames_per_node
    order = jnp.int32(0)
    for i, o in enumerate(geometry.orders):
        order = jnp.where(offset >= geometry.pool_start(i), o, order)
    return jnp.int32(1) << order
