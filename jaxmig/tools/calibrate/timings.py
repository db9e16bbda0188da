"""Timings of this machine, unprivileged and in some seconds: rows for `micro.py`.

This thread makes the calls on its own CPU, while threads spin on other CPUs of its node:
one, two, four ..., then one of another node.  Measurements are repeated in short rounds
with pauses, since the host of a virtual machine is faster in some seconds than in others;
medians over many seconds vary less.  The user is told what cannot be measured here.

    mprotect_rw_to_r             1, 33, 34 and more pages lose the right to write
    copy4k_*                     4 KiB from and to memory, in order and not, and cached;
                                 from a cache to memory, a batch's 512 pages in order
    fault_anon_zero_page_read    the first read of a page
    page_walk                    a load from another page, less one from the next line
    target_loss                  gaps in a spinning thread's clock, by mprotect of n pages
    futex_round_trip             there and back between two pinned threads
"""

import contextlib
import ctypes
import mmap
import os
import re
import resource
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from jaxmig.state.machine import PAGE_BYTES, PMD_PAGES
from jaxmig.tools.calibrate.fit import Tell
from jaxmig.tools.calibrate.micro import (
    FROM_CACHE,
    IN_ORDER,
    LOSS,
    OTHER_NODE,
    PROTECT,
    TRIP,
)
from jaxmig.tools.calibrate.probe import Probe, address

ROUNDS: Final = 11
FEW: Final = 3  # rounds that are made even on a busy machine
PAUSE_S: Final = 1.0  # between two rounds
ENOUGH_S: Final = 35.0  # no round begins later
BATCHES: Final = 101
CALLS: Final = 16  # of a batch
PROTECTED: Final = (1, 8, 33, 34, 128)
MOST_SPINNING: Final = 8
AREA: Final = 1 << 15  # pages: 128 MiB, larger than most caches
COPIED: Final = AREA // BATCHES  # pages of a batch, each copied once
CHASED: Final = 1 << 13  # pages: more than a TLB holds; their lines fit a cache
GAPS: Final = 1 << 16
GAP_NS: Final = 150.0  # shorter gaps are no interrupts
LONGEST_NS: Final = 50_000.0  # longer gaps are other threads
TRIPS: Final = 20
WAKES: Final = 200  # round trips in a batch
ANSWERED: Final = 0.8  # of the CPUs, or of a batch's time, that a good batch needs
FEWEST: Final = 8  # good batches that a row needs
ANSWERS: Final = 500  # interrupts of a CPU whose losses are measured
PATIENCE_S: Final = 0.4  # the longest for a row, on a busy machine
Row = dict[str, Any]
_NODES: Final = Path("/sys/devices/system/node")
_CPUINFO: Final = Path("/proc/cpuinfo")


def measure(tell: Tell = lambda line: None) -> dict[str, Any]:
    """Rows as `--measure -o FILE.json` writes them.

    Raises:
      CalibrationError: not x86-64 Linux, or no memory that may be executed.
    """
    probe = Probe()
    near, far = places()
    if not near[1:] and far is None:
        tell(
            "one CPU may be used: nobody could be interrupted or woken; shootdowns, "
            "targets and wake-ups are the base's"
        )
    elif far is None:
        tell("one node: shootdowns and copies stay on it")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {near[0]})
    doc: dict[str, Any] = {"guest": _guest(), "target_and_futex": []}
    answering = near[1] if near[1:] else far
    try:
        areas = _areas(far)
        end = time.monotonic() + ENOUGH_S
        for i in range(ROUNDS):
            if i >= FEW and time.monotonic() > end:
                break
            time.sleep(PAUSE_S if i else 0)
            doc[f"micro_{i}"] = _round(probe, near[1:], _memory(probe, *areas))
            if answering is not None:
                rows = [*_losses(probe, answering), *_wake(probe, answering)]
                doc["target_and_futex"] += rows
        if far is not None:
            doc[OTHER_NODE] = _round(probe, [far], [])
    finally:
        os.sched_setaffinity(0, before)
    return doc


def places() -> tuple[list[int], int | None]:
    """The usable CPUs of the node that has most of them, and one CPU of another node."""
    allowed = os.sched_getaffinity(0)
    by_node = [
        sorted(allowed & _cpus(path.read_text()))
        for path in sorted(_NODES.glob("node[0-9]*/cpulist"))
    ]
    nodes = sorted((cpus for cpus in by_node if cpus), key=len, reverse=True)
    if not nodes:
        return sorted(allowed), None
    return nodes[0], nodes[1][0] if len(nodes) > 1 else None


def _guest() -> bool:
    """Whether the CPU flags say that this is a virtual machine."""
    text = _CPUINFO.read_text()
    return bool(re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE))


