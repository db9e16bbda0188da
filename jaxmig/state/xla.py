"""All that depends on how XLA works: loops without copies, marks, compilation.

XLA:CPU copies a whole array in every iteration of a loop that reads one carried array to
write another, because fusion may move the read past the write.  Fusion does not cross a
conditional: all reads of an iteration go inside one, then come the writes.  The predicate
must be one that XLA cannot fold to a constant.  A conditional that WRITES state copies
it too; a loop of at most one iteration does not.

XLA:CPU dispatches each operation of a loop separately, which costs half a microsecond: a
loop of short iterations is better compiled as one function.  The attribute that asks for
it (a mark) is private to XLA, so it is set only while jaxmig itself compiles (`Program`),
only for the jaxlibs in TESTED, and a compilation that fails is repeated without.  Inside
the user's own `jax.jit` there are no marks, nor Pallas kernels, which not every GPU can
run.
"""

import collections
import contextlib
import contextvars
import functools
import importlib
import inspect
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Bool, Int32

from jaxmig.host import busy

T = TypeVar("T")
# Versions of jaxlib whose twin tests (tests/test_lanes.py) pass with marks and options on
# ("tricks"), each with the quick options that the others lack: from 0.11 on XLA:CPU has no
# emitters but those that fuse.
TESTED: Final[dict[str, dict[str, Any]]] = {
    "0.10.2": {"xla_cpu_use_fusion_emitters": False},
    "0.11.2": {},
    "0.12.0.1": {},
}
WHOLE_LOOP: Final = 1 << 17  # bytes that an iteration may touch
# XLA:CPU makes three operations of a reduction, of which two read windows of 32 numbers:
# one loop is faster, and compiles sooner.
SPLITS_SUMS: Final = "tree_reduction_rewriter"
CPU_OPTIONS: Final[dict[str, Any]] = {
    "xla_cpu_prefer_vector_width": 512,  # bits, if the CPU has them
    "xla_disable_hlo_passes": SPLITS_SUMS,
}
# A program on few rows takes longer to optimize than to run.
SHORT: Final = 1 << 16  # rows of all arrays
FEW: Final = 1 << 14  # base pages that a call works on, if the arrays are longer
FEW_BYTES: Final = 1 << 24  # of the machine's arrays
# What these passes do to loops takes a third of the compilation, and such a program is
# no slower without.  Dealt among threads in pieces, each of which repeats what all of them
# share, it takes longer and more mappings.
QUICK_OPTIONS: Final[dict[str, Any]] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_disable_hlo_passes": (
        f"while-loop-invariant-code-motion,simplify-while-loops,{SPLITS_SUMS}"
    ),
}
ALIGNED: Final = 64  # bytes
FEW_TURNS: Final = 2  # of a loop, sooner taken than asked for
# jaxlib 0.6.0 runs a program that it reads back from JAX's compilation cache wrongly: pages
# are not copied.  Those up to 0.9 have not been tried.  JAX asks once a process whether to
# use it: the one setting that is changed on import.
CAN_KEEP: Final = tuple(map(int, jaxlib.__version__.split(".")[:2])) >= (0, 10)
if not CAN_KEEP:
    jax.config.update("jax_enable_compilation_cache", False)
_OPTION: Final = "xla_cpu_small_while_loop_byte_threshold"
# jax 0.6 can only mark all that is traced inside, which is too much.
_CAN_MARK: Final = "x" in inspect.signature(set_xla_metadata).parameters
_tricks: contextvars.ContextVar[bool] = contextvars.ContextVar("tricks", default=False)
_kernels: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "kernels", default=False
)
_short: contextvars.ContextVar[bool] = contextvars.ContextVar("short", default=False)


def known() -> bool:
    """Whether the tricks are tested with this jaxlib."""
    return jaxlib.__version__ in TESTED and _CAN_MARK


@contextlib.contextmanager
def tricks(on: bool, gpu: bool = False, short: bool = False) -> Iterator[None]:
    """Trace with the tricks, if they are tested, or without.

    Args:
      gpu: for a GPU.
      short: for less work than the compilation is.
    """
    values = {_tricks: on and known(), _kernels: on and gpu, _short: short}
    tokens = {variable: variable.set(value) for variable, value in values.items()}
    try:
        yield
    finally:
        for variable, token in tokens.items():
            variable.reset(token)


