"""pmbench's own report and progress lines, of a modelled run.

Source: print_con_report() and print_result() in pmbench.c, dump_histogram_64() in
access.c of pmbench 0.9.
"""

import uuid
from collections.abc import Iterator
from typing import Final

import numpy as np

from jaxmig.machines import Profile
from jaxmig.workloads.pmbench import DRAWS, Options, Result

VERSION: Final = "pmbench 0.9"
CYCLES_KHZ: Final = 2_100_000  # of the modelled time stamp counter (assumed)
OCTAVES: Final = 15  # that are printed with their parts: 2^8 ... 2^23 ns
COLUMNS: Final = (
    "            free(K) buffer(K) cache(K) active(K) inactv(K) pgpgin   pgpgout"
    "    pswpin   pswpout pgmajfaut"
)


def _clocks(us: float) -> int:
    return int(us * CYCLES_KHZ / 1000)


def progress(r: Result) -> Iterator[str]:
    """The lines printed while it runs, thread by thread."""
    o = r.options
    for t in range(1, o.jobs + 1):
        size = f"{o.pages} ({o.setsize_mib} MiB)"
        draw = f"{r.draw_ns / 1000:0.4f} usec per drawing"
        yield f"[{t}] num_pages: {size}, shape: {o.shape:0.4f}"
        yield f"[{t}] Pattern generation overhead: {draw}"
        if r.warmup_ns is not None:
            yield f"[{t}] Performing {r.warmup_accesses} page accesses for warmup"
            yield f"[{t}] Warmup done - took {int(r.warmup_ns[t - 1]) // 1000} us"
        yield f"[{t}] Starting main benchmark"
        n, ns = int(r.totals.accesses[t - 1]), int(r.ran_ns[t - 1])
        yield f"[{t}] Benchmark done - took {ns / 1e9:0.3f} sec for {n} page access"
        yield f"  (Average {ns / 1000 / max(n, 1):0.3f} usec per page access)"
    yield "All threads joined"


def report(r: Result, profile: Profile, when: str = "modelled time") -> Iterator[str]:
    """Every line of the report, in the original's order."""
    yield from ("", "------------- Benchmark signature -------------")
    yield f"pmbench version: {VERSION}"
    yield f"Hostname       : {profile.name}"
    yield f"OS/kernel type : Linux {r.kernel or 'without migration'} {profile.arch}"
    yield f"Reported on    : {when}"
    yield f"Benchmark UUID : {uuid.uuid5(uuid.NAMESPACE_OID, repr(r.options))}"
    yield "Parameters used:"
    yield from _parameters(r.options)
    yield from ("", "------------- Machine information -------------")
    yield f"CPU model name: {profile.title}"
    yield f"rdtsc/perfc frequency: {CYCLES_KHZ} K cycles per second"
    sets, ways = profile.tlb
    yield " -- TLB info --"
    yield f"  4 KiB pages: {sets * ways} entries, {ways}-way"
    yield " -- Cache info --"
    yield "  not modelled"
    yield from ("", "----------- Average access latency ------------")
    for t in range(r.options.jobs):
        yield from _averages(r, t)
    yield from ("", "----------------- Statistics ------------------")
    yield from _statistics(r)
    yield from ("", "---------- System memory information ----------")
    yield from _memory(r)


def _parameters(o: Options) -> Iterator[str]:
    yield f"  duration_sec = {o.duration_sec}"
    yield f"  mapsize_mib  = {o.mapsize_mib}"
    yield f"  setsize_mib  = {o.setsize_mib}"
    yield f"  initialize   = {int(o.initialize)}"
    yield f"  shape        = {o.shape:f}"
    yield f"  delay        = {o.delay}"
    yield f"  quiet        = {int(o.quiet)}"
    yield f"  cold         = {int(o.cold)}"
    yield f"  jobs         = {o.jobs}"
    yield f"  offset       = {'random' if o.offset < 0 else o.offset}"
    yield f"  ratio        = {o.ratio}%"
    yield f"  pattern      = {o.pattern}"
    yield f"  access       = {o.access}"
    yield f"  tsops        = {o.tsops}"


def _averages(r: Result, t: int) -> Iterator[str]:
    o = r.options
    n = int(r.totals.accesses[t])
    mean, draw = r.ran_ns[t] / 1000 / max(n, 1), r.draw_ns / 1000
    net = mean - draw
    yield f"Thread {t + 1}/{o.jobs}:"
    yield f"Net average page latency (Arith. mean): {net:0.4f} us ({_clocks(net)} clks)"
    yield "--- Measurement details ---"
    yield _detail("Page latency during benchmark (inc. gen):", mean)
    yield f"    Total samples count: {n}"
    yield _detail("Pattern generation overhead per drawing :", draw)
    yield f"    Total samples count: {DRAWS}"
    if r.warmup_ns is not None:
        warm = r.warmup_ns[t] / 1000 / r.warmup_accesses
        yield _detail("Page latency during warmup              :", warm)
        yield f"    Total samples count: {r.warmup_accesses}"


def _detail(what: str, us: float) -> str:
    return f"  {what} {us:0.4f} us ({_clocks(us)} clks)"


def _statistics(r: Result) -> Iterator[str]:
    if r.options.access == "touch":
        yield "touch_report: nothing to report"
        return
    yield "# Access latency histogram"
    for kind, name, on in (
        (0, "Read:", r.options.ratio > 0),
        (1, "Write:", r.options.ratio < 100),
    ):
        if on:
            yield name
            yield from histogram(r.histogram[kind])


def histogram(bins: np.ndarray) -> Iterator[str]:
    """One kind's samples: octaves from 2^8 ns, the lower ones in 16 parts."""
    yield f"2^(00,08) ns: {bins[0]}"
    octaves = bins[1:].reshape(-1, 16)
    for i, parts in enumerate(octaves[:OCTAVES]):
        listed = ", ".join(map(str, parts.tolist()))
        yield f"2^({i + 8:02d},{i + 9:02d}) ns: {parts.sum()}  [{listed}]"
    for i, parts in enumerate(octaves[OCTAVES : OCTAVES + 7]):
        yield f"2^({i + 23},{i + 24}) ns: {parts.sum()}"
    yield f"2^(30,32) ns: {octaves[OCTAVES + 7 :].sum()}"
    yield f"Total samples: {bins.sum()}"
    yield ""


def _memory(r: Result) -> Iterator[str]:
    """Memory of the modelled machine; it has no page cache and no swap."""
    o = r.options
    used, size = o.pages * 4, o.mapsize_mib * 4096
    empty = (size, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    full = (size - used, 0, 0, used, 0, 0, 0, 0, 0, 0)
    delta = tuple(b - a for a, b in zip(empty, full, strict=True))
    yield COLUMNS
    rows = [("pre-run   :", full), ("  (delta) :", (0,) * 10)]
    if not o.cold:
        rows = [("pre-warmup:", empty), ("  (delta) :", delta), *rows]
    rows += [("mid-run   :", full), ("  (delta) :", (0,) * 10)]
    rows += [("post-run  :", full), ("  (delta) :", (0,) * 10), ("post unmap:", empty)]
    for name, numbers in rows:
        cells = [f"{n:8d}" for n in numbers[:5]] + [f"{n:9d}" for n in numbers[5:]]
        yield name + " ".join(cells)
