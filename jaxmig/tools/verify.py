"""Compares the contents of every virtual page, word by word, on the device.

A fresh machine fills each frame with contents made from its number (contents.py).  So a
page's first frame determines its contents, and no copy of them is needed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

from jaxmig.state import pte, xla
from jaxmig.state.contents import page_of
from jaxmig.state.machine import NOWHERE, PMD_PAGES, Machine

CHUNK = 512  # pages compared at a time: 2 MiB

Frames = Int32[np.ndarray, " pages"]


def frames(m: Machine) -> Frames:
    """The frame behind each virtual page of all processes; NOWHERE if there is none.

    A virtual page is the number of its PTE; pages below a PMD leaf have one too.
    """
    entry = np.asarray(m.pte)
    n = m.geometry.ptes
    present = (entry[:, pte.BITS] & pte.PRESENT) != 0
    found = np.where(present[:n], entry[:n, pte.PFN], NOWHERE).astype(np.int32)
    leaves = np.flatnonzero(present[n:])
    if leaves.size:
        first = np.asarray(m.pmd_table)[leaves]
        inside = np.arange(PMD_PAGES, dtype=np.int32)
        pages = (first[:, None] + inside).ravel()
        found[pages] = (entry[n + leaves, pte.PFN][:, None] + inside).ravel()
    return found


def mismatches(m: Machine, before: Frames) -> int:
    """Virtual pages that have lost their frame, or have other contents than at first.

    Args:
      before: frames() of the machine when it was fresh.
    """
    if m.memory is None:
        raise ValueError("a machine without contents")
    after = frames(m)
    had = before != NOWHERE
    kept = had & (after != NOWHERE)
    pages = int(kept.sum())
    old, new = _padded(before[kept]), _padded(after[kept])
    right = int(_equal(m.memory, old, new, jnp.int32(pages)))
    return int(had.sum()) - right


def _padded(pfns: Frames) -> Array:
    """The frames padded to a rounded length, so that few lengths are compiled."""
    chunks = max(-(-pfns.size // CHUNK), 1)
    room = np.zeros(CHUNK << (chunks - 1).bit_length(), np.int32)
    room[: pfns.size] = pfns
    return xla.upload(room)


@jax.jit
def _equal(
    memory: UInt32[Array, "frames 1024"],
    old: Int32[Array, " pages"],
    new: Int32[Array, " pages"],
    pages: Int32[Array, ""],
) -> Int32[Array, ""]:
    """How many of the first `pages` frames of `new` have the contents made for `old`."""

    def one(i: Any, right: Any) -> Any:
        at = i * CHUNK
        here = jax.lax.dynamic_slice_in_dim(new, at, CHUNK)
        made = jax.lax.dynamic_slice_in_dim(old, at, CHUNK)
        same = (memory[here] == page_of(made.astype(jnp.uint32))).all(axis=1)
        return right + (same & (at + jnp.arange(CHUNK) < pages)).sum(dtype=jnp.int32)

    chunks = (pages + np.int32(CHUNK - 1)) // np.int32(CHUNK)
    return jax.lax.fori_loop(0, chunks, one, jnp.int32(0))
