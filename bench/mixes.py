"""What do folios of other sizes and kinds cost among base pages?

Builder's machines of one process or two, whose frames are in random order; metadata
only, mode sync.  Folios of each kind are spread evenly among the list.  A mix and its
peer, mostly as many base pages, take turns, each call on a copy of its own.  Targets
are those of a CPU.
"""

import argparse
import dataclasses
import gc
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import timing
from conditions import SHARE, STATES
from engine import jaxmig
from jax import export
from jaxmig.engine.migrate import executable, limit_of, listed, program, uncoupled
from jaxmig.linux.releases import RELEASES, release
from jaxmig.linux.rules import rules, word
from jaxmig.state import frame
from jaxmig.tools import check

KERNELS: Final = ("6.3", "6.2")
BATCH: Final = 512  # base pages
TO: Final = 1  # the node to which all goes from node 0
COUNTED: Final = ("gather", "scatter", "sort", "while")
ledger, violations = jax.jit(check.ledger), jax.jit(check.violations)
# The machine after a call, its result, and seconds in it.
Done = tuple[Any, Any, float]


class Wrong(Exception):
    """A call that did not do what it should have done."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Folios of one kind: so large a share of all base pages, but at least one."""

    order: int = 0
    share: float = 0
    kind: str = "anon"
    shared: bool = False  # by two processes
    state: str = ""  # what stands in the way of its folios
    until: str | int = "forever"

    @property
    def stays(self) -> bool:
        """Whether its folios can not be moved; a freed one is gone instead."""
        return bool(self.state) and self.until == "forever" and self.state != "freed"

    def folios(self, pages: int) -> int:
        """How many there are among so many base pages."""
        return max(int(pages * self.share) >> self.order, 1)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is in memory; what is left by the parts is anonymous base pages."""

    parts: tuple[Part, ...] = ()
    processes: int = 1
    splits: bool = False  # there is room for the pieces of large folios
    held: bool = False  # nothing can be allocated for the first 2 MiB folio

    def machine(self, pages: int, content: bool = False) -> Any:
        """So many base pages on node 0."""
        b = jaxmig.Builder(nodes=2, cpus=4)
        cpus = [[1, 2, 3]] if self.processes == 1 else [[1, 2], [3]]
        owners = [b.process(f"p{i}", running=cpus[i]) for i in range(self.processes)]
        b.splits = self.splits
        rest = pages - sum(p.folios(pages) << p.order for p in self.parts)
        if rest:
            b.mmap(owners[0], rest)
        for part in self.parts:
            size = part.folios(pages) << part.order
            who = owners if part.shared else owners[0]
            private = part.kind == "file"
            region = b.mmap(
                who, size, order=part.order, kind=part.kind, private=private
            )
            if part.state:
                b.condition(region, part.state, until=part.until)
            if self.held and part.order == frame.PMD_ORDER:
                b.condition(region, "huge_dst_unavailable", [0])
        return b.build(content=content, seed=0)

    def expected(self, kernel: str, pages: int) -> dict[str, Any]:
        """What a call must return, count and leave behind."""
        least = 1 if release(kernel).thp_counts_large else frame.PMD_ORDER
        large = [p for p in self.parts if p.order >= least and p.kind != "hugetlb"]
        thps = sum(p.folios(pages) for p in large)
        again = sum(p.folios(pages) << p.order for p in self.parts if p.shared)
        gone = sum(p.folios(pages) for p in self.parts if p.state == "freed")
        stay = sum(p.folios(pages) for p in self.parts if p.stays)
        # A folio that is split counts as failed, its pieces as moved.
        return {
            "ret": stay,
            "pgmigrate_success": pages - stay,
            "pgmigrate_fail": stay,
            "thp_migration_success": thps - self.held,
            "thp_migration_fail": int(self.held),
            "thp_migration_split": int(self.held),
            "nr_split": int(self.held),
            "pages_by_node": [stay, pages - stay - gone + again],
        }


def call(kernel: str, m: Any, heads: np.ndarray) -> Done:
    """The compiled call; the one place that knows how it is had."""
    args = arguments(m, heads)
    compiled = executable(rules(kernel), True, *args)
    start = time.perf_counter()
    m, result = jax.block_until_ready(compiled(*args))
    return m, result, time.perf_counter() - start


def from_python(kernel: str, m: Any, heads: np.ndarray) -> Done:
    """The same as a user calls it."""
    folios = jax.block_until_ready(jnp.asarray(heads))
    start = time.perf_counter()
    done = jaxmig.migrate_pages(m, folios, TO, kernel=kernel, batch=BATCH, donate=True)
    m, result = jax.block_until_ready(done)
    return m, result, time.perf_counter() - start


def arguments(m: Any, heads: np.ndarray) -> tuple[Any, ...]:
    """What `executable()` takes, ready; the list padded as migrate_pages() pads it."""
    folios, size = listed(heads)
    numbers = (jnp.int32(n) for n in (size, TO, 0))
    args = (m, folios, *numbers, limit_of(BATCH))
    return jax.block_until_ready(args)


@dataclasses.dataclass(frozen=True)
class Mix:
    """What is compared with what."""

    what: str
    layout: Layout
    target: float = math.nan
    peer: str = "base pages"
    against: Layout = Layout()
    call: Callable[..., Done] = call


ONE: Final = Layout((Part(order=9),))
SPLIT: Final = Layout((Part(order=9),), splits=True, held=True)
ONCE: Final = Layout((Part(kind="shmem", share=1),), processes=2)
TWICE: Final = Layout((Part(kind="shmem", share=1, shared=True),), processes=2)
# Five in a hundred pages are in each condition.
RESISTING: Final = Layout(
    (
        *(Part(share=1 / SHARE, state=state, until=until) for state, until in STATES),
        Part(kind="file", share=1 / SHARE, state="buffers_locked", until="waited"),
    )
)
STAYING: Final = Layout((Part(share=1 / 100, state="extra_ref"),))
# A quarter is left to base pages.
ALL: Final = Layout(
    (
        Part(order=9, share=1 / 4),
        Part(order=4, share=1 / 8),
        Part(order=2, share=1 / 8),
        Part(order=9, share=1 / 8, kind="hugetlb"),
        Part(kind="shmem", share=1 / 8, shared=True),
    ),
    processes=2,
)
MIXES: Final = {
    "one": Mix("one 2 MiB folio", ONE, 1.3),
    "quarter": Mix("1/4 in 2 MiB folios", Layout((Part(order=9, share=1 / 4),)), 1.2),
    "64k": Mix("64 KiB folios", Layout((Part(order=4, share=1),)), 1.5),
    "16k": Mix("16 KiB folios", Layout((Part(order=2, share=1),)), 1.5),
    "hugetlb": Mix(
        "1/4 in hugetlb folios", Layout((Part(9, 1 / 4, "hugetlb"),)), math.nan
    ),
    "conditions": Mix("5 % in each condition", RESISTING, 2),
    "stay": Mix("1 % stay", STAYING, 2),
    "split": Mix(
        "one folio split",
        SPLIT,
        1.5,
        "not split",
        dataclasses.replace(SPLIT, held=False),
    ),
    "shared": Mix("two mappings", TWICE, 1.5, "one mapping", ONCE),
    "all": Mix("all together", ALL, 2.5),
    "python": Mix(
        "one 2 MiB folio, Python", ONE, math.nan, "executable()", ONE, from_python
    ),
}


def spread(m: Any) -> np.ndarray:
    """The folios of node 0, those of each order and kind spread evenly among the list.

    folios_on() names those that PMD leaves map last; a single one comes to the middle.
    """
    heads = jaxmig.folios_on(m, 0)
    flags = np.asarray(m.frame)[heads, frame.FLAGS] & (frame.ORDER | frame.KIND)
    place = np.empty(heads.size)
    for sort in np.unique(flags):
        mine = np.flatnonzero(flags == sort)
        place[mine] = (np.arange(mine.size) + 0.5) / mine.size
    return heads[np.argsort(place, kind="stable")]


def checked(layout: Layout, kernel: str, pages: int, m: Any, result: Any) -> None:
    """Refuse a call that returned, counted or left behind something else."""
    got = result.vmstat | {
        "ret": result.ret,
        "nr_split": result.events.counts()["nr_split"],
        "pages_by_node": jaxmig.pages_by_node(m),
    }
    want = layout.expected(kernel, pages)
    bad = [f"{k} {got[k]} instead of {v}" for k, v in want.items() if got[k] != v]
    if bad:
        raise Wrong(", ".join(bad))


def row(mix: Mix, kernel: str, pages: int, repeat: int) -> timing.Row:
    """Medians of a mix and its peer, which take turns."""
    sides = []
    for layout, how in ((mix.against, call), (mix.layout, mix.call)):
        m = layout.machine(pages)
        sides.append((layout, how, m, spread(m)))
    walls: list[list[float]] = [[], []]
    before = ledger(sides[1][2])
    for _ in range(repeat + 1):
        for side, (layout, how, fresh, heads) in enumerate(sides):
            gc.collect()
            # The call takes what it is given; the fresh one serves the next turn.
            m = jax.block_until_ready(jax.tree.map(jnp.copy, fresh))
            m, result, wall = how(kernel, m, heads)
            checked(layout, kernel, pages, m, result)
            walls[side].append(wall)
    # The mix comes last: `m` is its machine.
    if broken := check.explain(int(violations(m, before))):
        raise Wrong("; ".join(broken))
    # The first turn compiles; it is the only one where nothing is to be measured.
    floor, median = (timing.median(w[1:] or w) for w in walls)
    return {
        "kernel": kernel,
        "what": mix.what,
        "pages": pages,
        "folios": sides[1][3].size,
        "median_s": median,
        "peer": mix.peer,
        "peer_s": floor,
        "ratio": median / floor,
        "target": mix.target,
        "repeats": repeat,
    }


def operations(pages: int) -> list[timing.Row]:
    """Operations of the exported CUDA program, base pages only beside all together.

    And the fusions of the program that is compiled for this machine's CPU.
    """
    rows = []
    for what, layout in (("base pages", Layout()), ("all together", ALL)):
        m = layout.machine(pages)
        args, r = arguments(m, spread(m)), rules("6.3")
        safe = uncoupled(r, m, *args[2:4])
        jitted = program(r.defers, True, safe).jitted(gpu=True)
        text = export.export(jitted, platforms=("cuda",))(*args, word(r)).mlir_module()
        counts = inlined(text)
        found: timing.Row = {"6.3": what}
        found |= {f"{name}, CUDA": counts[name] for name in COUNTED}
        compiled = executable(r, True, *args).as_text()
        found["fusions, CPU"] = len(re.findall(r" fusion\(", compiled))
        rows.append(found)
    return rows


def inlined(text: str) -> Counter[str]:
    """How often each StableHLO operation stands in `main` and in what it calls.

    A function that is called twice counts twice: XLA starts from that.
    """
    name = r'@([\w.$-]+|"[^"]*")\('
    # What stands before the first function, then names and bodies in turn.
    _, *pieces = re.split(rf"func\.func (?:\w+ )?{name}", text)
    bodies = dict(zip(pieces[::2], pieces[1::2], strict=True))
    known: dict[str, Counter[str]] = {}

    def of(function: str) -> Counter[str]:
        if function not in known:
            body = bodies[function]
            counts = Counter(re.findall(r"\bstablehlo\.(\w+)", body))
            for called in re.findall(rf"\bcall {name}", body):
                counts += of(called)
            known[function] = counts
        return known[function]

    return of("main")


def table(args: argparse.Namespace) -> tuple[list[timing.Row], bool]:
    """All rows that could be measured, and whether those were all.

    What went wrong is told at once: the other mixes are worth knowing all the same.
    """
    cases = [(MIXES[name], kernel) for name in args.mix for kernel in args.kernel]
    # Nearly all of a short run is compilation, of which each core can do some; with
    # more threads than cores all would begin with the same peer.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ready = [pool.submit(row, *case, args.pages, 0) for case in cases]
    found, good = [], True
    for (mix, kernel), first in zip(cases, ready, strict=True):
        try:
            first.result()
            found.append(row(mix, kernel, args.pages, args.repeat))
        except (Wrong, jax.errors.JaxRuntimeError) as e:
            why = str(e).partition("\n")[0]
            print(f"mixes: {kernel}: {mix.what}: {why}", file=sys.stderr, flush=True)
            good = False
    return found, good


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """What reads comma-separated names of these."""

    def names(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            said = f"{unknown[0]}: none of {' '.join(known)}"
            raise argparse.ArgumentTypeError(said)
        return found

    return names


def main() -> int:
    """Print and perhaps keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=1 << 18, help="base pages")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--kernel", type=some_of(RELEASES), help="comma-separated")
    parser.add_argument("--mix", type=some_of(MIXES), help=f"of {','.join(MIXES)}")
    parser.add_argument("--quick", action="store_true", help="a small size, twice, 6.3")
    parser.add_argument(
        "--count", action="store_true", help="operations for CUDA; nothing is run"
    )
    parser.add_argument("--save", action="store_true")
    args = parser.parse_args()
    args.mix = args.mix or list(MIXES)
    # With both, a quick run would compile for longer than a minute.
    args.kernel = args.kernel or KERNELS[: 1 if args.quick else None]
    if args.quick:
        args.pages, args.repeat = 1 << 14, 2
    if args.count:
        # How many pages there are changes no operation.
        print(timing.table(operations(1 << 14)))
        return 0
    found, good = table(args)
    if found:
        print(timing.table(found))
    if args.save and found:
        timing.save("mixes", found)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