def marks() -> bool:
    """Whether what is traced now may be marked."""
    return _tricks.get()


def short() -> bool:
    """Whether what is traced now runs for less time than its compilation takes."""
    return _short.get()


def kernels() -> bool:
    """Whether what is traced now may have Pallas kernels for GPUs."""
    return _kernels.get()


def asks_host() -> bool:
    """Whether what is traced now is for a device that asks the host at every turn."""
    return kernels() or jax.default_backend() != "cpu"


@functools.cache
def has_triton() -> bool:
    """Whether this process's device is a GPU for which JAX has Pallas and Triton.

    Source: jax/_src/pallas/triton, which asks for compute capability 8.0.
    """
    if jax.default_backend() != "gpu":
        return False
    try:
        importlib.import_module("jax.experimental.pallas.triton")
    except ImportError:
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    return float(capability) >= 8 if capability.replace(".", "").isdigit() else False


# A cache of compiled programs by function and arguments, least recently used first, each
# with the memory mappings that it took: some sixty megabytes, and up to 1,200 of the 65,530
# mappings of a process (vm.max_map_count).  Beyond them LLVM aborts the process.
KEPT: Final = 24
MAPPINGS: Final = 24_000
_kept: dict[tuple["Program", Any], tuple[Any, int]] = {}
_made = collections.Counter[str]()
_lock = threading.Lock()  # of the two above


def compilations() -> int:
    """How many programs this process has compiled."""
    return _made["programs"]


def forget() -> None:
    """Drop all compiled programs from the cache."""
    _kept.clear()


class Program:
    """A function that jaxmig compiles itself, ahead of time, once a shape."""

    def __init__(
        self, function: Callable[..., Any], donate: bool = False, work: int = 1
    ) -> None:
        """Nothing is compiled yet.

        Args:
          donate: whether the first argument is given away.
          work: how often the function works on the rows of its arguments.
        """
        self.function, self.donate, self.work = function, donate, work

    def __call__(self, *args: Any) -> Any:
        """The function's value; while JAX traces, it becomes part of the trace."""
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args)):
            return self.function(*args)
        return self.executable(*args)(*args)

    def executable(self, *args: Any, few: bool | None = None) -> Any:
        """The compiled function for arguments like these, compiled if it is new.

        Args:
          few: whether a call works on few rows of its first argument, FEW at most; None:
            if its other arguments have no more.
        """
        kinds = tuple(map(_kind, jax.tree.leaves(args)))
        key = self, (jax.tree.structure(args), kinds, few)
        with _lock:
            found = _kept.pop(key, None)
            if found is not None:
                _kept[key] = found
                return found[0]
        had = _mappings()
        with busy.compiling():
            compiled = self._compile(args, few)
        taken = max(_mappings() - had, 0)
        with _lock:
            _made["programs"] += 1
            _make_room(taken)
            _kept[key] = compiled, taken
        return compiled

    def jitted(
        self, on: bool = True, short: bool = False, gpu: bool | None = None
    ) -> Any:
        """The function under `jax.jit`, traced with the tricks or without.

        Args:
          on: with the tricks.
          short: whether it works on few rows, so that it is not optimized.
          gpu: whether Triton's kernels are allowed; None: as this process's device can.
        Returns:
          What jax.jit returns, with the compiler options for this device.
        """
        gpu = has_triton() if gpu is None else gpu

        # A new function each time: JAX would return its cached trace of the old one.
        def traced(*args: Any) -> Any:
            with tricks(on, gpu, short):
                return self.function(*args)

        options: dict[str, Any] = {}
        if on and known() and jax.default_backend() == "cpu":
            options |= CPU_OPTIONS
        options |= quick_options() if short else {}
        return jax.jit(
            traced,
            donate_argnums=(0,) if self.donate else (),
            compiler_options=options,
        )

    def _compile(self, args: tuple[Any, ...], few: bool | None) -> Any:
        state, *others = (_longest(x) * self.work for x in args)
        worked = max(others, default=state)
        few = worked <= FEW if few is None else few
        short = max(state, worked) <= SHORT
        short |= few and _bytes(args[0]) * self.work <= FEW_BYTES
        try:
            return self.jitted(short=short).lower(*args).compile()
        except jax.errors.JaxRuntimeError as error:
            # A kernel that Triton cannot compile has a form without Pallas.
            if not has_triton() and ("INTERNAL" not in str(error) or not known()):
                raise
            return self.jitted(on=False, short=short).lower(*args).compile()


