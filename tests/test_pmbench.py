"""pmbench: its random numbers and patterns, its report, and memhog's and migspeed's."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from jaxmig.cli import main
from jaxmig.programs import stalls
from jaxmig.programs.workloads import (
    affinity,
    memhog,
    migspeed,
    pmbench,
    pmreport,
    pmxml,
    selftest,
    trace,
)
from jaxmig.programs.workloads.lcg import Lcg
from jaxmig.programs.workloads.patterns import PATTERNS
from jaxmig.programs.workloads.pmbench import Options, run, thread
from jaxmig.report import units
from jaxmig.show import plots
from jaxmig.sources.builder import FIRST_ADDRESS
from jaxmig.time import machines

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
    late = Lcg(99)
    late.skip(4990)
    assert late.next(10).tolist() == Lcg(99).next(5000)[4990:].tolist()


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
        pattern.skip(501)
        for _ in range(501):
            next(want)
        assert pattern.next(5).tolist() == [next(want) for _ in range(5)]


def test_offsets_and_actions() -> None:
    """Offset and action have generators of their own; the ratio is in 1024ths."""
    pages, words, stores = thread(Options(ratio=30), 2)(500)
    offset, action = Dice(9), Dice(52)
    assert words.tolist() == [offset() >> 21 for _ in range(500)]
    assert stores.tolist() == [int(action() % 1024 >= 307) for _ in range(500)]
    # The generator has been measured with a million drawings before.
    page = uniform(32768, 1.0, 2)
    for _ in range(10**6):
        next(page)
    assert pages.tolist() == [next(page) for _ in range(500)]
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
    r"  initialize   = [01]",
    r"  shape        = \d+\.\d{6}",
    r"  delay        = \d+",
    r"  quiet        = [01]",
    r"  cold         = [01]",
    r"  jobs         = \d+",
    r"  offset       = (random|\d+)",
    r"  ratio        = \d+%",
    r"  threshold    = \d+",
    r"  wrneedsrd    = [01]",
    r"  pattern      = uniform",
    r"  access       = histo",
    r"  tsops        = rdtscp",
    r"  affinityset  = NULL",
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


# Progress, one thread's; as prn() of the original formats it.
PROGRESS = [
    r"\[1\] num_pages: \d+ \(\d+ MiB\), shape: \d+\.\d{4}",
    r"\[1\] Pattern generation overhead: \d+\.\d{4} usec per drawing",
    r"\[1\] Performing \d+ page accesses for warmup",
    r"\[1\] Warmup done - took \d+ us",
    r"\[1\] Starting main benchmark",
    r"\[1\] Benchmark done - took \d+\.\d{3} sec for \d+ page access",
    r"  \(Average \d+\.\d{3} usec per page access\)",
]


def test_progress(small) -> None:
    """Seven lines a thread, then one."""
    _, results = small
    lines = list(pmreport.progress(results["6.3"]))
    for form, line in zip(PROGRESS, lines, strict=False):
        assert re.fullmatch(form, line)
    assert len(lines) == 3 * len(PROGRESS) + 1
    assert lines[-1] == "All threads joined"


def test_xml(small) -> None:
    """The elements that the original's readers look for, with the report's numbers."""
    p, results = small
    r = results["6.3"]
    root = ElementTree.fromstring(pmxml.document(r, p))
    assert root.tag == "pmbenchmark"
    assert root.findtext("report/signature/params/pattern") == "uniform"
    assert root.findtext("report/signature/params/offset") == "-1"
    threads = root.findall("report/result/result_thread")
    samples = [int(t.findtext("result_details/details_samples")) for t in threads]
    assert samples == r.totals.accesses[:3].tolist()
    for kind, histogram in enumerate(root.findall("report/statistics/histogram")):
        assert histogram.get("type") == ("read", "write")[kind]
        buckets = histogram.findall("histo_bucket")
        assert [int(b.get("index")) for b in buckets] == [*range(16), *[0] * 8]
        counts = [int(b.findtext("sum_count")) for b in buckets]
        assert sum(counts) == r.histogram[kind].sum()
        for bucket, count in zip(buckets[1:16], counts[1:16], strict=True):
            assert sum(int(h.text) for h in bucket.iter("hex")) == count
    memory = root.findall("report/sys_mem_info/sys_mem_item")
    names = ["pre-warmup", "pre-run", "mid-run", "post-run", "post-unmap"]
    assert [item.get("name") for item in memory] == names
    assert memory[0].findtext("mem_item_delta/active_kib") == str(4096)


def test_long_delays_have_short_blocks() -> None:
    """A block's times fit into 2^29 ns, however long a program thinks."""
    p = machines.load("xeon-2s")
    r = run(Options(setsize_mib=1, delay=10**7, cold=True), p, modelled_ns=10**10)
    each = int(r.ran_ns[0]) / int(r.totals.accesses[0])
    assert each == pytest.approx(5 * 10**6, rel=0.01)


