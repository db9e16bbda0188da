"""pmbench: its random numbers and patterns, its report, and memhog's and migspeed's."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from jaxmig import machines, stalls
from jaxmig.workloads import memhog, migspeed, pmreport, selftest, trace
from jaxmig.workloads.lcg import Lcg
from jaxmig.workloads.patterns import PATTERNS
from jaxmig.workloads.pmbench import Options, run, thread

MASK = (1 << 64) - 1
TOP = 2**31 - 1


class Dice:
    """The generator once more, one number at a time."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def __call__(self) -> int:
        step = self.state * 6364136223846793005 + 1442695040888963407
        self.state = step & MASK
        return self.state >> 33


def linear(n: int, shape: float, t: int):
    at = phase = 0
    while True:
        yield at
        at += int(shape)
        if at >= n:
            phase = (phase + 1) % int(shape)
            at = phase


def uniform(n: int, shape: float, t: int):
    dice = Dice(t + 2)
    while True:
        yield dice() % n


def normal(n: int, shape: float, t: int):
    dice = Dice(t + 5)
    while True:
        w = 1.0
        while w >= 1.0:
            a, b = 2.0 * (dice() / TOP) - 1.0, 2.0 * (dice() / TOP) - 1.0
            w = a * a + b * b
        scale = math.sqrt(-2.0 * math.log(w) / w)
        for y in (a * scale * int(shape) + n // 2, b * scale * int(shape) + n // 2):
            yield int(y) if -1 < y < n else n // 2


def normal_ih(n: int, shape: float, t: int):
    dice = Dice(t + 3)
    last = n - 1
    size = 12 * ((last + 5) // 12)
    while True:
        page = sum(dice() % size for _ in range(12)) // 12 + int((last - size) / 2)
        if 0 <= page <= last:
            yield page


def pareto(n: int, shape: float, t: int):
    dice = Dice(t + 8)
    while True:
        u = (dice() % TOP) / TOP
        yield (
            int(math.pow(1.0 - u * (1.0 - math.pow(1.0 / n, shape)), -1.0 / shape)) - 1
        )


def test_first_numbers() -> None:
    """Seed 3: computed by hand from the two constants."""
    assert (
        Lcg(3).next(1)[0]
        == ((3 * 6364136223846793005 + 1442695040888963407) & MASK) >> 33
    )
    dice = Dice(99)
    assert Lcg(99).next(5000).tolist() == [dice() for _ in range(5000)]


@pytest.mark.parametrize(
    ("name", "golden", "shape"),
    [
        ("linear", linear, 3.0),
        ("linear", linear, 1.0),
        ("uniform", uniform, 1.0),
        ("normal", normal, 40.0),
        ("normal_ih", normal_ih, 1.0),
        ("pareto", pareto, 1.00001),
        ("zipf", pareto, 0.5),
    ],
)
@pytest.mark.parametrize("n", [1000, 32768])
def test_patterns(name: str, golden, shape: float, n: int) -> None:
    """Every pattern, in blocks of uneven length, for two threads."""
    for t in (1, 4):
        pattern, want = PATTERNS[name](n, shape, t), golden(n, shape, t)
        for size in (1, 7, 3000):
            assert pattern.next(size).tolist() == [next(want) for _ in range(size)]


def test_offsets_and_actions() -> None:
    """Offset and action have generators of their own; the ratio is in 1024ths."""
    pages, words, stores = thread(Options(ratio=30), 2)(500)
    offset, action = Dice(9), Dice(52)
    assert words.tolist() == [offset() >> 21 for _ in range(500)]
    assert stores.tolist() == [int(action() % 1024 >= 307) for _ in range(500)]
    assert len(pages) == 500
    assert set(thread(Options(offset=17), 1)(50)[1].tolist()) == {17}


@pytest.mark.parametrize(("name", "n"), [("linear", 1), ("uniform", 4), ("pareto", 8)])
def test_warmup(name: str, n: int) -> None:
    """Warm-up accesses are a multiple of the pages; normal_ih's are one less."""
    assert PATTERNS[name](512, 1.0, 1).warmup == 512 * n
    assert PATTERNS["normal_ih"](512, 1.0, 1).warmup == 511


@pytest.fixture(scope="module")
def small():
    """Serial and batched on 4 MiB with three threads."""
    p = machines.load("xeon-2s")
    o = Options(setsize_mib=4, jobs=3)
    return p, {k: run(o, p, k, modelled_ns=4_000_000) for k in ("6.2", "6.3")}


NUMBER = r"\d+\.\d{4} us \(-?\d+ clks\)"
FORM = [
    r"------------- Benchmark signature -------------",
    r"pmbench version: pmbench 0\.9",
    r"Hostname       : \S+",
    r"OS/kernel type : Linux .+",
    r"Reported on    : .+",
    r"Benchmark UUID : [0-9a-f-]{36}",
    r"Parameters used:",
    r"  duration_sec = \d+",
    r"  mapsize_mib  = \d+",
    r"  setsize_mib  = \d+",
    r"  pattern      = uniform",
    r"------------- Machine information -------------",
    r"CPU model name: .+",
    r"rdtsc/perfc frequency: \d+ K cycles per second",
    r" -- TLB info --",
    r" -- Cache info --",
    r"----------- Average access latency ------------",
    r"Thread 1/3:",
    rf"Net average page latency \(Arith\. mean\): {NUMBER}",
    r"--- Measurement details ---",
    rf"  Page latency during benchmark \(inc\. gen\): {NUMBER}",
    r"    Total samples count: \d+",
    rf"  Pattern generation overhead per drawing : {NUMBER}",
    r"    Total samples count: 1000000",
    rf"  Page latency during warmup              : {NUMBER}",
    r"Thread 3/3:",
    r"----------------- Statistics ------------------",
    r"# Access latency histogram",
    r"Read:",
    r"2\^\(00,08\) ns: \d+",
    r"2\^\(08,09\) ns: \d+  \[(\d+, ){15}\d+\]",
    r"2\^\(22,23\) ns: \d+  \[(\d+, ){15}\d+\]",
    r"2\^\(23,24\) ns: \d+",
    r"2\^\(29,30\) ns: \d+",
    r"2\^\(30,32\) ns: \d+",
    r"Total samples: \d+",
    r"Write:",
    r"---------- System memory information ----------",
    r"pre-warmup:( *\d+){10}",
    r"post-run  :( *\d+){10}",
    r"post unmap:( *\d+){10}",
]


def test_report(small) -> None:
    """Every line of the original's form, in its order."""
    p, results = small
    lines = list(pmreport.report(results["6.3"], p))
    at = 0
    for form in FORM:
        found = [i for i in range(at, len(lines)) if re.fullmatch(form, lines[i])]
        assert found, form
        at = found[0] + 1
    samples = [int(x.split(": ")[1]) for x in lines if x.startswith("Total samples")]
    assert sum(samples) == int(results["6.3"].totals.accesses.sum())


def test_histogram_adds_up(small) -> None:
    """Sub-bins sum to their octave; long accesses are those that waited."""
    _, results = small
    for r in results.values():
        for kind in (0, 1):
            lines = list(pmreport.histogram(r.histogram[kind]))
            rows = [re.fullmatch(r".*ns: (\d+)  \[(.*)\]", x) for x in lines]
            for row in filter(None, rows):
                assert int(row[1]) == sum(map(int, row[2].split(", ")))
        slow = int(r.histogram[:, 1 + 16 * 4 :].sum())  # 2^12 ns and longer
        assert slow <= r.totals.stalls.sum()
        assert r.totals.accesses.sum() % 10_000 == 0


def test_batching_trades_interrupts_for_waits(small) -> None:
    """Batched: more pages a second, hardly an interrupt, longer waits."""
    p, results = small
    serial, batched = results["6.2"], results["6.3"]
    assert batched.pages_per_s > 1.5 * serial.pages_per_s
    assert batched.totals.ipis.sum() < 0.02 * serial.totals.ipis.sum()
    walk = round(p["access.walk"])
    a, b = (stalls.of_result(r, walk) for r in (serial, batched))
    assert b.longest > 10 * a.longest
    assert a.p50 <= a.p99 <= a.p999 <= a.longest
    text = stalls.trade_off([("1", serial), ("512", batched)], walk)
    assert len(text.splitlines()) == 4


def test_percentiles() -> None:
    """Bins end where the next one starts; nothing has percentile 0."""
    assert [stalls.upper(i) for i in (0, 1, 16, 17)] == [256, 272, 512, 544]
    bins = np.zeros(400, np.int64)
    assert stalls.percentile(bins, 0.5) == 0
    bins[1], bins[17] = 99, 1
    assert stalls.percentile(bins, 0.5) == 272
    assert stalls.percentile(bins, 0.999) == 544


def test_memhog() -> None:
    """1 GiB is 103 dots; all its pages move while it writes."""
    assert memhog.dots(1 << 30) == 103
    p = machines.load("xeon-2s")
    serial, batched = (memhog.run(4 << 20, 4, p, k) for k in ("6.2", "6.3"))
    assert serial.totals.folios == batched.totals.folios == 1024
    assert serial.trip_ns > batched.trip_ns
    assert batched.totals.ipis.sum() <= 2
    huge = memhog.run(4 << 20, 4, p, "6.3", thp=True)
    assert huge.totals.folios == 2


def test_migspeed() -> None:
    """The rate is size by time, in MiB."""
    p = machines.load("xeon-2s")
    ns = migspeed.call_ns(p, 0, 1000, "cpu", "serial")
    assert ns == 1000 * 2350  # 2,250 ns a page and one INVLPG
    last = migspeed.lines(1000, ns, 0, 1, 0x10000000)[-1]
    form = r"3\.9 Mbyte migrated in 0\.00 secs\. \d+\.\d Mbytes/second"
    assert re.fullmatch(form, last)


@pytest.mark.parametrize("thp", [False, True])
def test_selftest(thp: bool) -> None:
    """Readers of one address see it through every move."""
    p = machines.load("xeon-2s")
    t = selftest.run(p, "6.3", 40, readers=3, thp=thp)
    assert t.folios == 40
    assert t.wrong == 0
    assert t.stalls.sum() > 40


def test_trace(tmp_path) -> None:
    """The threads of a trace do its accesses, over and over."""
    file = tmp_path / "trace.txt"
    file.write_text("0 L 1000,8\n0 S 2004,4\n1 W 0x2000\n0 M 1008,4\n")
    made = trace.load(str(file))
    o = Options(trace=made, jobs=2)
    assert (o.pages, o.warmup, made.folios) == (2, 4, 2)
    pages, words, stores = thread(o, 1)(6)
    assert pages.tolist() == [0, 1, 0, 0, 0, 1]
    assert words.tolist() == [0, 1, 2, 2, 0, 1]
    assert stores.tolist() == [0, 1, 0, 1, 0, 1]
    p = machines.load("xeon-2s")
    r = run(o, p, "6.3", modelled_ns=10**5, trips=2)
    assert r.totals.folios == 4


@pytest.mark.slow
def test_command() -> None:
    """The command prints a report a kernel, and says what it cannot do."""
    go = [sys.executable, "-m", "jaxmig", "pmbench"]
    args = ["-s", "2", "-j", "2", "1", "--migrate", "0:1", "--modelled", "2"]
    done = subprocess.run([*go, *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Access latency histogram") == 2
    assert "TLB shootdown interrupts" in done.stdout
    bad = subprocess.run([*go, "0"], capture_output=True, text=True)
    assert bad.returncode == 1
    assert "duration must be positive integer" in bad.stderr
