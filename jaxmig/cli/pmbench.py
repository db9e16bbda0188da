"""`jaxmig pmbench`: the benchmark's own options and report, while pages migrate."""

import argparse
from collections.abc import Iterator

from jaxmig.cli import options, output, pictures, pmargs, runtime
from jaxmig.cli.errors import Failure, Usage, say
from jaxmig.cli.parsers.pmbench import SLICE_MS
from jaxmig.cli.progress import progress
from jaxmig.cli.room import check_timeline
from jaxmig.linux.releases import BOTH
from jaxmig.programs import stalls
from jaxmig.programs.workloads import pmreport, pmxml, trace as trace_files
from jaxmig.programs.workloads.patterns import PATTERNS
from jaxmig.programs.workloads.pmbench import Options, PmbenchResult, run as benchmark
from jaxmig.report.units import count, duration, rate
from jaxmig.time import machines
from jaxmig.time.timeline import alike, timetable
from jaxmig.time.timeline.timetable import DEFAULT_LIMITS

LONGEST_DELAY = 10**8  # cycles
LARGEST_SHAPE = 10**12
MOST_LIMITS = 1000


def _options(args: argparse.Namespace) -> Options:
    """The options, refused in the original's words where it refuses them."""
    if args.duration < 1:
        raise Failure("invalid parameter: duration must be positive integer")
    if args.mapsize < args.setsize or args.setsize < 1:
        raise Failure("invalid parameter combination: mapsize < setsize")
    for name, known in (
        ("pattern", PATTERNS),
        ("access", pmargs.ACCESSES),
        ("timestamp", pmargs.TIMESTAMPS),
    ):
        if getattr(args, name) not in known:
            raise Failure(f"{name} name unrecognized. Use {', '.join(known)}")
    if not 0 <= args.ratio <= 100:
        raise Failure("read/write ratio out of bounds, must be from 0-100.")
    # The original computes with whatever it is given.
    draws = args.pattern in ("pareto", "zipf")
    if not abs(args.shape) <= LARGEST_SHAPE or (draws and args.shape <= 0):
        least = "more than 0" if draws else f"at least -{LARGEST_SHAPE:,}"
        problem = f"{least} and at most {LARGEST_SHAPE:,} for {args.pattern}"
        raise Failure(f"--shape {args.shape}: give {problem}")
    if args.offset > 1023:
        raise Failure("page offset out of bounds, must be from 0-1023.")
    if args.delay > LONGEST_DELAY:
        raise Failure(f"--delay {args.delay}: at most {LONGEST_DELAY:,} cycles")
    if args.affinityset and args.jobs is not None:
        raise Failure("jobs parameter shouldn't be specified if using affinityset")
    sets = pmargs.sets(args)
    jobs = sum(one.threads for one in sets) or (1 if args.jobs is None else args.jobs)
    if not 1 <= jobs <= options.MAX_CPUS:
        raise Failure("invalid parameter combination: jobs less than zero")
    trace = trace_files.load(args.trace) if args.trace else None
    return Options(
        trace=trace,
        duration_sec=args.duration,
        mapsize_mib=args.mapsize,
        setsize_mib=args.setsize,
        initialize=args.initialize,
        shape=args.shape,
        delay=args.delay,
        quiet=args.quiet,
        cold=args.cold,
        jobs=len(trace.lanes) if trace else jobs,
        affinity=sets,
        offset=args.offset,
        ratio=args.ratio,
        pattern=args.pattern,
        access=args.access,
        tsops=args.timestamp,
        wrneedsrd=args.wrneedsrd,
        threshold=args.threshold,
        home=0 if args.migrate is None else _nodes(args.migrate),
    )


