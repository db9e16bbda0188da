"""pmbench 0.9 on the modelled machine, while its memory migrates if that is asked for.

Thread t runs on CPU t and the migration on CPU 0.  With affinity sets threads run on the
sets' CPUs, and the migration on a CPU without threads.  All threads of a set use the same
map; each has its own generators for page, offset and action, seeded as in the original.

Source: pmbench.c, pattern.c and access.c of pmbench 0.9.
"""

import dataclasses
from collections.abc import Callable
from typing import Final

import numpy as np

from jaxmig.programs.workloads.affinity import AffinitySet
from jaxmig.programs.workloads.lcg import Lcg
from jaxmig.programs.workloads.patterns import PATTERNS
from jaxmig.programs.workloads.streams import Draw, Streams, block_for
from jaxmig.programs.workloads.trace import Trace
from jaxmig.state.machine import PMD_PAGES
from jaxmig.time.access import BINS, Shape
from jaxmig.time.machines import Profile
from jaxmig.time.timeline import Run, Timetable, Totals, costs_of, timetable

CHECK: Final = 10_000  # accesses between two readings of the time
DRAWS: Final = 1_000_000  # drawings that measure the generator
PAGES_A_MIB: Final = 256
# ns of one draw: not published, so estimated from its divisions and calls (assumed).
DRAW_NS: Final = {
    "linear": 2,
    "uniform": 8,
    "normal": 30,
    "normal_ih": 90,
    "pareto": 40,
    "zipf": 40,
}
LOOP_NS: Final = 20  # two time stamps and the record of an access (assumed)
Tick = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """The command line; sizes in MiB, times in seconds, names as in the original."""

    duration_sec: int = 1
    mapsize_mib: int = 256
    setsize_mib: int = 128
    initialize: bool = False
    shape: float = 1.00001
    delay: int = 0
    quiet: bool = False
    cold: bool = False
    jobs: int = 1
    offset: int = -1  # random
    ratio: int = 50
    pattern: str = "uniform"
    access: str = "histo"
    tsops: str = "rdtscp"
    wrneedsrd: bool = False
    threshold: int = 0
    trace: Trace | None = None  # accesses of a file instead of a pattern
    affinity: tuple[AffinitySet, ...] = ()
    home: int = 0  # the node that memory is on at first; without affinity sets

    @property
    def folios(self) -> int:
        """Folios of all maps; each affinity set has its own map."""
        return self.pages * max(len(self.affinity), 1)

    @property
    def huge(self) -> int:
        """Folios of 2 MiB: only a trace has any."""
        return self.trace.huge if self.trace else 0

    @property
    def pages(self) -> int:
        """Folios of the working set: base pages, but for those of a trace."""
        return self.trace.folios if self.trace else self.setsize_mib * PAGES_A_MIB

    @property
    def warmup(self) -> int:
        """Accesses of each thread before the main run."""
        if self.trace:
            return max(self.trace.accesses)
        return PATTERNS[self.pattern](self.pages, self.shape, 1).warmup


@dataclasses.dataclass
class PmbenchResult:
    """The results of one run."""

    options: Options
    kernel: str | None  # of the migration; None: no migration
    table: Timetable
    totals: Totals
    ran_ns: np.ndarray  # by thread
    warmup_ns: np.ndarray | None
    warmup_accesses: int
    modelled_ns: int
    draw_ns: int
    baseline_walks: float  # page walks per access before the migration

    @property
    def pages_per_s(self) -> float:
        """Base pages migrated per second, over whole trips if one was finished."""
        t = self.totals
        if t.trips_ns:
            trips = t.folios // self.table.folios
            return trips * self.table.pages * 1e9 / t.trips_ns
        part = t.folios / max(self.table.folios, 1)
        return part * self.table.pages * 1e9 / max(self.modelled_ns, 1)

    @property
    def accesses_per_s(self) -> float:
        """Loads and stores of all threads per second."""
        return float(self.totals.accesses.sum() * 1e9 / max(self.ran_ns.max(), 1))

    @property
    def histogram(self) -> np.ndarray:
        """Samples by kind (loads, stores) and bin."""
        return self.totals.latency.reshape(2, BINS)


