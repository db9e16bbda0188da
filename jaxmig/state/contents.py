"""Contents that tell every page from every other, made on the device.

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

WORTH: Final = 1 << 28  # bytes; for fewer compiling one more program takes longer


def page_of(ids: UInt32[Array, " pages"]) -> UInt32[Array, "pages 1024"]:
    """The contents that stand for each number (mixing steps of MurmurHash3)."""
    words = jnp.arange(WORDS, dtype=jnp.uint32)
    x = ids[:, None] * np.uint32(0x9E3779B9) + words[None, :] * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 16)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 13)


@functools.partial(jax.jit, static_argnums=0)
def _fill(frames: int) -> UInt32[Array, "frames 1024"]:
    return page_of(jnp.arange(frames, dtype=jnp.uint32))


# The array takes the place of the one that is given away, whatever that holds.
@functools.partial(jax.jit, donate_argnums=0, keep_unused=True)
def _refill(memory: UInt32[Array, "frames 1024"]) -> UInt32[Array, "frames 1024"]:
    return page_of(jnp.arange(memory.shape[0], dtype=jnp.uint32))


_left: list[UInt32[Array, "frames 1024"]] = []


def leave(memory: UInt32[Array, "frames 1024"] | None) -> None:
    """Give memory away, or None for what was left and not taken.

    The next fresh() takes it if it is as large: the first touch of a page costs as much
    as four writes of it.
    """
    _left[:] = [] if memory is None or memory.nbytes < WORTH else [memory]


def fresh(frames: int) -> UInt32[Array, "frames 1024"]:
    """Memory in which every frame holds the contents of its own number."""
    left = _left.pop() if _left else None
    if left is None or left.shape[0] != frames:
        return _fill(frames)
    return _refill(left)