def quick_options() -> dict[str, Any]:
    """Options of `jax.jit` for what runs for less time than its compilation takes.

    Returns:
      What `compiler_options` takes: XLA optimizes little, and compiles in a third of the
      time.  Nothing where they are not tested: on a GPU, with an unknown jaxlib.
    """
    here = known() and jax.default_backend() == "cpu"
    return QUICK_OPTIONS | TESTED[jaxlib.__version__] if here else {}


def _make_room(mappings: int) -> None:
    """Drop the least recently used programs, until the cache has room for one more.

    References to a dropped program stay valid; a lookup compiles it again.
    """
    mappings += sum(taken for _, taken in _kept.values())
    while _kept and (len(_kept) >= KEPT or mappings > MAPPINGS):
        _, taken = _kept.pop(next(iter(_kept)))
        mappings -= taken


def _mappings() -> int:
    """How many memory mappings this process has; 0 without /proc/self/maps."""
    try:
        with open("/proc/self/maps", "rb") as maps:
            return sum(1 for _ in maps)
    except OSError:
        return 0


def _kind(value: Any) -> tuple[Any, ...]:
    where = value.sharding if isinstance(value, jax.Array) else None
    return jnp.shape(value), jnp.result_type(value), where


def _bytes(arrays: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(arrays))


def _longest(arrays: Any) -> int:
    return max(map(_rows, jax.tree.leaves(arrays)), default=0)


def _rows(value: Any) -> int:
    shape = _kind(value)[0]
    return math.prod(shape[:-1] if len(shape) > 1 else shape)


def upload(array: np.ndarray | np.generic) -> Array:
    """`array` in a buffer of its own on the device; unlike jnp.array, it compiles nothing.

    XLA:CPU shares the memory of an array that is aligned to 64 bytes, and a buffer that
    numpy owns cannot be donated.
    """
    array = np.asarray(array)
    if array.ctypes.data % ALIGNED == 0:
        room = np.empty(array.nbytes + ALIGNED + array.itemsize, np.uint8)
        start = -room.ctypes.data % ALIGNED + array.itemsize
        apart = (
            room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        )
        apart[...] = array
        array = apart
    return jax.device_put(array)


def compile_loops_whole() -> None:
    """Have XLA:CPU make one function of a loop whose iterations touch little.

    Otherwise each operation of an iteration is dispatched separately, which costs more
    than the operation itself.  This sets an option of the whole process: only for
    programs of jaxmig's own, before JAX compiles anything.  One set by the user stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    # A jaxlib that does not know the option would end the process.
    if known() and "xla_backend_extra_options" not in flags:
        option = f"--xla_backend_extra_options={_OPTION}={WHOLE_LOOP}"
        os.environ["XLA_FLAGS"] = f"{flags} {option}".strip()


def whole(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`, of which XLA:CPU makes one function, run by one thread.

    It must be a loop over slices: XLA splits operations on long arrays among threads and
    then calls the function with too few arguments.  It must not scatter, and its result
    must depend on every argument, none of them constant: XLA aborts the process if its
    simplifications leave one unused.  Without marks this is just the call.
    """
    if not marks():
        return function(*args)

    def on_cpu(*args: Any) -> T:
        return jax.tree.map(_marked, jax.jit(lambda *args: function(*args))(*args))

    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=function)


def _marked(result: Array) -> Array:
    """`result`, with the attribute that makes XLA:CPU compile its call as one function."""
    # An inlined call would lose the attribute.
    marked: Any = set_xla_metadata(
        result, xla_cpu_small_call="true", inlineable="false"
    )
    return marked


def shard_map(
    function: Callable[..., T], mesh: Any, in_specs: Any, out_specs: Any
) -> Callable[..., T]:
    """`jax.shard_map` without its check that results are replicated where it is said so.

    JAX cannot infer it where they come from loops.  jax 0.6.0 has the function under
    jax.experimental, and another name for the check.

    Args:
      function: run by each device on its part of the arguments.
      mesh: the devices.
      in_specs, out_specs: how arguments and results are divided, PartitionSpecs.
    Returns:
      A function of whole arrays.
    """
    specs = {"mesh": mesh, "in_specs": in_specs, "out_specs": out_specs}
    if hasattr(jax, "shard_map"):
        return jax.shard_map(function, **specs, check_vma=False)
    older = importlib.import_module("jax.experimental.shard_map")
    return older.shard_map(function, **specs, check_rep=False)


