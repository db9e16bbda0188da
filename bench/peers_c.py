"""The C programs of peers.c, compiled where a compiler is found, on jaxmig's arrays."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from engine import Task, view
from jaxmig.state.machine import PAGE_BYTES, Machine

SOURCE = Path(__file__).with_name("peers.c")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Wextra")


class _Machine(ctypes.Structure):
    """struct machine of peers.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("frame", "pte", "free", "top", "nfree")),
        *((name, ctypes.c_void_p) for name in ("tlb", "told", "ipis", "memory")),
        *((name, ctypes.c_int32) for name in ("per_node", "slots", "sets")),
        *((name, ctypes.c_int32) for name in ("cpus", "ways")),
        *((name, ctypes.c_int64) for name in ("moved", "failed", "rounds")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled programs, or None without a compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peers.so"
        subprocess.run([compiler, *FLAGS, SOURCE, "-o", out], check=True)
        return ctypes.CDLL(str(out))


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def copy_pages(
    memory: np.ndarray, src: np.ndarray, dst: np.ndarray, count: int = 1
) -> float:
    """Seconds to copy `count` pages from each of `src` to each of `dst`, each at once.

    Without a compiler, numpy copies page by page.
    """
    lib = library()
    start = time.perf_counter()
    if lib is None:
        for a, b in zip(src.tolist(), dst.tolist(), strict=True):
            memory[b : b + count] = memory[a : a + count]
    else:
        n, size = ctypes.c_int64(src.size), ctypes.c_int64(count * PAGE_BYTES)
        lib.floor_copy(_pointer(memory), _pointer(src), _pointer(dst), n, size)
    return time.perf_counter() - start


def migrate(task: Task, m: Machine, folios: np.ndarray, batched: bool) -> float:
    """Seconds of the C program, which changes the arrays of `m` where they are.

    Raises:
      RuntimeError: if not every page was moved.
    """
    lib = library()
    assert lib is not None
    ways = m.tlb.entry.shape[1] // task.cpus
    mask = np.asarray(m.cpus.mask[0])
    told = np.repeat(-mask.astype(np.int32), ways)
    ipis = np.zeros(task.cpus, np.int64)
    state = (m.frame, m.pte, m.free, m.top, m.nfree, m.tlb.entry)
    arrays: list[Any] = [*map(view, state), told, ipis]
    pointers = [_pointer(a) for a in arrays]
    memory = None if m.memory is None else _pointer(view(m.memory))
    g = m.geometry
    sizes = (g.frames_per_node, g.slots_per_node, m.tlb.entry.shape[0], task.cpus, ways)
    c = _Machine(*pointers, memory, *sizes, 0, 0, 0)
    args: list[Any] = [_pointer(folios), ctypes.c_int64(task.pages), 1]
    if batched:
        args.append(ctypes.c_int64(task.batch))
    program = lib.batched if batched else lib.serial
    start = time.perf_counter()
    status = program(ctypes.byref(c), *args)
    wall = time.perf_counter() - start
    rounds = -(-task.pages // task.batch) if batched else task.pages
    if status or c.moved != task.pages or (ipis != rounds * mask).any():
        raise RuntimeError(f"C: status {status}, {c.moved} moved, {ipis} interrupts")
    return wall