def thread(options: Options, number: int) -> Draw:
    """The accesses of thread `number`, counted from 1."""
    if options.trace:
        return options.trace.draw(number - 1)
    pattern = PATTERNS[options.pattern](options.pages, options.shape, number)
    pattern.skip(DRAWS)  # the original has measured the generator by now
    start = options.pages * _set_of(options, number)
    offsets, actions = Lcg(number + 7), Lcg(number + 50)
    reads = options.ratio * 1024 // 100

    def draw(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pages = pattern.next(n)
        fixed = np.full(n, max(options.offset, 0))
        words = offsets.next(n) >> 21 if options.offset < 0 else fixed
        return pages + start, words, (actions.next(n) % 1024 >= reads).astype(np.int64)

    return draw


def _set_of(options: Options, thread: int) -> int:
    """The affinity set of a thread, counted from 1, whose map it uses."""
    for i, one in enumerate(options.affinity):
        thread -= one.threads
        if thread <= 0:
            return i
    return 0


def node_of(cpu: int, cpus: int) -> int:
    """The node of a CPU: CPUs are spread evenly over two nodes, in order."""
    return min(cpu * 2 // cpus, 1)


def _nodes(options: Options, profile: Profile, lanes: int) -> list[int]:
    """The distance of each lane from its map: 0, or 1 for the other node.

    A set's map is bound to the node of its CPUs, so its threads begin at 0.
    """
    cpus = max(profile.cpus, options.jobs + 1)
    if options.affinity:
        return [0] * lanes
    return [node_of(lane + 1, cpus) ^ options.home for lane in range(lanes)]


def program(
    options: Options, profile: Profile, cpus: int, touched: bool, table: Timetable
) -> Run:
    """The threads at their start, on CPUs 1 ... jobs or the CPUs of their sets.

    Args:
      cpus: lanes to compile for, at least one for each thread.
      touched: whether all pages have been written before.
      table: of the migration, or one that never starts.
    Returns:
      A run at time 0.
    """
    (sets, ways), (huge_sets, huge_ways) = profile.tlb, profile.tlb_huge
    shape = Shape(cpus, options.folios, options.huge, sets, ways, huge_sets, huge_ways)
    gen = (
        DRAW_NS[options.pattern]
        + LOOP_NS
        + (options.delay // 2 if options.delay > 10 else 0)
    )
    costs = costs_of(profile, gen)
    walk = ("access.tlb_hit", "access.walk", "access.memory_remote", "access.fault")
    block = block_for(cpus, gen + sum(round(profile[name]) for name in walk))
    streams = Streams(
        [thread(options, t + 1) for t in range(options.jobs)], block, cpus
    )
    return Run(
        shape,
        costs,
        streams,
        table,
        nodes=_nodes(options, profile, cpus),
        threads=options.jobs,
        touched=touched,
    )


def run(
    options: Options,
    profile: Profile,
    kernel: str | None = None,
    *,
    batch: int = 512,
    copy: str = "cpu",
    table: Timetable | None = None,
    modelled_ns: int | None = None,
    trips: int | None = None,
    cpus: int | None = None,
    tick: Tick = lambda accesses: None,
) -> PmbenchResult:
    """The benchmark from warm-up to end, while its memory moves there and back.

    Args:
      kernel: the release that migrates; None for no migration.
      batch: base pages at which a batch is closed; 0: no limit.
      copy: the copy engine, "cpu", "threads:N" or "dma:N".
      table: of the migration, instead of one for `batch` and `copy`.
      modelled_ns: the part of the main run that is modelled; None for all of it.
      trips: run until so many trips are done, instead of for a time.
      cpus: lanes to compile for, so that runs with fewer threads share the program.
      tick: called with the accesses done, block by block.
    Returns:
      The counts and times of the run.
    """
    release = kernel or "6.3"
    table = table or timetable(
        profile, options.folios, options.huge, kernel=release, batch=batch, copy=copy
    )
    r = program(options, profile, cpus or options.jobs, options.initialize, table)
    warm, warmup_ns, walks = 0, None, 0.0
    if not options.cold:
        warm = options.warmup
        before = r.go(accesses=warm, tick=tick)
        warmup_ns = r.ended_ns[: options.jobs].copy()
        walks = float(before.walks.sum() / before.accesses.sum())
    length = options.duration_sec * 10**9 if modelled_ns is None else modelled_ns
    r.again(0 if kernel is None else trips or 1 << 20)
    totals = (
        r.go(tick=tick) if trips else r.go(duration_ns=length, check=CHECK, tick=tick)
    )
    return PmbenchResult(
        options=options,
        kernel=kernel,
        table=table,
        totals=totals,
        ran_ns=r.ended_ns[: options.jobs].copy(),
        warmup_ns=warmup_ns,
        warmup_accesses=warm,
        modelled_ns=int(r.ended_ns[: options.jobs].max()),
        draw_ns=DRAW_NS[options.pattern],
        baseline_walks=walks,
    )


__all__ = ["PMD_PAGES", "Options", "PmbenchResult", "program", "run", "thread"]
