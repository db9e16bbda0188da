"""Reading and writing state in compiled loops without copying it.

XLA:CPU copies a whole array at every trip of a loop that reads one carried array to
write another, because fusion may move the read past the write.  A conditional is a wall
that fusion does not cross: all reads of a trip go inside one, then come the writes.
The predicate must be one that XLA cannot fold to a constant.

A conditional that WRITES state copies it too; a loop of at most one trip does not.

Each operation of a loop is dispatched on its own, which costs half a microsecond: a loop
of short trips is better compiled as one function.
"""

import inspect
import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, Int32

T = TypeVar("T")
WHOLE_LOOP: Final = 1 << 17  # bytes that a trip may touch
KNOWING: Final = ("0.10.",)  # versions of jaxlib with which the option was tried
# jax 0.6 can only mark all that is traced inside, which is too much.
MARKS: Final = "x" in inspect.signature(set_xla_metadata).parameters
_OPTION: Final = "xla_cpu_small_while_loop_byte_threshold"


def compile_loops_whole() -> None:
    """Have XLA:CPU make one function of a loop whose trips touch little.

    Otherwise each operation of a trip is dispatched on its own, which costs a serial
    migration more than the operations do.  This is a setting of the process, for those
    that own theirs, before JAX compiles anything; one that the user has made stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # A jaxlib that does not know the option would end the process.
    known = jaxlib.__version__.startswith(KNOWING)
    if known and "xla_backend_extra_options" not in flags:
        option = f"--xla_backend_extra_options={_OPTION}={WHOLE_LOOP}"
        os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()


def whole(f: Callable[..., T], *args: Any) -> T:
    """`f(*args)`, of which XLA:CPU makes one function, run by one thread.

    `f` must not scatter, and what it returns must depend on every argument: XLA ends
    the process over one that its simplifications leave unused.  An XLA that does not
    know the attributes dispatches operation by operation: slower, and the same.
    """

    def on_cpu(*args: Any) -> T:
        return jax.tree.map(_marked, jax.jit(f)(*args))

    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=f)


def _marked(result: Array) -> Array:
    """`result` of a call that XLA:CPU shall compile as it is."""
    if not MARKS:
        return result
    # A call that is inlined would lose its attributes.
    marked: Any = set_xla_metadata(
        result, xla_cpu_small_call="true", inlineable="false"
    )
    return marked


def read(witness: Int32[Array, "..."], reads: Callable[[], T]) -> T:
    """`reads()` behind a wall; `witness` is any index it uses, never negative."""
    shapes = jax.eval_shape(reads)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(jnp.ravel(witness)[0] >= 0, reads, lambda: zeros)


def when(pred: Bool[Array, ""], change: Callable[[T], T], state: T) -> T:
    """`change(state)` if `pred` else `state`, in place."""

    def once(carry: tuple[Any, T]) -> tuple[Any, T]:
        return jnp.asarray(False), change(carry[1])

    return jax.lax.while_loop(lambda c: c[0], once, (jnp.asarray(pred), state))[1]


def after(
    value: Int32[Array, "*n"], witness: Int32[Array, "..."]
) -> Int32[Array, "*n"]:
    """`value`, known only once `witness` (never negative) has been read.

    A write whose index or data does not depend on an earlier read of the same array
    could come first; to be safe XLA would copy the array.
    """
    return value + (jnp.ravel(witness)[0] >> 31)


def put(array: Array, index: Int32[Array, ""], row: Array) -> Array:
    """`array` with one row replaced; `index` must be inside (slices clamp)."""
    start = (index,) + (0,) * (array.ndim - 1)
    return jax.lax.dynamic_update_slice(array, row[None].astype(array.dtype), start)


def add(array: Array, index: Int32[Array, ""], amount: Int32[Array, "..."]) -> Array:
    """`array` with `amount` added to one row."""
    return put(array, index, array[index] + amount)
