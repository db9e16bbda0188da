"""Contents that tell every page from every other, made on the device.

Word w of frame f is a mixed hash of (f, w): two pages differ in nearly all words, so a
copy from or to the wrong frame cannot go unnoticed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from jaxmig.machine import WORDS


def page_of(ids: UInt32[Array, " pages"]) -> UInt32[Array, "pages 1024"]:
    """The contents that stand for each number (mixing steps of MurmurHash3)."""
    words = jnp.arange(WORDS, dtype=jnp.uint32)
    x = ids[:, None] * np.uint32(0x9E3779B9) + words[None, :] * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 16)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 13)


@jax.jit
def _fill(ids: UInt32[Array, " pages"]) -> UInt32[Array, "pages 1024"]:
    return page_of(ids)


def fresh(frames: int) -> UInt32[Array, "frames 1024"]:
    """Memory in which every frame holds the contents of its own number."""
    return _fill(jnp.arange(frames, dtype=jnp.uint32))
