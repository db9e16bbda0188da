"""The invariants of a machine between two calls, as a bit mask and as sentences.

violations(m)  --> int32: one bit for each invariant that is broken; jitted
explain(mask)  --> the sentences of those bits, on the host

Two of them compare with an earlier state: a `Ledger` has the pages of every node, free or
in use, and the references that no rule explains (those of a real process).
"""

from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxmig.linux.folio import pin_refs
from jaxmig.state import conditions as cond, frame, pte
from jaxmig.state.frame import FLAGS, MAPCOUNT, REFCOUNT, RMAP
from jaxmig.state.machine import BLANK, NOWHERE, Machine, Tlb
from jaxmig.state.pte import BITS, PFN
from jaxmig.state.pytree import pytree

SENTENCES: Final = (
    "a TLB holds a translation that the page table no longer gives",
    "a frame is on a free stack twice, or both on one and in use",
    "a frame is neither in use nor on a free stack",
    "a free frame still has references, flags or mappings",
    "a folio's head and tails disagree",
    "an entry maps a frame that is free, or not where a leaf may begin",
    "a folio's references are not those of its mappings, cache and holders",
    "a mapcount is not the number of entries that map the frame",
    "a reverse-map chain is not the list of the entries that map the frame",
    "an exclusive page is mapped more than once",
    "a migration entry, a lock or a put-off flush outlived its call",
    "a node's free and used pages do not add up to what it had",
)
(
    STALE_TLB,
    FREE_TWICE,
    LOST,
    NOT_BLANK,
    TORN,
    BAD_ENTRY,
    REFERENCES,
    MAPCOUNTS,
    CHAINS,
    EXCLUSIVE,
    NOT_AT_REST,
    MEMORY,
) = (1 << i for i in range(len(SENTENCES)))

Frames = Int32[Array, " frames"]
Mask = Bool[Array, " frames"]


@pytree
class Ledger:
    """Totals that no call may change."""

    pages: Int32[Array, " nodes"]  # base pages free or in use (hugetlb has its own)
    unexplained: Int32[Array, ""]  # references that no condition stands for


@jax.jit
def ledger(m: Machine) -> Ledger:
    """The ledger of a machine, to be compared with later."""
    g, flags = m.geometry, m.frame[:, FLAGS]
    kind = frame.kind(flags)
    used = (kind != frame.FREE) & (kind != frame.HUGETLB)
    by_node = used.reshape(g.nodes, g.frames_per_node).sum(axis=1, dtype=jnp.int32)
    return Ledger(m.nfree + by_node, jnp.where(_heads(m), _surplus(m), 0).sum())


@jax.jit
def violations(m: Machine, before: Ledger | None = None) -> Int32[Array, ""]:
    """Bits of the invariants that do not hold.

    Args:
      before: the ledger of an earlier state.  Without it every reference must be
        explained, and the amount of memory is not checked.
    """
    bits, pfn = m.pte[:, BITS], m.pte[:, PFN]
    # Entries that map a folio, or stand for one that is migrating.
    live = pte.has(bits, pte.PRESENT | pte.MIGRATION) & ~pte.has(bits, pte.ZERO_PAGE)
    none = jnp.zeros(m.frame.shape[0], jnp.int32)
    counts = none.at[jnp.where(live, pfn, NOWHERE)].add(1, mode="drop")
    mine = live & pte.has(bits, pte.EXCLUSIVE)
    broken = {
        STALE_TLB: _stale(m, m.tlb) | _stale(m, m.huge_tlb),
        TORN: _torn(m),
        BAD_ENTRY: _bad_entries(m, live, pfn),
        MAPCOUNTS: (m.frame[:, MAPCOUNT] != counts).any(),
        CHAINS: _bad_chains(m, counts),
        EXCLUSIVE: (mine & (counts[jnp.where(live, pfn, 0)] != 1)).any(),
        NOT_AT_REST: _not_at_rest(m),
    }
    broken |= _stacks(m) | _books(m, before)
    mask = [jnp.where(is_, bit, 0) for bit, is_ in broken.items()]
    return jnp.stack(mask).sum(dtype=jnp.int32)


