"""pmbench's own report and progress lines, of a modelled run.

Source: print_con_report() and print_result() in pmbench.c, dump_histogram_64() in
access.c of pmbench 0.9.
"""

import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from jaxmig.programs.workloads import affinity
from jaxmig.programs.workloads.pmbench import DRAWS, Options, PmbenchResult, node_of
from jaxmig.programs.workloads.version import VERSION
from jaxmig.time.machines import Profile

CYCLES_KHZ: Final = 2_100_000  # of the modelled time stamp counter (assumed)
OCTAVES: Final = 15  # that are printed with their parts: 2^8 ... 2^23 ns
COLUMNS: Final = (
    "            free(K) buffer(K) cache(K) active(K) inactv(K) pgpgin   pgpgout"
    "    pswpin   pswpout pgmajfaut"
)


Numbers = tuple[int, ...]  # the ten columns of a memory snapshot


class Averages(NamedTuple):
    """Averages of one thread, us per access."""

    net: float
    mean: float
    draw: float
    warmup: float | None  # without -c
    samples: int


def clocks(us: float) -> int:
    """Cycles of the time stamp counter."""
    return int(us * CYCLES_KHZ / 1000)


def uuid_of(result: PmbenchResult) -> uuid.UUID:
    """A UUID that depends only on the run, so that equal runs have equal ones."""
    return uuid.uuid5(uuid.NAMESPACE_OID, repr((result.options, result.kernel)))


def averages(result: PmbenchResult, thread: int) -> Averages:
    """The averages of one thread, counted from 0."""
    n = int(result.totals.accesses[thread])
    mean, draw = result.ran_ns[thread] / 1000 / max(n, 1), result.draw_ns / 1000
    warmup = None
    if result.warmup_ns is not None:
        warmup = result.warmup_ns[thread] / 1000 / result.warmup_accesses
    return Averages(mean - draw, mean, draw, warmup, n)


def progress(result: PmbenchResult) -> Iterator[str]:
    """The lines printed while it runs, thread by thread."""
    o = result.options
    for t in range(1, o.jobs + 1):
        size = f"{o.pages} ({o.setsize_mib} MiB)"
        draw = f"{result.draw_ns / 1000:0.4f} usec per drawing"
        yield f"[{t}] num_pages: {size}, shape: {o.shape:0.4f}"
        yield f"[{t}] Pattern generation overhead: {draw}"
        if result.warmup_ns is not None:
            yield f"[{t}] Performing {result.warmup_accesses} page accesses for warmup"
            yield f"[{t}] Warmup done - took {int(result.warmup_ns[t - 1]) // 1000} us"
        yield f"[{t}] Starting main benchmark"
        n, ns = int(result.totals.accesses[t - 1]), int(result.ran_ns[t - 1])
        yield f"[{t}] Benchmark done - took {ns / 1e9:0.3f} sec for {n} page access"
        yield f"  (Average {ns / 1000 / max(n, 1):0.3f} usec per page access)"
    yield "All threads joined"


def report(
    result: PmbenchResult, profile: Profile, when: str = "modelled time"
) -> Iterator[str]:
    """Every line of the report, in the original's order."""
    yield from ("", "------------- Benchmark signature -------------")
    yield f"pmbench version: {VERSION}"
    yield f"Hostname       : {profile.name}"
    yield f"OS/kernel type : Linux {result.kernel or 'without migration'} {profile.arch}"
    yield f"Reported on    : {when}"
    yield f"Benchmark UUID : {uuid_of(result)}"
    yield "Parameters used:"
    yield from _parameters(result.options, profile)
    yield from ("", "------------- Machine information -------------")
    yield f"CPU model name: {profile.title}"
    yield f"rdtsc/perfc frequency: {CYCLES_KHZ} K cycles per second"
    sets, ways = profile.tlb
    yield " -- TLB info --"
    yield f"  4 KiB pages: {sets * ways} entries, {ways}-way"
    yield " -- Cache info --"
    yield "  not modelled"
    yield from ("", "----------- Average access latency ------------")
    for t in range(result.options.jobs):
        yield from _averages(result, t)
    yield from ("", "----------------- Statistics ------------------")
    yield from _statistics(result)
    yield from ("", "---------- System memory information ----------")
    yield from _memory(result)


