"""migrate_pages(): the call itself, for any release, mode and machine."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxmig.engine.apply import PHASES
from jaxmig.engine.windows import (
    can_couple,
    hugetlb_first,
    migrate_lanes,
    migrate_until,
)
from jaxmig.linux import tlb
from jaxmig.linux.call import CallState, List, Stats, no_stats
from jaxmig.linux.folio import CROWDED, ENOMEM, SLEEPS, Fallback, Where
from jaxmig.linux.in_order.progress import NO_LIMIT
from jaxmig.linux.in_order.run import Stretch, migrate_in_order
from jaxmig.linux.in_order.split import put_back_zeros
from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, Defers, release
from jaxmig.linux.rules import Rules, from_word, rules, word
from jaxmig.state import arguments, events, log as logs, xla
from jaxmig.state.buckets import BASE_PAGES, LONG_LIST, bucket
from jaxmig.state.events import Events
from jaxmig.state.machine import Machine
from jaxmig.state.pytree import pytree

MOST_ROWS: Final = 1 << 25  # of a log
SHOWN: Final = 8  # results of a vmap, printed
Index = Int32[Array, ""]


@pytree
class Result:
    """What a call returned and counted.

    Of a `jax.vmap` over machines it holds as many results, and `result[i]` is one of
    them: `len(result)`, iteration and `print` work as with a list.
    """

    failed: Int32[Array, ""]  # folios not migrated: the return value unless negative
    error: Int32[Array, ""]
    events: Events
    # Folios of the list that were migrated one by one, in the kernel's own order; all
    # others in windows of many.
    in_order: Int32[Array, ""]

    def __len__(self) -> int:
        """How many results these are.  Raises TypeError for a single one."""
        if not self.failed.ndim:
            raise TypeError("the result of one call has no length")
        return int(self.failed.shape[0])

    def __getitem__(self, i: int | slice) -> "Result":
        """Result `i`, or some of them, of a vmap.  Raises IndexError behind the last."""
        n = len(self)
        if isinstance(i, int) and not -n <= i < n:
            raise IndexError(f"result {i} of {n}")
        return jax.tree.map(lambda x: x[i], self)

    def __bool__(self) -> bool:
        return True

    def _check_single(self) -> None:
        if self.failed.ndim:
            raise ValueError(f"these are {len(self)} results; read one as result[i]")

    @property
    def errno(self) -> str | None:
        """Name of the error, or None.  Host only."""
        self._check_single()
        return "ENOMEM" if int(self.error) == ENOMEM else None

    @property
    def ret(self) -> int:
        """What migrate_pages() returns, -1 with an errno.  Host only."""
        return -1 if self.errno else int(self.failed)

    @property
    def sleeps(self) -> bool:
        """Whether the call would sleep for ever.  Host only."""
        self._check_single()
        return int(self.error) == SLEEPS

    @property
    def crowded(self) -> bool:
        """Whether the machine lacks frames for the call, so that all else is void.

        Only a call that falls back on other nodes may need more.  Host only.
        """
        self._check_single()
        return int(self.error) == CROWDED

    @property
    def vmstat(self) -> dict[str, int]:
        """Change of /proc/vmstat.  Host only."""
        self._check_single()
        counts = self.events.counts()
        stat = {name: counts[name] for name in events.VMSTAT[:6]}
        stat["nr_tlb_remote_flush_received"] = sum(self.events.ipis_per_cpu())
        return stat | {name: counts[name] for name in events.VMSTAT[6:]}

    def __str__(self) -> str:
        """What a user wants to know first, in a line each.  Host only."""
        if self.failed.ndim:
            lines = [f"{i}: {self[i]}" for i in range(min(len(self), SHOWN))]
            more = len(self) - len(lines)
            return "\n".join(lines + [f"... and {more} more"] * (more > 0))
        s = self.vmstat
        answer = f"failed with {self.errno}" if self.errno else f"returned {self.ret}"
        return (
            f"moved {s['pgmigrate_success']} pages, failed {s['pgmigrate_fail']}; "
            f"{s['nr_tlb_remote_flush']} flush requests, "
            f"{s['nr_tlb_remote_flush_received']} IPIs; {answer}"
        )


def run(
    m: Machine,
    folios: Int32[Array, " folios"],
    size: Int32[Array, ""],
    node: Int32[Array, ""],
    cpu: Int32[Array, ""],
    limit: Int32[Array, ""],
    rules: Rules,
    chunk: int | None = None,
    safe: bool = False,
    log: int = 0,
    fallback: Fallback | None = None,
) -> tuple[Machine, Result]:
    """The call on the first `size` of `folios`; traceable.

    Args:
      folios: head frames in list order.
      limit: base pages that close a batch.
      chunk: base pages a window; None: what suits the device.
      safe: whether no batch can affect another (`uncoupled()`); then only windows are
        compiled, not the form for one folio at a time.
      log: rows of room for a log; a call that writes one goes one folio at a time.
      fallback: nodes that may be used once `node` is full; so does such a call.
    Returns:
      The machine after the call and what it returned and counted.
    Source: migrate_pages() in mm/migrate.c.
    """
    # Windows do not have the kernel's order of events, which a log shows.
    if log or fallback is not None:
        return in_order(m, folios, size, node, cpu, limit, rules, log, fallback)
    k, at = _begin(m, folios, size, node, cpu, log)
    k = migrate_lanes(rules, k, at, limit, safe=safe, chunk=chunk)
    return k.m, result_of(k)


def in_order(
    m: Machine,
    folios: Int32[Array, " folios"],
    size: Int32[Array, ""],
    node: Int32[Array, ""],
    cpu: Int32[Array, ""],
    limit: Int32[Array, ""],
    rules: Rules,
    log: int = 0,
    fallback: Fallback | None = None,
) -> tuple[Machine, Result]:
    """The call folio by folio, in the kernel's own order; traceable.

    Args:
      folios: head frames in list order.
      size: how many of them are on the list.
      limit: base pages that close a batch.
      log: rows of room for a log; 0: none.
      fallback: nodes that may be used once `node` is full; None: no others.
    Returns:
      The machine after the call and what it returned and counted.
    Source: migrate_pages() in mm/migrate.c.
    """
    k, at = _begin(m, folios, size, node, cpu, log)
    at = dataclasses.replace(at, fallback=fallback)
    k, huge = hugetlb_first(rules, k)
    k = put_back_zeros(migrate_in_order(rules, k, at, limit, Stretch(0, huge))[0])
    return k.m, result_of(k.set(in_order=size))


def _begin(
    m: Machine,
    folios: Int32[Array, " folios"],
    size: Index,
    node: Index,
    cpu: Index,
    log: int,
) -> tuple[CallState, Where]:
    k = CallState(
        m=m,
        ev=events.none(m.cpus.lazy.shape[0], log),
        todo=List(folios, size),
        stats=no_stats(),
        error=jnp.int32(0),
        remaining=jnp.int32(0),
        in_order=jnp.int32(0),
    )
    return k.note(logs.BEGIN, logs.CALL, size), Where(cpu=cpu, node=node)


def result_of(call: CallState) -> Result:
    """The result of a call."""
    return answer(call.ev, call.stats, call.remaining, call.error, call.in_order)


def answer(
    ev: Events, stats: Stats, remaining: Index, error: Index, in_order: Index | int = 0
) -> Result:
    """The result of a call, from what it has counted.

    Args:
      remaining: int32, folios that are left on the caller's list.
      error: int32, 0 or a result of folio.py.
      in_order: folios that were migrated one by one.
    Returns:
      The result, with the statistics in its events.
    Source: the end of migrate_pages() in mm/migrate.c.
    """
    ev = ev.add(
        pgmigrate_fail=stats.failed_pages,
        thp_migration_fail=stats.thp_failed,
        thp_migration_split=stats.thp_split,
        nr_split=stats.split,
        calls=1,
    )
    # An empty list on return means success, whatever was counted as failed on the way.
    failed = jnp.where(remaining == 0, 0, stats.failed)
    words = (stats.failed_pages, stats.thp_failed, stats.thp_split, stats.split, failed)
    ev = ev.note(logs.STATS, *words).note(logs.END, logs.CALL)
    return Result(failed, error, ev, jnp.asarray(in_order, jnp.int32))


def uncoupled(rules: Rules, m: Machine, size: Any, node: Any) -> bool:
    """Whether it is known beforehand that no batch of a call can affect another.

    Memory must suffice, no folio may be split, and the series as posted may not sleep.

    Args:
      size: how many folios are on the list.
      node: the target node.
    Returns:
      False also while JAX traces, when the numbers are not known.
    """
    known = (m.nfree, m.top, m.cpus.mask, size, node)
    if can_couple(rules, m) or any(isinstance(x, jax.core.Tracer) for x in known):
        return False
    if tlb.has_strays(rules, m.cpus):
        return False
    g, free = m.geometry, int(np.asarray(m.nfree)[int(node)])
    # Folios that move within the target node take frames before theirs are freed.
    top = np.asarray(m.top)
    in_use = g.nodes * np.asarray(g.pool_blocks) - top.sum(axis=0)
    few = np.minimum(in_use, int(size)) <= top[int(node)]
    return bool(most_pages(m, size) <= free and few.all())


def most_pages(m: Machine, size: Any) -> int:
    """Base pages that so many folios have at most: those in use, the largest first."""
    g, left, pages = m.geometry, int(size), 0
    used = g.nodes * np.asarray(g.pool_blocks) - np.asarray(m.top).sum(axis=0)
    # A block of a folio that was split holds many, but no more pages than before.
    for order, blocks in zip(reversed(g.orders), reversed(used.tolist()), strict=True):
        here = min(left, blocks)
        pages, left = pages + (here << order), left - here
    return pages


@functools.cache
def program(
    defers: Defers | None,
    donate: bool,
    safe: bool = False,
    chunk: int | None = None,
    log: int = 0,
) -> xla.Program:
    """The program of a call.

    It takes the arguments of `run` up to the limit, its rules as bits (`rules.word`), and
    the fallback if there is one.

    Args:
      defers: the user's own rule of a release (`Release.defers`), or None.
      donate: whether the machine's arrays are given away.
      safe, chunk, log: as for `run`.
    Returns:
      The program, compiled when it is first called with new shapes.
    """

    def call(
        m: Machine,
        folios: Int32[Array, " folios"],
        size: Index,
        node: Index,
        cpu: Index,
        limit: Index,
        bits: Index,
        fallback: Fallback | None = None,
    ) -> tuple[Machine, Result]:
        args = (m, folios, size, node, cpu, limit, from_word(bits, defers))
        return run(*args, chunk=chunk, safe=safe, log=log, fallback=fallback)

    return xla.Program(call, donate)


@dataclasses.dataclass(frozen=True)
class Executable:
    """A compiled call with the bits of its rules; other rules may share the program."""

    compiled: Any
    bits: tuple[Any, ...]  # the rules, and the fallback if there is one

    def __call__(self, *args: Any) -> tuple[Machine, Result]:
        """The call on these arguments of `run`."""
        return self.compiled(*args, *self.bits)

    def as_text(self) -> str:
        """The compiled HLO as text."""
        return self.compiled.as_text()


def executable(
    rules: Rules,
    donate: bool,
    *args: Any,
    log: int = 0,
    fallback: Fallback | None = None,
) -> Executable:
    """The compiled call for these rules and shapes, compiled if it is new.

    Args:
      donate: whether the machine's arrays are given away.
      args: those of `run` from the machine to the limit, as arrays.
      log: rows of room for a log; 0: none.
      fallback: nodes that may be used once the target is full; None: no others.
    Returns:
      The call as a function of such arguments.
    """
    state, _, size, node = args[:4]
    windows = not log and fallback is None
    safe = windows and uncoupled(rules, state, size, node)
    # The rules go in as data: all releases share the program.
    bits = (word(rules),) if fallback is None else (word(rules), fallback)
    made = program(rules.defers, donate, safe, log=log)
    few = most_pages(state, size) <= xla.FEW
    return Executable(made.executable(*args, *bits, few=few), bits)


def check_poison(kernel: str, m: Machine, engine: bool) -> None:
    """Refuse to copy a poisoned page where Linux panics, or it is not modelled.

    Raises:
      ValueError: for a machine with such pages and such a release or engine.
    """
    row = release(kernel)
    if not m.geometry.poisoned:
        return
    problem = ""
    if not row.survives_poison:
        problem = "which no release before 6.12 survives"
    elif engine and row.offloads:
        problem = "and what a copy engine makes of it is not modelled; let the CPU copy"
    if problem:
        raise ValueError(f"kernel {kernel!r}: a page is poisoned, {problem}")


def room_of(folios: int) -> int:
    """To how many a list of so many folios is padded.

    Few lengths are ever compiled: powers of two from BASE_PAGES, then four classes an
    octave, where padding takes memory.  A batched call costs what its room does: with
    powers of four one of 5,000 pages took twice as long.
    """
    power = 1 << max(folios - 1, 0).bit_length()
    return bucket(folios, max(BASE_PAGES, min(power, LONG_LIST)))


def listed(folios: Any) -> tuple[Any, int]:
    """A list of folios padded to one of few lengths, and its length.

    Args:
      folios: int32[folios], head frames, on the host or on a device.
    Returns:
      int32[room], zeros behind the list; the number of folios.
    """
    # A list on a device is padded there: reading it back would wait for the device.
    on_device = isinstance(folios, jax.Array)
    heads = folios if on_device else np.asarray(folios, np.int32).reshape(-1)
    n = heads.shape[0]
    room = room_of(n)
    if on_device:
        heads = heads.astype(jnp.int32)
        return heads if n == room else jnp.pad(heads, (0, room - n)), n
    return xla.upload(np.pad(heads, (0, room - n))), n


def migrate_pages(
    state: Machine,
    folios: Any,
    node: Any,
    *,
    kernel: str = "6.3",
    mode: str = "sync",
    reason: str = "syscall_or_cpuset",
    cpu: Any = 0,
    batch: Any = NR_MAX_BATCHED_MIGRATION,
    arch: str = "x86",
    memalloc: bool = False,
    engine: bool = False,
    donate: bool = False,
    size: Any = None,
    stop: tuple[int, str] | None = None,
    log: int = 0,
) -> tuple[Machine, Result]:
    """Migrate folios, given by their head frames, to `node`.

    Args:
      state: the machine; unchanged, unless `donate` gives its arrays away.
      folios: int32[folios], head frames in list order.
      batch: base pages at which a batch is closed; 0: no limit.  Serial releases
        have no batches.
      engine: a copy engine is registered, which only kernel "batch-copy" uses.
      size: how many of `folios` are on the list, so that lists padded to one length
        share a compilation; all if None.
      stop: (k, phase), phase one of unmap, flush, copy, remap: the state inside batch k
        (serial: inside folio k, first pass) right after that phase.
      log: rows of room for a log of what happened, in `result.events.log` (see
        `log.py`); 0: none.  A call with a log is worked one folio at a time.
    Returns:
      The machine after the call and what the call returned and counted; with `stop`,
      what it counted up to the end of batch k - 1.
    Raises:
      ValueError: for a release, mode, reason or architecture that is not modelled, for
        folios that do not exist, are free, tails or listed twice, for numbers that are
        none or out of range, and for a stop at an unknown phase or with a log.  What is
        traced is held within its range instead; whether traced folios are in use, heads
        and listed once is not checked.
    Source: migrate_pages() in mm/migrate.c.
    """
    r = rules(kernel, mode, reason, arch, memalloc, engine)
    arguments.machine(state)
    check_poison(kernel, state, engine)
    log = arguments.whole("log", log, 0, MOST_ROWS)
    args, known = checked(state, folios, node, size, cpu, batch)
    if stop is not None:
        numbers = (jnp.asarray(x, jnp.int32) for x in _stop(stop, log))
        safe = uncoupled(r, state, *known)
        return inside(r.defers, safe)(*args, *numbers, word(r))
    if _traced(args):
        # Inside the user's own jit or vmap: part of that program.
        safe = uncoupled(r, state, *known)
        return _part(r, safe, log, xla.marks(), xla.kernels())(*args)
    return executable(r, donate, *args, log=log)(*args)


@functools.cache
def _part(rules: Rules, safe: bool, log: int, *tricks: bool) -> Callable[..., Any]:
    """`run` as one part of the user's program.

    A `jax.vmap` outside of `jax.jit` then compiles one program, not one an operation, and
    a program that calls it twice is traced once.  JAX would go on using what it traced
    with other `tricks`.
    """
    return jax.jit(functools.partial(run, rules=rules, safe=safe, log=log))


def checked(
    state: Machine,
    folios: Any,
    node: Any,
    size: Any = None,
    cpu: Any = 0,
    batch: Any = NR_MAX_BATCHED_MIGRATION,
) -> tuple[tuple[Any, ...], tuple[Any, Any]]:
    """The arguments of `run` from the machine to the limit, checked.

    Args:
      folios, node, size, cpu, batch: as for `migrate_pages`.
    Returns:
      The arguments as arrays of int32, the list padded; size and node as numbers.
    Raises:
      ValueError: for what `migrate_pages` refuses.
    """
    folios, size = arguments.folios(state, folios, size)
    node, cpu = arguments.node(state, node), arguments.cpu(state, cpu)
    args = (
        state,
        listed(folios)[0],
        *(jnp.asarray(x, jnp.int32) for x in (size, node, cpu)),
        limit_of(arguments.whole("batch", batch, 0)),
    )
    return args, (size, node)


def _traced(args: Any) -> bool:
    return any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args))


def _stop(stop: Any, log: int) -> tuple[Any, int]:
    """The batch and the number of the phase at which a call stops."""
    if log:
        raise ValueError("stop: a call that stops half-way keeps no log")
    if not isinstance(stop, tuple) or len(stop) != 2:
        raise ValueError(f"stop {stop!r:.40}: give (batch, phase)")
    phase = arguments.one_of("stop: phase", stop[1], PHASES)
    return arguments.whole("stop: batch", stop[0], 0), list(PHASES).index(phase)


@functools.cache
def inside(defers: Defers | None, safe: bool) -> xla.Program:
    """The program of a call that stops in a batch after a phase.

    Its last arguments are the numbers of both and the rules as bits.
    """

    def stopped(
        m: Machine,
        folios: Int32[Array, " folios"],
        size: Index,
        node: Index,
        cpu: Index,
        limit: Index,
        batch: Index,
        phase: Index,
        bits: Index,
    ) -> tuple[Machine, Result]:
        k, at = _begin(m, folios, size, node, cpu, 0)
        r = from_word(bits, defers)
        k, m = migrate_until(r, k, at, limit, batch, phase, safe)
        return m, result_of(k)

    return xla.Program(stopped)


def limit_of(batch: Any) -> Int32[Array, ""]:
    """Base pages that close a batch, from an option where 0 means no limit."""
    if isinstance(batch, int):
        return xla.upload(np.int32(batch or NO_LIMIT))
    limit = jnp.asarray(batch, jnp.int32)
    return jnp.where(limit == 0, np.int32(NO_LIMIT), limit)


def replace(state: Machine, **changes: Any) -> Machine:
    """`state` with some arrays replaced."""
    return dataclasses.replace(state, **changes)
