"""A small migration, phase by phase, as text: page table, TLBs and frames.

explain(("6.2", "6.3")) migrates the same pages on each kernel, and draws them after each
phase.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Final

import jax.numpy as jnp
import numpy as np

from jaxmig.engine.apply import PHASES
from jaxmig.engine.migrate import Result, migrate_pages
from jaxmig.linux.rules import rules
from jaxmig.sources.builder import Builder
from jaxmig.state import pte
from jaxmig.state.machine import Machine
from jaxmig.tools.picture import LEGEND, Picture, wrapped
from jaxmig.tools.query import folios_on
from jaxmig.tools.sentences import BATCHED, MAX_PAGES, SERIAL

CPUS: Final = 4
RUNNING: Final = (1, 2, 3)
TLB: Final = (16, 4)  # sets, ways: all pages fit


def explain(
    kernels: Sequence[str] = ("6.2", "6.3"),
    *,
    pages: int = 16,
    batch: int = 8,
    width: int = 80,
    color: bool = False,
) -> Iterator[str]:
    """The text, a step at a time.

    Args:
      kernels: releases, one after the other.
      pages: base pages to migrate.
      batch: base pages in a batch of the batched kernels.
      width: columns of the terminal.
      color: whether changes of a step are bold.
    Returns:
      Texts without final newlines.
    Raises:
      ValueError: fewer than 1 or more than 64 pages, or a batch of no page.
    """
    if not 1 <= pages <= MAX_PAGES or batch < 1:
        raise ValueError(f"{pages} pages, batches of {batch}: give 1 to {MAX_PAGES}")
    first = _machine(pages)
    yield wrapped(
        f"A process on CPUs {_span(RUNNING)} has {pages} pages on node 0, each with a "
        "letter in it, and all of them are in the TLBs of these CPUs. CPU 0 moves them "
        "to node 1.",
        width,
    )
    yield wrapped(LEGEND, width)
    yield Picture(first, pages).text(width)
    totals = []
    for kernel in kernels:
        tour = _Tour(first, kernel, pages, batch, width, color)
        yield from tour.steps()
        totals.append(tour.total())
    yield "\n".join(["In the end", *(f"  {line}" for line in totals)])


@dataclasses.dataclass
class _Tour:
    """The migration on one kernel."""

    first: Machine
    kernel: str
    pages: int
    batch: int
    width: int
    color: bool

    def __post_init__(self) -> None:
        self.heads = np.asarray(folios_on(self.first, node=0))
        self.batched = bool(rules(self.kernel).batched)
        self.size = min(self.batch, self.pages) if self.batched else 1
        self.before = Picture(self.first, self.pages)

    def steps(self) -> Iterator[str]:
        """The title, then a drawing for each phase, in serial releases of one page."""
        yield self.title()
        now = self.first
        ends = range(self.size, self.pages + self.size, self.size)
        for n, end in enumerate(ends if self.batched else ends[:1]):
            start, end = n * self.size, min(end, self.pages)
            if n:
                now = _touched(now, self.pages)
                yield self.between(now, n)
            before = now
            for phase in PHASES:
                now = self.inside(before, start, end, phase)
                yield self.step(now, phase, n, start, end)
        if not self.batched and self.pages > 1:
            call = functools.partial(migrate_pages, kernel=self.kernel)
            yield self.rest(call(now, self.heads[1:], 1)[0])

    def title(self) -> str:
        name = self.kernel
        if not self.batched:
            line = f"Linux {name}: one page at a time"
        else:
            n = -(-self.pages // self.size)
            line = f"Linux {name}: {n} {_plural(n, 'batch', 'batches')} of {self.size}"
        return f"{line}\n{'=' * len(line)}"

    def inside(self, before: Machine, start: int, end: int, phase: str) -> Machine:
        """The state after a phase of one batch.

        Args:
          before: the machine before the batch.
          start, end: pages of the batch, the end exclusive.
          phase: a name in PHASES.
        Returns:
          The machine inside the batch.
        """
        return migrate_pages(
            before,
            self.heads[start:end],
            1,
            kernel=self.kernel,
            batch=self.size,
            stop=(0, phase),
        )[0]

    def step(self, m: Machine, phase: str, n: int, start: int, end: int) -> str:
        """The text and drawing of a phase.

        Args:
          m: the machine after it.
          n: number of the batch, from 0 on.
          start, end: pages of the batch, the end exclusive.
        Returns:
          Text without a final newline.
        """
        function, sentences = (BATCHED if self.batched else SERIAL)[phase]
        last = "" if end == start + 1 else f"-{end - 1}"
        pages = f"page{'s' if last else ''} {start}{last}"
        unit = f"batch {n + 1}, " if self.batched else ""
        number = list(PHASES).index(phase) + 1
        done = start if number == 1 else end
        lines = [
            f"{unit}{pages}: step {number} of 4: {phase}",
            function,
            wrapped(sentences.format(pages=pages, cpus=_span(RUNNING)), self.width),
            "",
            self.draw(m),
            f"  {self.counts(done)}",
        ]
        return "\n".join(lines)

    def between(self, m: Machine, n: int) -> str:
        text = (
            f"Before batch {n + 1} the CPUs {_span(RUNNING)} have touched all pages "
            "again: each of them had to walk the page table for each page."
        )
        return "\n".join((wrapped(text, self.width), "", self.draw(m)))

    def rest(self, m: Machine) -> str:
        left = "page 1" if self.pages == 2 else f"pages 1-{self.pages - 1}"
        text = f"The same four steps for {left}, each with interrupts of its own."
        lines = (wrapped(text, self.width), "", self.draw(m))
        return "\n".join([*lines, f"  {self.counts(self.pages)}"])

    def draw(self, m: Machine) -> str:
        now = Picture(m, self.pages)
        text = now.text(self.width, self.before if self.color else None)
        self.before = now
        return text

    def result(self, pages: int) -> Result:
        """The real call on the first `pages` pages."""
        call = functools.partial(migrate_pages, kernel=self.kernel, batch=self.batch)
        return call(self.first, self.heads, 1, size=pages)[1]

    def counts(self, pages: int) -> str:
        s = self.result(pages).vmstat
        n, ipis = s["nr_tlb_remote_flush"], s["nr_tlb_remote_flush_received"]
        return (
            f"so far {n} flush {_plural(n, 'request', 'requests')} and "
            f"{ipis} {_plural(ipis, 'interrupt', 'interrupts')}"
        )

    def total(self) -> str:
        return f"{self.kernel:>5}  {self.result(self.pages)}"


def _machine(pages: int) -> Machine:
    """Pages on node 0, one for each letter, in the TLBs of all CPUs that run."""
    b = Builder(nodes=2, cpus=CPUS, tlb=TLB)
    b.mmap(b.process("app", running=RUNNING), pages=pages)
    m = b.build(content=False)
    memory = np.zeros((m.frame.shape[0], 1024), np.uint32)
    memory[np.asarray(m.pte)[:pages, pte.PFN], 0] = 1 + np.arange(pages)
    return _touched(dataclasses.replace(m, memory=jnp.asarray(memory)), pages)


def _touched(m: Machine, pages: int) -> Machine:
    """The machine with all pages in the TLBs of the CPUs that run the process."""
    entries = np.arange(pages)
    frames = np.asarray(m.pte)[entries, pte.PFN]
    slots = [np.array(a) for a in (m.tlb.entry, m.tlb.pfn, m.tlb.bits)]
    sets, ways = TLB
    for cpu in RUNNING:
        at = (entries % sets, cpu * ways + entries // sets)
        for array, value in zip(
            slots, (entries, frames, pte.WRITE | pte.DIRTY), strict=True
        ):
            array[at] = value
    entry, pfn, bits = (jnp.asarray(a) for a in slots)
    tlb = dataclasses.replace(m.tlb, entry=entry, pfn=pfn, bits=bits)
    return dataclasses.replace(m, tlb=tlb)


def _span(cpus: Sequence[int]) -> str:
    return f"{cpus[0]}-{cpus[-1]}"


def _plural(n: int, one: str, many: str) -> str:
    return one if n == 1 else many