def run(args: argparse.Namespace) -> int:
    """Run on each kernel and print each report, then the migrations side by side."""
    o = _options(args)
    runtime.prepare()
    profile = machines.load(args.machine)
    profile.copy_speedups(args.copy)
    check_timeline(f"pmbench -s {o.setsize_mib}", o.folios, "give a smaller -s")
    kernels = (None,) if args.migrate is None else args.kernel or BOTH
    files = pmargs.files(args.file, kernels)
    modelled = min(args.modelled or SLICE_MS, o.duration_sec * 1000)
    if modelled < o.duration_sec * 1000:
        whole = f"{o.duration_sec} s"
        say(f"jaxmig pmbench: {modelled} ms of {whole} are modelled; see --modelled")
    for flag in ("threshold", "wrneedsrd"):
        if getattr(args, flag):
            say(f"jaxmig pmbench: --{flag} changes nothing that is modelled")
    if args.plot and not args.limits:
        raise Usage("--plot draws what --limits finds; give both")
    if args.limits:
        if args.migrate is None:
            raise Usage("--limits needs a migration: --migrate 0:1")
        if files:
            raise Usage("--limits prints a table, no report; leave out -f")
        return _limits(args, o, profile, modelled)
    results = []
    for kernel in kernels:
        with progress(1, f"pmbench, {kernel or 'no migration'}") as tick:
            r = benchmark(
                o,
                profile,
                kernel,
                batch=args.batch,
                copy=args.copy,
                modelled_ns=modelled * 10**6,
            )
            tick("done")
        results.append(r)
        lines = [
            *([] if o.quiet else pmreport.progress(r)),
            *pmreport.report(r, profile),
        ]
        print("\n".join(lines))
        if kernel in files:
            with output.drafted(str(files[kernel])) as file:
                file.write(pmxml.document(r, profile))
    if args.migrate is not None:
        print(_summary(results, profile))
    return 0


def _nodes(text: str) -> int:
    """FROM of FROM:TO, which must be the machine's two nodes."""
    old, colon, new = text.partition(":")
    known = {"0", "1"}
    if not colon or old not in known or new not in known or old == new:
        raise Usage(f"--migrate {text}: write 0:1 or 1:0")
    return int(old)


def _limits(
    args: argparse.Namespace, options: Options, profile: machines.Profile, modelled: int
) -> int:
    """Run each batch limit, then print the table and draw the picture, if any."""
    pictures.check(args.plot)
    limits = list(_batches(args.limits))
    kernel = (args.kernel or ("6.3",))[-1]
    tables = alike(
        [
            timetable(
                profile, options.folios, kernel=kernel, batch=batch, copy=args.copy
            )
            for batch in limits
        ]
    )
    points = []
    with progress(len(limits), "pmbench, batch limits") as tick:
        for batch, table in zip(limits, tables, strict=True):
            ns = modelled * 10**6
            r = benchmark(options, profile, kernel, table=table, modelled_ns=ns)
            points.append(stalls.point(batch, r, round(profile["access.walk"])))
            tick(f"limit {batch}")
    print(stalls.trade_off(points))
    what = f"pmbench -s {options.setsize_mib} -j {options.jobs} -p {options.pattern}"
    title = f"{what}, {kernel} on {profile.name}, copy by {args.copy}"
    pictures.trade_off(args.plot, points, title)
    return 0


def _batches(text: str) -> Iterator[int]:
    if text == "all":
        yield from DEFAULT_LIMITS
        return
    words = text.split(",")
    if len(words) > MOST_LIMITS:
        raise Usage(f"--limits: {len(words):,} of them; give at most {MOST_LIMITS:,}")
    for word in words:
        try:
            yield options.whole("base pages", 0, 1 << 20)(word)
        except argparse.ArgumentTypeError as error:
            raise Usage(f"--limits: {error}") from None


def _summary(results: list[PmbenchResult], profile: machines.Profile) -> str:
    lines = ["", "------------------ Migration ------------------"]
    for r in results:
        s = stalls.of_result(r, round(profile["access.walk"]))
        ipis = int(r.totals.ipis.sum())
        pages = r.totals.folios
        lines += [
            f"kernel {r.kernel}: {count(pages)} pages, {rate(r.pages_per_s)} pages/s; "
            f"{count(ipis)} TLB shootdown interrupts",
            f"  waits {count(s.waits)}: p50 {duration(s.p50)}, p99 {duration(s.p99)}, "
            f"p99.9 {duration(s.p999)}, max {duration(s.longest)}; "
            f"{100 * s.share:.1f} % of the threads' time",
            f"  threads waited in all: p50 {duration(s.thread_p50)}, p99 "
            f"{duration(s.thread_p99)}, p99.9 {duration(s.thread_p999)}, max "
            f"{duration(s.thread_max)}",
            f"  {rate(r.accesses_per_s)} accesses/s; lost to interrupts "
            f"{s.lost_ipis:.0f}, to TLB refills {s.lost_refills:.0f} accesses",
        ]
    return "\n".join(lines)
