"""Whether every virtual page still holds what it held: word by word, on the device.

A fresh machine fills each frame with contents made from its number (contents.py), so
the frame that a page began on says what the page must hold, and no copy is needed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt32

from jaxmig.contents import page_of
from jaxmig.machine import NOWHERE, Machine

CHUNK = 512  # pages compared at a time: 2 MiB


def mismatches(m: Machine, before: np.ndarray, after: np.ndarray) -> int:
    """Virtual pages that lost their frame or hold other contents than at the start.

    Args:
      before, after: frames behind each virtual page, NOWHERE for none.
    """
    if m.memory is None:
        raise ValueError("a machine without contents")
    had = before != NOWHERE
    lost = int((had & (after == NOWHERE)).sum())
    kept = had & (after != NOWHERE)
    old, new = _padded(before[kept]), _padded(after[kept])
    pages = int(kept.sum())
    right = int(_equal(m.memory, old, new, jnp.int32(pages)))
    return lost + pages - right


def _padded(pfns: np.ndarray) -> Array:
    chunks = max(-(-pfns.size // CHUNK), 1)
    room = np.zeros(CHUNK << (chunks - 1).bit_length(), np.int32)
    room[: pfns.size] = pfns
    return jnp.asarray(room)


@functools.partial(jax.jit)
def _equal(
    memory: UInt32[Array, "frames 1024"],
    old: Int32[Array, " pages"],
    new: Int32[Array, " pages"],
    pages: Int32[Array, ""],
) -> Int32[Array, ""]:
    """How many of the first `pages` frames of `new` hold what was made for `old`."""

    def one(i: Any, right: Any) -> Any:
        at = i * CHUNK
        here = jax.lax.dynamic_slice_in_dim(new, at, CHUNK)
        made = jax.lax.dynamic_slice_in_dim(old, at, CHUNK)
        same = (memory[here] == page_of(made.astype(jnp.uint32))).all(axis=1)
        return right + (same & (at + jnp.arange(CHUNK) < pages)).sum(dtype=jnp.int32)

    chunks = (pages + np.int32(CHUNK - 1)) // np.int32(CHUNK)
    return jax.lax.fori_loop(0, chunks, one, jnp.int32(0))
