"""Contents that differ from page to page, made on the device.

Word w of frame f is a mixed hash of (f, w): two pages differ in nearly all words, so a
copy from or to the wrong frame cannot go unnoticed.
"""

import functools
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from jaxmig.state.machine import WORDS

WORTH: Final = 1 << 28  # bytes; fewer are made faster than `_refill` is compiled


def page_of(ids: UInt32[Array, " pages"]) -> UInt32[Array, "pages 1024"]:
    """The contents of a page for each number (mixing steps of MurmurHash3)."""
    words = jnp.arange(WORDS, dtype=jnp.uint32)
    x = ids[:, None] * np.uint32(0x9E3779B9) + words[None, :] * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 16)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 13)


@functools.partial(jax.jit, static_argnums=0)
def _fill(frames: int) -> UInt32[Array, "frames 1024"]:
    return page_of(jnp.arange(frames, dtype=jnp.uint32))


# Donated for its buffer: the result is written there, whatever it held.
@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _refill(memory: UInt32[Array, "frames 1024"]) -> UInt32[Array, "frames 1024"]:
    return page_of(jnp.arange(memory.shape[0], dtype=jnp.uint32))


_left: list[UInt32[Array, "frames 1024"]] = []


def leave(memory: UInt32[Array, "frames 1024"] | None) -> None:
    """Keep memory that is no longer needed for the next fresh() of the same size.

    The first touch of a host page costs as much as four writes of it.  None drops what
    an earlier call left.
    """
    _left[:] = [] if memory is None or memory.nbytes < WORTH else [memory]


def fresh(frames: int) -> UInt32[Array, "frames 1024"]:
    """Memory in which every frame holds the contents of its own number."""
    left = _left.pop() if _left else None
    if left is None or left.shape[0] != frames:
        return _fill(frames)
    return _refill(left)