def test_affinity_sets() -> None:
    """The last set is the first; threads have CPUs and maps of their own."""
    one, two = affinity.parse_all(["4-7:2", "9"], 32)
    assert (one.placed, two.placed) == ((9,), (4, 5))
    o = Options(setsize_mib=1, jobs=3, affinity=(one, two))
    assert o.folios == 512
    maps = [set((thread(o, t)(50)[0] // 256).tolist()) for t in (1, 2, 3)]
    assert maps == [{0}, {1}, {1}]
    text = list(affinity.lines((one, two), 32, (0, 0)))
    assert text[1] == "       cpumask = 00 00 00 00 00 00 02 00 "
    assert text[-1] == "       thread ids = 2 3 "
    for bad in ("32", "1:0", "1:x", "1-2:3", "x", ":"):
        with pytest.raises(affinity.AffinityError):
            affinity.parse(bad, 32)
    with pytest.raises(affinity.AffinityError, match="two sets"):
        affinity.parse_all(["1-3", "3"], 32)


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
    assert b.thread_p50 <= b.thread_p99 <= b.thread_p999 <= b.thread_max
    points = [stalls.point(n, r, walk) for n, r in ((1, serial), (512, batched))]
    assert points[1]["first_folio_ns"] > 100 * points[0]["first_folio_ns"] / 2
    assert len(stalls.trade_off(points).splitlines()) == 4
    panels = plots.trade_off(points).axes
    assert [len(a.lines) for a in panels] == [2, 2, 3, 5]
    assert all(a.get_xlabel() and a.get_ylabel() for a in panels)


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


def test_memhog_command(capsys) -> None:
    """Dots, usage on stdout with exit 1, and policies that say where the memory is."""
    assert main(["memhog", "-r2", "25m", "membind", "1"]) == 0
    assert capsys.readouterr().out == "...\n...\n"
    for bad in ([], ["-r0", "1m"], ["what"], ["1m", "nowhere"]):
        assert main(["memhog", *bad]) == 1
        out = capsys.readouterr().out
        assert out.startswith("memhog [-fFILE] [-rNUM] [-H] size[kmg]")
        assert "weighted-interleave" in out
    assert main(["memhog", "1m", "interleave", "0,1", "--migrate", "0:1"]) == 1
    assert "both nodes" in capsys.readouterr().err
    assert main(["memhog", "1m", "membind", "1", "--migrate", "0:1"]) == 1
    assert "node 1" in capsys.readouterr().err


def test_migspeed() -> None:
    """The rate is size by time, in MiB."""
    p = machines.load("xeon-2s")
    ns = migspeed.call_ns(p, 0, 1000, "cpu", "serial")
    assert ns == 1000 * 2350 + 2500  # 2,250 ns a page and one INVLPG
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


# The program of `small`, so that it is compiled already.
COMMAND = ("pmbench", "-s", "4", "1", "--modelled", "4")


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXMIG_NO_CACHE", "1")


def test_the_command_prints_a_report_a_kernel(small, tmp_path, capsys) -> None:
    """The numbers of the runs, a file of each kernel, and the migrations together."""
    p, results = small
    file = tmp_path / "r.xml"
    args = ("-j", "3", "--migrate", "0:1", "-f", str(file))
    assert main([*COMMAND, *args]) == 0
    out, said = capsys.readouterr()
    assert said == "jaxmig pmbench: 4 ms of 1 s are modelled; see --modelled\n"
    assert out.count("Access latency histogram") == out.count("All threads joined") == 2
    migrations = out.partition("- Migration -")[2]
    for kernel, r in results.items():
        s = stalls.of_result(r, round(p["access.walk"]))
        line = (
            f"kernel {kernel}: {units.count(r.totals.folios)} pages, .* pages/s; "
            f"{units.count(int(r.totals.ipis.sum()))} TLB shootdown interrupts\n"
            f"  waits {units.count(s.waits)}: .*; {100 * s.share:.1f} % of the threads'"
        )
        assert re.search(line, migrations)
        root = ElementTree.parse(tmp_path / f"r-{kernel}.xml").getroot()
        samples = [int(x.text) for x in root.iter("details_samples")]
        assert samples == r.totals.accesses[:3].tolist()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_command_without_a_migration(tmp_path, capsys) -> None:
    """A set of three CPUs, cold and quiet; what changes nothing is said."""
    file = tmp_path / "r.xml"
    args = ("-y", "3-5", "-c", "-q", "-z", "-h", "9", "-f", str(file))
    assert main([*COMMAND, *args]) == 0
    out, said = capsys.readouterr()
    assert "thread ids = 1 2 3" in out
    assert "threads joined" not in out
    assert "Migration" not in out
    assert re.findall(r": (--\w+) changes nothing that is modelled\n", said) == [
        "--threshold", "--wrneedsrd"
    ]  # fmt: skip
    params = ElementTree.parse(file).getroot().find("report/signature/params")
    found = [params.findtext(name) for name in ("jobs", "cold", "quiet", "pattern")]
    assert found == ["3", "1", "1", "uniform"]


def test_limits_are_a_row_and_a_point_each(small, tmp_path, capsys) -> None:
    file = tmp_path / "x.svg"
    args = ("-j", "3", "--migrate", "0:1", "--limits", "512", "--plot", str(file))
    assert main([*COMMAND, *args]) == 0
    p, results = small
    point = stalls.point(512, results["6.3"], round(p["access.walk"]))
    assert capsys.readouterr().out == stalls.trade_off([point]) + "\n"
    assert "pmbench -s 4 -j 3 -p uniform, 6.3 on xeon-2s" in file.read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("0", 1, "invalid parameter: duration must be positive integer"),
        ("-m 1 -s 2 1", 1, "invalid parameter combination: mapsize < setsize"),
        ("-p odd 1", 1, "pattern name unrecognized. Use linear, .*, zipf"),
        ("-a x 1", 1, "access name unrecognized. Use touch, histo"),
        ("-t perfc 1", 1, "timestamp name unrecognized. Use rdtsc, rdtscp"),
        ("-r 101 1", 1, "read/write ratio out of bounds, must be from 0-100."),
        ("-o 1024 1", 1, "page offset out of bounds, must be from 0-1023."),
        ("-d 999999999 1", 1, "--delay 999999999: at most 100,000,000 cycles"),
        ("-p pareto -e 0 1", 1, "--shape 0.0: give more than 0 and at most"),
        ("-p zipf -e -5 1", 1, "--shape -5.0: give more than 0 and at most"),
        ("-p pareto -e nan 1", 1, "--shape nan: give more than 0 and at most"),
        ("-p normal -e inf 1", 1, "--shape inf: give at least -.* and at most"),
        ("-p linear -e 1e300 1", 1, r"--shape 1e\+300: give at least -.* and at most"),
        ("-j 0 1", 1, "invalid parameter combination: jobs less than zero"),
        ("-j 2 -y 3 1", 1, "jobs parameter shouldn't be specified"),
        ("-y 99 1", 1, "affinityset argument syntax error. '99' names no CPUs"),
        ("-y 1,20 1", 1, "affinityset: a map is bound .*; name CPUs of one node"),
        ("-y 1 -y 20 1 --migrate 0:1", 1, "affinityset: .*; name CPUs of one node"),
        ("-y 20 1 --migrate 0:1", 1, "--migrate 0:1: the CPUs .* are on node 1, and"),
        ("-y 3 --trace x 1", 2, "--trace says what each CPU does; leave out -y"),
        ("1 --migrate 0:2", 2, "--migrate 0:2: write 0:1 or 1:0"),
        ("1 --plot x.svg", 2, "--plot draws what --limits finds; give both"),
        ("1 --limits 8", 2, "--limits needs a migration: --migrate 0:1"),
        ("1 --limits 8 --migrate 0:1 -f x", 2, "--limits prints a table, .* leave out"),
        ("1 --limits 8,x --migrate 0:1", 2, "--limits: .*'x'"),
        (f"1 --migrate 0:1 --limits {'8,' * 1000}8", 2, "--limits: 1,001 of them"),
    ],
)
def test_what_pmbench_refuses(words: str, code: int, said: str, capsys) -> None:
    """In the original's words where it refuses the same."""
    assert main(["pmbench", *words.split()]) == code
    assert re.match(f"jaxmig pmbench: {said}", capsys.readouterr().err.splitlines()[-1])


def test_memhog_tells_what_its_thread_lost(capsys) -> None:
    """Each kernel's migration, as the program itself counts it."""
    args = ["memhog", "-r4", "4m", "membind", "0", "--migrate", "0:1"]
    assert main(args) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:4] == ["."] * 4
    assert len(out) == 4 + 2 * 2
    p = machines.load("xeon-2s")
    for kernel, first, second in zip(("6.2", "6.3"), out[4::2], out[5::2], strict=True):
        h = memhog.run(4 << 20, 4, p, kernel)
        ipis = units.count(int(h.totals.ipis.sum()))
        assert first.startswith(
            f"kernel {kernel}: 1,024 pages in {units.duration(h.trip_ns)}, "
        )
        assert first.endswith(f"; {ipis} TLB shootdown interrupts")
        assert f" {units.duration(h.ran_ns)} after the first pass; waited " in second
    for words, code, said in (
        ("1m --migrate 1:1", 2, "--migrate 1:1: write 0:1 or 1:0"),
        ("1m membind --migrate 0:1", 2, "membind: name its nodes, 0 or 1"),
    ):
        assert main(["memhog", *words.split()]) == code
        assert said in capsys.readouterr().err


def test_migspeed_command(capsys) -> None:
    """Serial and batched, a line of the tool's for each."""
    assert main(["migspeed", "-v", "-p", "512", "1", "0"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"^kernel (\S+), 512 pages from 1 to 0$", out, re.M) == [
        "6.2",
        "6.3",
    ]
    p = machines.load("xeon-2s")
    for policy in ("serial", "batched"):
        ns = migspeed.call_ns(p, 0, 512, "cpu", policy)
        assert "\n".join(migspeed.lines(512, ns, 1, 0, FIRST_ADDRESS)) in out
    assert main(["migspeed", "1", "1"]) == 2
    assert "1 1: nothing to migrate; name two nodes" in capsys.readouterr().err


def test_memory_begins_on_the_node_that_it_leaves_first() -> None:
    p = machines.load("xeon-2s")
    near, far = (
        [pmbench._nodes(Options(jobs=n, home=home), p, n) for n in (2, p.cpus)]
        for home in (0, 1)
    )
    assert near[0] == [0, 0]
    assert far[0] == [1, 1]
    assert [a + b for a, b in zip(near[1], far[1], strict=True)] == [1] * p.cpus