def _heads(m: Machine) -> Mask:
    flags = m.frame[:, FLAGS]
    return (frame.kind(flags) != frame.FREE) & ~frame.has(flags, frame.TAIL)


def _block(m: Machine) -> tuple[Frames, Frames]:
    """First frame of the pool block that each frame lies in, and the block's order."""
    g = m.geometry
    f = jnp.arange(g.frames, dtype=jnp.int32)
    offset = f % np.int32(g.frames_per_node)
    start, order = f, f * 0
    for k, o in enumerate(g.orders):
        first = g.pool_start(k)
        inside = offset >= first
        start = jnp.where(inside, f - (offset - first) % np.int32(1 << o), start)
        order = jnp.where(inside, o, order)
    return start, order


def _stacks(m: Machine) -> dict[int, Bool[Array, ""]]:
    """Each frame must be free or in use, and not both."""
    g = m.geometry
    slot = jnp.arange(g.slots_per_node)
    pool = sum(
        (slot >= g.stack_start(k)).astype(jnp.int32) for k in range(len(g.orders))
    )
    starts = jnp.asarray([g.stack_start(k) for k in range(len(g.orders))])
    height = jnp.take(m.top, pool - 1, axis=1)
    full = (slot - starts[pool - 1] < height).reshape(-1)
    heads = jnp.where(full, m.free, NOWHERE)
    times = jnp.zeros(g.frames, jnp.int32).at[heads].add(1, mode="drop")
    start, order = _block(m)
    flags = m.frame[:, FLAGS]
    used, times = frame.kind(flags) != frame.FREE, times[start]
    # The block of a split folio is never allocated again, as its pieces may be in use.
    whole = used & (frame.order(flags) > 0)
    intact = jnp.zeros_like(whole).at[jnp.where(whole, start, NOWHERE)]
    split = (order > 0) & ~intact.set(True, mode="drop")[start]
    blank = jnp.asarray(BLANK, jnp.int32)
    return {
        FREE_TWICE: ((times > 1) | (used & (times > 0))).any(),
        LOST: (~used & (times == 0) & ~split).any(),
        NOT_BLANK: (~used & (m.frame != blank).any(axis=1)).any(),
    }


def _torn(m: Machine) -> Bool[Array, ""]:
    """Tails without a matching head, or a head without all its tails."""
    flags = m.frame[:, FLAGS]
    f = jnp.arange(flags.shape[0], dtype=jnp.int32)
    start, pool = _block(m)
    order, tail = frame.order(flags), frame.has(flags, frame.TAIL)
    large = order > 0
    inside = f - start
    head = jnp.where(large, f - inside % (1 << order), f)
    same = ((flags[head] ^ flags) & (frame.ORDER | frame.KIND)) == 0
    right = (tail == (f != head)) & same & (order <= pool)
    used = frame.kind(flags) != frame.FREE
    # Counting shows whether all tails of a large folio are there.
    size = jnp.zeros_like(f).at[head].add(used & large)
    short = large & ~tail & (size != 1 << order)
    return (used & ~right).any() | short.any()


def _bad_entries(m: Machine, live: Array, pfn: Array) -> Bool[Array, ""]:
    inside = (pfn >= 0) & (pfn < m.frame.shape[0])
    flags = m.frame[jnp.where(live & inside, pfn, 0), FLAGS]
    huge = jnp.arange(live.shape[0]) >= m.geometry.ptes
    leaf = (frame.order(flags) == frame.PMD_ORDER) & ~frame.has(flags, frame.TAIL)
    wrong = (frame.kind(flags) == frame.FREE) | (huge & ~leaf)
    return (live & (wrong | ~inside)).any()