def _cpus(text: str) -> set[int]:
    """`0-3,8` as numbers."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _round(
    probe: Probe, others: Sequence[int], memory: list[Row]
) -> dict[str, list[Row]]:
    made = {"remote=0": [*_protect(probe), *memory]}
    counts = [k for k in (1, 2, 4, MOST_SPINNING) if k <= len(others)]
    for k in counts:
        with _spinning(probe, others[:k]):
            made[f"remote={k}"] = _protect(probe, k)
    return made


@contextlib.contextmanager
def _spinning(
    probe: Probe, cpus: Sequence[int], gaps: Any = None
) -> Iterator[ctypes.c_uint64]:
    """Spin a thread of this process on each CPU; the last one records its gaps."""
    stop, seen = ctypes.c_uint64(0), ctypes.c_uint64(0)
    ready = threading.Barrier(len(cpus) + 1)

    def run(cpu: int, room: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        least = round(GAP_NS / probe.ns_per_tick)
        ready.wait()
        at = ctypes.addressof(gaps) if room else 0
        seen.value = max(
            seen.value, probe.spin(ctypes.addressof(stop), at, room, least)
        )

    room = 0 if gaps is None else len(gaps)
    threads = [threading.Thread(target=run, args=(cpu, room)) for cpu in cpus]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        yield seen
    finally:
        stop.value = 1
        for thread in threads:
            thread.join()


def _protect(probe: Probe, spinning: int = 0) -> list[Row]:
    """Rows of calls that interrupt all CPUs whose threads spin.

    On a busy machine a spinning thread may not run: batches in which fewer CPUs were
    interrupted, or in which this thread was preempted, are repeated for a while.  If
    interrupts cannot be counted, all CPUs are assumed to have answered.
    """
    least, area = ANSWERED * spinning, _area(max(PROTECTED))
    tried: dict[int, list[tuple[float, float]]] = {n: [] for n in PROTECTED}
    end = time.monotonic() + PATIENCE_S * len(PROTECTED)
    # In turn: what the host gives and takes from one moment to the next is all rows'.
    while time.monotonic() < end:
        few = [n for n in PROTECTED if len(_answered(tried[n], least)) < BATCHES]
        if not few:
            break
        for n in few:
            before, late = interrupts(), _put_aside()
            ticks = probe.protect(address(area), n, CALLS) / CALLS
            after = interrupts()
            ipis = spinning if before is None or after is None else after - before
            if _put_aside() == late:
                each = ipis / CALLS if before is not None else ipis
                tried[n].append((each, ticks))
    made = []
    for n in PROTECTED:
        good = _answered(tried[n], least)
        if len(good) >= FEWEST:
            made.append(_row(PROTECT, n, [t for _, t in good], probe))
            made[-1]["tlb_ipis_per_call"] = statistics.median(n for n, _ in good)
    return made


def _answered(
    tried: Sequence[tuple[float, float]], least: float
) -> list[tuple[float, float]]:
    """Batches whose every call was answered.

    If restoring the right to write also interrupts, twice as many answers are needed.
    """
    if not least:
        return [(n, ticks) for n, ticks in tried if n < 1 - ANSWERED]
    both = any(n >= 2 * least for n, _ in tried)
    return [(n, ticks) for n, ticks in tried if n >= (2 if both else 1) * least]


def _put_aside() -> int:
    """How often this thread has been preempted."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def _delay(thread: int) -> int:
    """ns that a thread of this process has waited for a CPU; 0 if not counted."""
    try:
        text = Path(f"/proc/self/task/{thread}/schedstat").read_text()
    except OSError:
        return 0
    return int(text.split()[1])


def _areas(far: int | None) -> tuple[mmap.mmap, mmap.mmap]:
    """Memory of this CPU's node, and of CPU `far`'s if there is one."""
    source, target = _area(AREA), _area(AREA)
    here = os.sched_getaffinity(0)
    for area, cpus in ((source, here), (target, here if far is None else {far})):
        os.sched_setaffinity(0, cpus)
        # Pages are allocated on the node of the first write.
        ctypes.memset(address(area), 1, AREA * PAGE_BYTES)
    os.sched_setaffinity(0, here)
    return source, target