def read(witness: Int32[Array, "..."], reads: Callable[[], T]) -> T:
    """`reads()`, not fused with later writes; `witness`: an index of it, not negative.

    Inside a conditional on CPUs.  For GPUs XLA makes a choice of a small one, through which
    fusion goes, and waits for the host at a large one; a barrier stops it.
    """
    if asks_host():
        return jax.lax.optimization_barrier(reads())
    shapes = jax.eval_shape(reads)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(jnp.ravel(witness)[0] >= 0, reads, lambda: zeros)


def once(witness: Int32[Array, "..."], compute: Callable[[], Array]) -> Array:
    """`compute()`, which XLA:CPU does not recompute for each of its uses.

    It reads no array that is written later, so that other devices need no conditional,
    at which a GPU waits for the host.
    """
    computed = jax.jit(compute)  # traced once, not for each branch
    return jax.lax.platform_dependent(
        witness, cpu=lambda at: read(at, computed), default=lambda _: computed()
    )


def when(pred: Bool[Array, ""], change: Callable[[T], T], state: T) -> T:
    """`change(state)` if `pred` else `state`, in place."""

    def once(carry: tuple[Any, T]) -> tuple[Any, T]:
        return jnp.asarray(False), change(carry[1])

    return jax.lax.while_loop(lambda c: c[0], once, (jnp.asarray(pred), state))[1]


def zero_unless(some: Bool[Array, ""], compute: Callable[[], T]) -> T:
    """`compute()`, or zeros unless `some`; only CPUs save the work, as `skip_unless`."""
    if asks_host():
        return jax.tree.map(lambda x: jnp.where(some, x, jnp.zeros_like(x)), compute())
    shapes = jax.eval_shape(compute)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.cond(some, compute, lambda: zeros)


def skip_unless(some: Bool[Array, ""], change: Callable[[T], T], state: T) -> T:
    """`change(state)`, which changes nothing unless `some`.

    CPUs skip it then.  Others do not: to know would cost a GPU more, which would have to
    ask the host.
    """
    return change(state) if asks_host() else when(some, change, state)


def while_at_most(
    more: Callable[[T], Array], turn: Callable[[T], T], state: T, most: int
) -> T:
    """`turn` again and again while there is `more`.

    Args:
      more: of the state, whether it changes in the next turn.
      turn: state -> state; the same state if there is no more.
      state: any arrays.
      most: as many turns at most; a device that asks the host takes all, if they are few.
    Returns:
      The state when there is no more.
    """
    if asks_host() and most <= FEW_TURNS:
        return jax.lax.fori_loop(0, most, lambda _, state: turn(state), state)
    return jax.lax.while_loop(more, turn, state)


def after(
    value: Int32[Array, "*n"], witness: Int32[Array, "..."]
) -> Int32[Array, "*n"]:
    """`value`, known only once `witness` (never negative) has been read.

    A write whose index or data does not depend on an earlier read of the same array
    could come first; to be safe XLA would copy the array.
    """
    return value + (jnp.ravel(witness)[0] >> 31)


def row(array: Array, index: Int32[Array, ""]) -> Array:
    """One row; `index` must be inside (slices clamp).

    `array[index]` would first compute what a negative index stands for, at every read.
    """
    return jax.lax.dynamic_index_in_dim(
        array, index, keepdims=False, allow_negative_indices=False
    )


def put(array: Array, index: Int32[Array, ""], row: Array) -> Array:
    """`array` with one row replaced; `index` must be inside (slices clamp)."""
    start = (index, *(np.int32(0),) * (array.ndim - 1))
    return jax.lax.dynamic_update_slice(
        array, row[None].astype(array.dtype), start, allow_negative_indices=False
    )


def add(array: Array, index: Int32[Array, ""], amount: Int32[Array, "..."]) -> Array:
    """`array` with `amount` added to one row."""
    return put(array, index, row(array, index) + amount)