def _bad_chains(m: Machine, counts: Frames) -> Bool[Array, ""]:
    """Chains that do not have one entry for each mapping, all of the chain's frame.

    All chains are walked in lockstep.
    """
    f = jnp.arange(counts.shape[0], dtype=jnp.int32)
    longest = counts.max()
    used = frame.kind(m.frame[:, FLAGS]) != frame.FREE
    first = jnp.where(used, m.frame[:, RMAP], NOWHERE)

    def go_on(carry: tuple[Array, Array, Array, Array]) -> Array:
        return (carry[0] != NOWHERE).any() & (carry[2] <= longest)

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple:
        entry, length, n, bad = carry
        here = entry != NOWHERE
        safe = jnp.where(here, entry, 0)
        word = m.pte[safe]
        maps = pte.has(word[:, BITS], pte.PRESENT | pte.MIGRATION)
        bad = bad | (here & ~(maps & (word[:, PFN] == f))).any()
        # Without shared pages the next entries are neither kept nor read.
        following = m.rmap_next[safe] if m.geometry.shared else safe * 0 + NOWHERE
        return jnp.where(here, following, NOWHERE), length + here, n + 1, bad

    start = (first, f * 0, jnp.int32(0), jnp.asarray(False))
    _, length, _, bad = jax.lax.while_loop(go_on, step, start)
    return bad | (length != counts).any()


def _not_at_rest(m: Machine) -> Bool[Array, ""]:
    busy = frame.LOCKED | frame.UNMAPPED | frame.FLUSHED
    entries = pte.has(m.pte[:, BITS], pte.MIGRATION).any()
    return entries | frame.has(m.frame[:, FLAGS], busy).any() | m.cpus.pending.any()


def _surplus(m: Machine) -> Frames:
    """References of each head beyond what mappings, cache and conditions explain."""
    flags = m.frame[:, FLAGS]
    f = jnp.arange(flags.shape[0], dtype=jnp.int32)
    start, _ = _block(m)
    head = jnp.where(frame.order(flags) > 0, start, f)
    maps = jnp.zeros_like(f).at[head].add(m.frame[:, MAPCOUNT])
    known = maps + frame.cache_refs(flags)
    if m.conditions is not None:
        _, marks = cond.unpack(m.conditions)
        known += marks >> cond.EXTRA_SHIFT
        known += jnp.where((marks & cond.PIN_HELD) != 0, pin_refs(m.frame[:, FLAGS]), 0)
    return m.frame[:, REFCOUNT] - known


def _books(m: Machine, before: Ledger | None) -> dict[int, Bool[Array, ""]]:
    """References and memory, against the ledger."""
    heads, surplus, now = _heads(m), _surplus(m), ledger(m)
    wanted = 0 if before is None else before.unexplained
    tails = ~heads & (m.frame[:, REFCOUNT] != 0)
    wrong = (heads & (surplus < 0)).any() | tails.any() | (now.unexplained != wanted)
    short = (m.nfree < 0).any()
    if before is not None:
        short |= (now.pages != before.pages).any()
    return {REFERENCES: wrong, MEMORY: short}


def _stale(m: Machine, tlb: Tlb) -> Bool[Array, ""]:
    """Stale translations on CPUs that could use them.

    A lazy CPU with an old generation flushes its TLB before it can.
    """
    c = m.cpus
    loaded = jnp.clip(c.mm, 0, c.mm_gen.shape[0] - 1)
    lags = c.lazy & (c.gen != c.mm_gen[loaded])
    ways = tlb.entry.shape[1] // lags.shape[0]
    used = (tlb.entry != NOWHERE) & ~jnp.repeat(lags, ways)[None]
    now = m.pte[jnp.where(used, tlb.entry, 0)]
    same = now[..., PFN] == tlb.pfn
    rights = pte.has(tlb.bits, pte.WRITE) & ~pte.has(now[..., BITS], pte.WRITE)
    return (used & (~pte.accessible(now[..., BITS]) | ~same | rights)).any()


def explain(mask: int) -> list[str]:
    """The sentences of a mask.  Host only."""
    return [s for i, s in enumerate(SENTENCES) if int(mask) >> i & 1]