def _memory(probe: Probe, source: mmap.mmap, target: mmap.mmap) -> list[Row]:
    """Rows of copies, faults and page walks."""
    to, from_ = address(target), address(source)
    starts = [i * COPIED * PAGE_BYTES for i in range(BATCHES)]
    cold = [probe.copy(to + s, from_ + s, COPIED) / COPIED for s in starts]
    warm = [min(probe.copy(to, from_, 1) for _ in range(CALLS)) for _ in range(BATCHES)]
    pages = np.random.default_rng(0).permutation(AREA)[: BATCHES * CALLS] * PAGE_BYTES
    alone = [
        statistics.fmean(probe.copy(to + int(p), from_ + int(p), 1) for p in some)
        for some in pages.reshape(BATCHES, CALLS)
    ]
    rows = [
        _row(IN_ORDER, 0, cold, probe),
        _row("copy4k_random_cold", 0, alone, probe),
        _row("copy4k_warm", 0, warm, probe),
        _row(FROM_CACHE, PMD_PAGES, _held(probe, from_, to), probe),
        _row("fault_anon_zero_page_read", 512, _faults(probe), probe),
    ]
    near, apart = _chase(probe, from_, 1), _chase(probe, from_, PAGE_BYTES // 64)
    walk = [max(b - a, 0.0) for a, b in zip(near, apart, strict=True)]
    return [*rows, _row("page_walk", CHASED, walk, probe)]


def _held(probe: Probe, from_: int, to: int) -> list[float]:
    """Copies of a THP's pages that this CPU has just written, to memory it has not.

    That is what migrates while it is hot: its new frame was free.
    """
    pages = min(PMD_PAGES, AREA)
    size, found = pages * PAGE_BYTES, []
    for i in range(BATCHES):
        at = i * size % (AREA * PAGE_BYTES)
        ctypes.memset(from_ + at, i % 256, size)
        found.append(probe.copy(to + at, from_ + at, pages) / pages)
    return found


def _faults(probe: Probe) -> list[float]:
    found = []
    for _ in range(BATCHES):
        area = _area(512)
        found.append(probe.touch(address(area), 512) / 512)
    return found


def _chase(probe: Probe, at: int, apart: int) -> list[float]:
    """Ticks of loads that each give the next one's address, `apart` cache lines apart."""
    words = (ctypes.c_uint64 * (CHASED * apart * 8)).from_address(at)
    memory = np.ctypeslib.as_array(words)
    order = np.random.default_rng(1).permutation(CHASED).astype(np.int64)
    # A different line in each page, as equal ones would share one set of the cache.
    places = (order * apart + order % apart) * 8
    memory[places] = at + np.roll(places, -1).astype(np.uint64) * np.uint64(8)
    start = at + int(places[0]) * 8
    probe.chase(start, CHASED)
    return [probe.chase(start, CHASED) / CHASED for _ in range(BATCHES)]


def _losses(probe: Probe, cpu: int) -> list[Row]:
    """Rows of the time that a CPU running the process loses to each interrupt."""
    made = []
    area = _area(34)
    for n in (1, 34):
        gaps = (ctypes.c_uint64 * GAPS)()
        before = interrupts()
        with _spinning(probe, [cpu], gaps) as seen:
            end, after = time.monotonic() + PATIENCE_S, before
            while after == before or (after or 0) - (before or 0) < ANSWERS:
                for _ in range(BATCHES):
                    probe.protect(address(area), n, CALLS)
                after = interrupts()
                if time.monotonic() > end or after is None:
                    break
        ns = np.asarray(gaps[: seen.value], float) * probe.ns_per_tick
        ns = ns[ns < LONGEST_NS]
        ipis = None if before is None or after is None else after - before
        if len(ns) >= FEWEST and (ipis is None or ipis / 2 <= len(ns) <= ipis * 2):
            cuts = {"p10": 10, "p25": 25, "median": 50, "p75": 75, "p90": 90}
            named = {
                f"gap_ns_{k}": round(float(np.percentile(ns, p)), 1)
                for k, p in cuts.items()
            }
            row = {"what": LOSS, "pages": n, "ipis": ipis, "gaps": len(ns)}
            made.append(row | named)
    return made


def _wake(probe: Probe, cpu: int) -> list[Row]:
    """Rows of two threads that wake each other in turn."""
    word = ctypes.c_uint32(0)
    at = ctypes.addressof(word)

    def answer() -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        probe.ping(at, 1, TRIPS * WAKES)

    other = threading.Thread(target=answer)
    other.start()
    both = threading.get_native_id(), other.native_id or 0
    good = []
    for _ in range(WAKES):
        before = sum(map(_delay, both))
        ticks = probe.ping(at, 0, TRIPS)
        late = sum(map(_delay, both)) - before
        # Threads that waited for a CPU show that the machine is too busy.
        if late < (1 - ANSWERED) * ticks * probe.ns_per_tick:
            good.append(ticks / TRIPS)
    other.join()
    return [_row(TRIP, 0, good, probe)] if len(good) >= FEWEST else []


def interrupts() -> int | None:
    """TLB shootdowns that all CPUs took so far; None if they cannot be read."""
    try:
        text = Path("/proc/interrupts").read_text()
    except OSError:
        return None
    row = re.search(r"^\s*TLB:((?:\s+\d+)+)", text, re.MULTILINE)
    return sum(map(int, row[1].split())) if row else None


def _area(pages: int) -> mmap.mmap:
    area = mmap.mmap(
        -1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    area.madvise(mmap.MADV_NOHUGEPAGE)
    return area


def _row(what: str, n: int, ticks: Sequence[float], probe: Probe) -> Row:
    ns = np.round(np.asarray(ticks) * probe.ns_per_tick, 1)
    return {
        "what": what,
        "n": n,
        "batches": len(ns),
        "min_ns": float(ns.min()),
        "p10_ns": float(np.percentile(ns, 10)),
        "median_ns": float(np.median(ns)),
        "p90_ns": float(np.percentile(ns, 90)),
    }
