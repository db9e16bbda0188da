"""Contents on an NVIDIA GPU: one kernel copies each page from its old to its new frame.

XLA gathers pages into a buffer and scatters them from it, which reads and writes every
byte twice.  Here each program of the grid reads one page into registers and writes it:
2.5 TB/s of the 2.8 that a copy in one piece reaches on an H100.

Source: folio_copy(), copy_highpage() in mm/util.c and include/linux/highmem.h.
"""

from typing import Any, Final

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from jaxmig.state.lanes import Lanes
from jaxmig.state.machine import WORDS

# Triton's options; jax 0.6 has them under the second name.
NAMES: Final = ("CompilerParams", "TritonCompilerParams")
OPTIONS: Final[Any] = next(getattr(triton, n) for n in NAMES if hasattr(triton, n))
WARPS: Final = 2  # of a program: 1 to 8 were equally fast


def copy_pages(memory: Array, src: Lanes, dst: Lanes, interpret: bool = False) -> Array:
    """`memory` with pages `src` copied to `dst`; in place where the caller is done with it.

    Frames that are copied are none of those that are written, so that programs may run in
    any order.

    Args:
      memory: uint32[frames, 1024].
      src, dst: int32[lanes]; NOWHERE in `dst`: nothing is copied.
      interpret: run by JAX operations, on any device.
    Returns:
      uint32[frames, 1024].
    """
    whole = pl.BlockSpec(memory_space=pl.ANY)
    copied: Any = pl.pallas_call(
        _copy_page,
        grid=(src.shape[0],),
        in_specs=[whole] * 3,
        out_specs=whole,
        out_shape=jax.ShapeDtypeStruct(memory.shape, memory.dtype),
        input_output_aliases={2: 0},
        compiler_params=None if interpret else OPTIONS(num_warps=WARPS),
        interpret=interpret,
        name="folio_copy",
    )
    return copied(src, dst, memory)


def _copy_page(src: Any, dst: Any, memory: Any, out: Any) -> None:
    lane = pl.program_id(0)
    here, there = src[lane], dst[lane]

    @pl.when(there < memory.shape[0])
    def _() -> None:
        out[there, pl.ds(0, WORDS)] = memory[here, pl.ds(0, WORDS)]
