"""What this machine takes: copying a page, walking a page table, waking a thread.

Each is timed several times; the number is the median and the range what was seen.  None
crosses memory nodes on its own: bind the command with `numactl` to measure that.
"""

import ctypes
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np

from jaxmig.calibrate.fit import Measured
from jaxmig.machine import PAGE_BYTES

TIMES: Final = 7
PAGES: Final = 1 << 15  # 128 MiB: more than any cache
CHASED: Final = 1 << 13  # pages: more than a TLB holds; their lines fit a cache
LINE: Final = 64 // 4  # words
STEPS: Final = 1 << 18
TRIPS: Final = 2000
FUTEX: Final = {"x86_64": 202, "aarch64": 98}  # number of the system call

# The other side of the ping-pong: waits for an odd word, makes it even, and so on.
_PARTNER: Final = """
import ctypes, mmap, os, sys
file, trips, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(file, os.O_RDWR)
area = mmap.mmap(fd, 4096)
word = ctypes.c_uint32.from_buffer(area)
call, at = ctypes.CDLL(None).syscall, ctypes.addressof(word)
for i in range(trips):
    while word.value == 2 * i:
        call(number, ctypes.c_void_p(at), 0, 2 * i, None)
    word.value = 2 * i + 2
    call(number, ctypes.c_void_p(at), 1, 1)
"""


def measure() -> list[Measured]:
    """Everything that can be measured here; what cannot is left out."""
    where = f"measured on {platform.node() or 'this machine'}"
    made = [_several("copy", copy_ns, f"{where}: copies of random 4 KiB pages")]
    near, far = chase_ns(1), chase_ns(PAGE_BYTES // 64)
    walk = [b - a for a, b in zip(near, far, strict=True)]
    if statistics.median(walk) > 0:
        words = f"{where}: a load from another page less one from the next line"
        made.append(_spread("access.walk", walk, words))
    trips = wake_ns()
    if trips:
        words = f"{where}: half a futex round trip between two processes"
        made.append(_spread("access.wake", [ns / 2 for ns in trips], words))
    return made


def copy_ns() -> float:
    """One 4 KiB page to another place, in a run of pages in random order."""
    source = np.ones((PAGES, PAGE_BYTES), np.uint8)
    target = np.zeros_like(source)
    order = np.random.default_rng(0).permutation(PAGES)
    start = time.perf_counter_ns()
    # One C memcpy a row: the loop around it costs nothing beside 4 KiB.
    np.take(source, order, axis=0, out=target, mode="clip")
    return (time.perf_counter_ns() - start) / PAGES


def chase_ns(apart: int) -> list[float]:
    """A load whose address the load before gave, in lines `apart` lines apart."""
    words = CHASED * apart * LINE
    area = mmap.mmap(-1, words * 4)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        area.madvise(mmap.MADV_NOHUGEPAGE)
    memory = np.frombuffer(area, np.int32)
    order = np.random.default_rng(1).permutation(CHASED).astype(np.int64)
    # Another line in each page, or all would fall into one set of the cache.
    at = order * apart * LINE + order % apart * LINE
    memory[at] = np.roll(at, -1).astype(np.int32)
    chain = jnp.asarray(memory)

    @jax.jit
    def chase(chain: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, STEPS, lambda _, i: chain[i], i)

    i = jax.block_until_ready(chase(chain, jnp.int32(at[0])))
    found = []
    for _ in range(TIMES):
        start = time.perf_counter_ns()
        i = jax.block_until_ready(chase(chain, i))
        found.append((time.perf_counter_ns() - start) / STEPS)
    return found


def wake_ns() -> list[float]:
    """A futex wake to another process and one back; empty where there are none."""
    number = FUTEX.get(platform.machine())
    if number is None or sys.platform != "linux":
        return []
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if _shm() else None) as file:
        file.truncate(PAGE_BYTES)
        area = mmap.mmap(file.fileno(), PAGE_BYTES)
        word = ctypes.c_uint32.from_buffer(area)
        trips = TIMES * TRIPS
        arguments = [file.name, str(trips), str(number)]
        partner = subprocess.Popen([sys.executable, "-c", _PARTNER, *arguments])
        try:
            found = _ping(word, number, partner)
        finally:
            partner.kill()
            partner.wait()
        del word
        return found


def _ping(word: ctypes.c_uint32, number: int, partner: subprocess.Popen) -> list[float]:
    call, at = ctypes.CDLL(None).syscall, ctypes.c_void_p(ctypes.addressof(word))
    patience = _Timespec(1, 0)
    found: list[float] = []
    for k in range(TIMES):
        start = time.perf_counter_ns()
        for i in range(k * TRIPS, (k + 1) * TRIPS):
            word.value = 2 * i + 1
            call(number, at, 1, 1)
            while word.value == 2 * i + 1:
                if partner.poll() is not None:
                    return []
                call(number, at, 0, 2 * i + 1, ctypes.byref(patience))
        found.append((time.perf_counter_ns() - start) / TRIPS)
    return found[1:]  # the first waits for the partner to start


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def _shm() -> bool:
    return os.access("/dev/shm", os.W_OK)


def _several(group: str, once: Callable[[], float], source: str) -> Measured:
    return _spread(group, [once() for _ in range(TIMES)], source)


def _spread(group: str, found: list[float], source: str) -> Measured:
    middle = statistics.median(found)
    ends = max(min(found), 0.0), max(found)
    return Measured(group, middle, f"{source}, {len(found)} runs", *ends)