def _parameters(options: Options, profile: Profile) -> Iterator[str]:
    yield f"  duration_sec = {options.duration_sec}"
    yield f"  mapsize_mib  = {options.mapsize_mib}"
    yield f"  setsize_mib  = {options.setsize_mib}"
    yield f"  initialize   = {int(options.initialize)}"
    yield f"  shape        = {options.shape:f}"
    yield f"  delay        = {options.delay}"
    yield f"  quiet        = {int(options.quiet)}"
    yield f"  cold         = {int(options.cold)}"
    yield f"  jobs         = {options.jobs}"
    yield f"  offset       = {'random' if options.offset < 0 else options.offset}"
    yield f"  ratio        = {options.ratio}%"
    yield f"  threshold    = {options.threshold}"
    yield f"  wrneedsrd    = {int(options.wrneedsrd)}"
    yield f"  pattern      = {options.pattern}"
    yield f"  access       = {options.access}"
    yield f"  tsops        = {options.tsops}"
    yield f"  affinityset  = {'' if options.affinity else 'NULL'}"
    home = [node_of(one.cpus[0], profile.cpus) for one in options.affinity]
    yield from affinity.lines(options.affinity, profile.cpus, home)


def _averages(result: PmbenchResult, thread: int) -> Iterator[str]:
    a = averages(result, thread)
    yield f"Thread {thread + 1}/{result.options.jobs}:"
    yield (
        f"Net average page latency (Arith. mean): {a.net:0.4f} us "
        f"({clocks(a.net)} clks)"
    )
    yield "--- Measurement details ---"
    yield _detail("Page latency during benchmark (inc. gen):", a.mean)
    yield f"    Total samples count: {a.samples}"
    yield _detail("Pattern generation overhead per drawing :", a.draw)
    yield f"    Total samples count: {DRAWS}"
    if a.warmup is not None:
        yield _detail("Page latency during warmup              :", a.warmup)
        yield f"    Total samples count: {result.warmup_accesses}"


def _detail(what: str, us: float) -> str:
    return f"  {what} {us:0.4f} us ({clocks(us)} clks)"


def _statistics(result: PmbenchResult) -> Iterator[str]:
    if result.options.access == "touch":
        yield "touch_report: nothing to report"
        return
    yield "# Access latency histogram"
    for kind, name, on in (
        (0, "Read:", result.options.ratio > 0),
        (1, "Write:", result.options.ratio < 100),
    ):
        if on:
            yield name
            yield from histogram(result.histogram[kind])


def histogram(bins: np.ndarray) -> Iterator[str]:
    """One kind's samples: octaves from 2^8 ns, the lower ones in 16 parts."""
    yield f"2^(00,08) ns: {bins[0]}"
    octaves = bins[1:].reshape(-1, 16)
    for i, parts in enumerate(octaves[:OCTAVES]):
        listed = ", ".join(map(str, parts.tolist()))
        yield f"2^({i + 8:02d},{i + 9:02d}) ns: {parts.sum()}  [{listed}]"
    for low, count in long_octaves(bins):
        high = 32 if low == 30 else low + 1
        yield f"2^({low},{high}) ns: {count}"
    yield f"Total samples: {bins.sum()}"
    yield ""


def long_octaves(bins: np.ndarray) -> Iterator[tuple[int, int]]:
    """Binary exponent and samples of those from 2^23 ns on; the last is 2^30 to 2^32."""
    octaves = bins[1:].reshape(-1, 16).sum(1).tolist()
    for i, count in enumerate(octaves[OCTAVES : OCTAVES + 7]):
        yield i + 23, count
    yield 30, sum(octaves[OCTAVES + 7 :])


def snapshots(result: PmbenchResult) -> list[tuple[str, Numbers]]:
    """Memory at each moment that is reported; there is no page cache and no swap."""
    o = result.options
    maps = max(len(o.affinity), 1)
    used, size = o.folios * 4, o.mapsize_mib * 4096 * maps
    rest = (0,) * 5
    empty, full = (size, 0, 0, 0, 0, *rest), (size - used, 0, 0, used, 0, *rest)
    warm = [] if o.cold else [("pre-warmup", empty)]
    # Without a warm-up no memory has been touched before the run.
    before = [*warm, ("pre-run", empty if o.cold else full)]
    return [*before, ("mid-run", full), ("post-run", full), ("post unmap", empty)]


def _memory(result: PmbenchResult) -> Iterator[str]:
    """Snapshots, and what changed between two of them."""
    yield COLUMNS
    shots = snapshots(result)
    for i, (name, numbers) in enumerate(shots):
        yield f"{name:10}:{_cells(numbers)}"
        if i + 1 < len(shots):
            pairs = zip(numbers, shots[i + 1][1], strict=True)
            yield "  (delta) :" + _cells(
                tuple(after - before for before, after in pairs)
            )


def _cells(numbers: Numbers) -> str:
    narrow, wide = numbers[:5], numbers[5:]
    return " ".join([*(f"{n:8d}" for n in narrow), *(f"{n:9d}" for n in wide)])
