"""One timed call of jaxmig on a fresh machine, and the proof that it did its work."""

import ctypes
import dataclasses
import functools
import time
from typing import Any

import checkout  # noqa: F401  before jaxmig
import jax
import jax.numpy as jnp
import jaxmig
import numpy as np
from jaxmig.engine.migrate import Result, executable, limit_of
from jaxmig.linux.releases import release
from jaxmig.linux.rules import rules
from jaxmig.sources import uniform
from jaxmig.state import contents, frame, pte, xla
from jaxmig.state.machine import NOWHERE, Machine

STEP = 512  # pages compared at a time
# As `jaxmig` does for its own process.
xla.compile_loops_whole()


@dataclasses.dataclass(frozen=True)
class Task:
    """What is migrated: all pages of one process from node 0 to node 1."""

    pages: int
    content: bool = True
    kernel: str = "6.3"
    cpus: int = 128
    order: str = "random"
    batch: int = 512

    def machine(self) -> Machine:
        """A fresh machine, ready."""
        seed = 0 if self.order == "random" else None
        m = uniform.machine(self.pages, cpus=self.cpus, seed=seed, content=self.content)
        return jax.block_until_ready(m)

    def on(self, kernel: str) -> "Task":
        """The same with another release."""
        return dataclasses.replace(self, kernel=kernel)


@functools.partial(jax.jit, static_argnums=1)
def heads(entries: Any, room: int) -> jax.Array:
    """The frames of all entries, as a list for the call."""
    return jax.lax.slice(entries, (0, pte.PFN), (room, 1)).reshape(-1)


def call(task: Task, m: Machine) -> tuple[Machine, Result, float, float]:
    """The machine after the call, its result, seconds in it, seconds of compilation."""
    folios = heads(m.pte, m.geometry.ptes)
    numbers = (jnp.int32(n) for n in (task.pages, 1, 0))
    args = (m, folios, *numbers, limit_of(task.batch))
    jax.block_until_ready(args)
    start = time.perf_counter()
    program = executable(rules(task.kernel), True, *args)
    ready = time.perf_counter()
    done, result = program(*args)
    jax.block_until_ready((done, result))
    return done, result, time.perf_counter() - ready, ready - start


def wrong(task: Task, before: jax.Array, m: Machine) -> str:
    """What is wrong with a machine after the call; `before`: the frames of the pages.

    Empty if every page arrived with its contents, every frame is mapped or free exactly
    once, and no TLB holds a translation of the process.
    """
    pages = jnp.int32(task.pages)
    counts = {
        "entries": _entries(m, pages),
        "frames": _frames(m, pages),
        "contents": 0 if m.memory is None else _contents(m, before, pages),
        "translations": (m.tlb.entry < task.pages).sum(),
    }
    bad = {what: int(n) for what, n in counts.items() if int(n)}
    if [int(n) for n in m.nfree] != [2 * task.pages, 0]:
        bad["free pages"] = int(m.nfree[0])
    return ", ".join(f"{n} {what}" for what, n in bad.items())


def miscounted(task: Task, result: Result) -> str:
    """What is wrong with the counts of a call of jaxmig."""
    stat, n = result.vmstat, task.pages
    others = max(task.cpus - 1, 0)
    batched = release(task.kernel).batched and others > 0
    rounds = -(-n // task.batch) if batched else n * (others > 0)
    want = {
        "pgmigrate_success": n,
        "pgmigrate_fail": 0,
        "nr_tlb_remote_flush": rounds,
        "nr_tlb_remote_flush_received": rounds * others,
    }
    bad = [f"{k} {stat[k]} instead of {v}" for k, v in want.items() if stat[k] != v]
    if result.ret or result.errno:
        bad.append(f"ret {result.ret} {result.errno}")
    return ", ".join(bad)


@jax.jit
def _entries(m: Machine, pages: jax.Array) -> jax.Array:
    index = jnp.arange(m.geometry.ptes)
    pfn, bits = m.pte[: m.geometry.ptes, 0], m.pte[: m.geometry.ptes, 1]
    good = (m.node_of(pfn) == 1) & (bits == uniform.BITS)
    return ((index < pages) & ~good).sum()


@jax.jit
def _frames(m: Machine, pages: jax.Array) -> jax.Array:
    """Frames that are not either mapped by the entry they name or free and blank.

    A few at a time: a check must not need more memory than what it checks.
    """
    g = m.geometry
    lanes = jnp.arange(uniform.STEP)

    def given(i: jax.Array, free: jax.Array) -> jax.Array:
        slot = i * uniform.STEP + lanes
        live = slot % g.slots_per_node < m.top[slot // g.slots_per_node, 0]
        at = jnp.where(live, m.free[slot], NOWHERE)
        return free.at[at].add(jnp.int8(1), mode="drop")

    free = jnp.zeros(g.frames, jnp.int8)
    free = jax.lax.fori_loop(0, m.free.shape[0] // uniform.STEP, given, free)

    def some(i: jax.Array, c: tuple[jax.Array, jax.Array]) -> tuple:
        index = i * uniform.STEP + lanes
        row = m.frame[index]
        entry = row[:, frame.RMAP]
        at = m.pte[jnp.clip(entry, 0, g.ptes - 1), pte.PFN]
        named = (entry < pages) & (at == index)
        rest = (row[:, 0] == 1) & (row[:, 1] == 1) & (row[:, 2] == uniform.FLAGS)
        blank = (row[:, :3] == 0).all(axis=1) & (entry == NOWHERE)
        used = named & rest
        good = (used & (free[index] == 0)) | (blank & (free[index] == 1))
        return c[0] + (~good).sum(), c[1] + used.sum()

    none = (jnp.int32(0), jnp.int32(0))
    bad, used = jax.lax.fori_loop(0, g.frames // uniform.STEP, some, none)
    return bad + jnp.abs(used - pages)


@jax.jit
def _contents(m: Machine, before: jax.Array, pages: jax.Array) -> jax.Array:
    lanes = jnp.arange(STEP)

    def some(i: jax.Array, bad: jax.Array) -> jax.Array:
        at = jnp.minimum(i * STEP + lanes, pages - 1)
        want = contents.page_of(before[at].astype(jnp.uint32))
        return bad + (m.memory[m.pte[at, pte.PFN]] != want).any(axis=1).sum()

    return jax.lax.fori_loop(0, -(-pages // STEP), some, jnp.int32(0))


def view(array: jax.Array) -> np.ndarray:
    """The buffer of an array on a CPU, writable: for programs in other languages.

    What an accelerator holds is copied: good to look at, and to measure memcpy with.
    """
    if any(device.platform != "cpu" for device in array.devices()):
        return np.array(array)
    size = array.size
    kind = {"int32": ctypes.c_int32, "uint32": ctypes.c_uint32}[str(array.dtype)]
    at = ctypes.cast(array.unsafe_buffer_pointer(), ctypes.POINTER(kind))
    return np.ctypeslib.as_array(at, (size,)).reshape(array.shape)


__all__ = ["Task", "call", "heads", "jaxmig", "miscounted", "view", "wrong"]
