"""One call: the machine that it works on, and the counts of all its lists.

A system call or a kernel caller hands lists of folios to `Session.migrate()`, one after
the other; their counts and interrupts are added up.
"""

import errno
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from jaxmig.calls.syscalls.space import Heads, View
from jaxmig.engine.migrate import (
    MOST_ROWS,
    Result,
    check_poison,
    executable,
    limit_of,
    listed,
    replace,
)
from jaxmig.host.refused import Refused
from jaxmig.linux.folio import Fallback
from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, Release, release
from jaxmig.linux.rules import Rules, rules, word
from jaxmig.state import arguments, conditions as cond, frame, log, xla
from jaxmig.state.events import COUNTERS, Events
from jaxmig.state.machine import Machine

SMALLEST_LOG: Final = 1 << 14  # rows
ROWS_A_FOLIO: Final = 16  # of a base page that moves at once


class NotModelled(Refused):
    """The outcome of a call depends on something that is not modelled, which it names."""


class SleepsForever(Exception):
    """The call waits for something that never ends."""


class LogTooLong(ValueError):
    """The call does more than a log can hold."""


class Session:
    """State, release and hardware of one call, and its running totals.

    Args:
      nodes, cpus: how many of the machine's are in use, the first ones; None: all.
    Attributes:
      state: the machine as the lists migrated so far have left it.
      memory: nodes that have memory (N_MEMORY).
      engine: whether a copy engine is registered.
      counts: sums of the counters of events.py.
      ipis: shootdown interrupts that each CPU took.
      compile_s: seconds of compilation on this computer.
      wall_s: seconds that this computer worked on the lists, compilation excluded.
      shared_stay: base pages that migrate_pages(2) left to those who share them.
      logs: of the lists migrated so far; None unless `keep_logs`.
    """

    def __init__(
        self,
        state: Machine,
        kernel: str = "6.3",
        *,
        cpu: int = 0,
        batch: int = NR_MAX_BATCHED_MIGRATION,
        arch: str = "x86",
        nodes: int | None = None,
        cpus: int | None = None,
        memory: frozenset[int] | None = None,
        engine: bool = False,
        keep_logs: bool = False,
    ) -> None:
        """A call on CPU `cpu` of `state`.

        Raises:
          ValueError: for a release or architecture that is not modelled, for a CPU, a
            batch or a number of nodes or CPUs that is none, and for memory elsewhere.
        """
        rules(kernel, arch=arch)  # refuses what is not modelled before a list is made
        self.state, self.kernel, self.arch = state, kernel, arch
        self.cpu, self.engine = arguments.cpu(state, cpu), engine
        self.batch = arguments.whole("batch", batch, 0)
        there, most = state.geometry.nodes, state.cpus.lazy.shape[0]
        self.nodes = (
            there if nodes is None else arguments.whole("nodes", nodes, 1, there)
        )
        cpus = most if cpus is None else arguments.whole("cpus", cpus, 1, most)
        self.memory = frozenset(range(self.nodes))
        if memory is not None:
            last = self.nodes - 1
            self.memory = frozenset(arguments.numbers("memory", memory, 0, last))
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.ipis = [0] * cpus
        self.compile_s = self.wall_s = 0.0
        self.shared_stay = 0
        self.logs: list[log.Written] | None = [] if keep_logs else None
        self._view: View | None = None

    @property
    def release(self) -> Release:
        """The switches of the kernel's release."""
        return release(self.kernel)

    def view(self) -> View:
        """The state on the host, until the next list is migrated."""
        if self._view is None:
            self._view = View.of(self.state)
        return self._view

    def free(self, node: int) -> int:
        """Base pages free on a node, 0 if there is no such node."""
        return int(self.state.nfree[node]) if 0 <= node < self.nodes else 0

    def refuse(self, heads: Sequence[Heads], by_driver: bool = False) -> None:
        """Count a failed isolation of each folio, which may end its state `isolated`.

        Args:
          by_driver: a driver was asked for its own pages, which are on no LRU list.
        """
        c, view = self.state.conditions, self.view()
        if c is None or view.marks is None or not heads:
            return
        at = np.concatenate(heads)
        driver = (view.flags(at) & frame.KIND) == frame.MOVABLE_OPS
        at = at[((view.marks[at] & cond.ISOLATED) != 0) & (driver == by_driver)]
        if len(at) == 0:
            return
        fields, marks = cond.unpack(np.asarray(c[at]))
        left = fields[cond.TAKEN]
        left = np.where(left < cond.UNTIL_WAITED, left - 1, left)
        fields = (*fields[: cond.TAKEN], left, *fields[cond.TAKEN + 1 :])
        marks = np.where(left == 0, marks & ~cond.ISOLATED, marks)
        worn = c.at[at].set(np.stack(cond.pack(fields, marks), axis=-1))
        over = at[left == 0]
        lru = 0 if by_driver else frame.LRU
        rows = self.state.frame.at[over, frame.FLAGS].set(view.flags(over) | lru)
        self.state = replace(self.state, frame=rows, conditions=worn)
        self._view = None

    def migrate(
        self,
        folios: Heads,
        node: int,
        *,
        mode: str = "sync",
        reason: str = "syscall_or_cpuset",
        memalloc: bool = False,
        batch: int | None = None,
        puts_back: bool = False,
        fallback: Fallback | None = None,
    ) -> int:
        """migrate_pages() of one list to one node, or to others once that is full.

        A folio that two areas map is isolated once.  A node that the machine lacks never
        has free memory.

        Args:
          folios: head frames, in the order of the list.
          mode: "async", "sync_light" or "sync".
          reason: enum migrate_reason, as trace points print it.
          memalloc: the caller runs with PF_MEMALLOC.
          batch: base pages at which a batch is closed; None for the session's limit.
          puts_back: the caller puts back what is on its list even after a success.
          fallback: the other nodes; None: there are none.
        Returns:
          Folios not migrated, or -ENOMEM.
        Raises:
          SleepsForever: where Linux would wait for ever.
          NotModelled: for poisoned pages before 6.12, or with a copy engine; where the
            machine lacks frames for folios that fall back on the node they lie on.
          ValueError: for folios that do not exist, are free or are tails.
        """
        folios = np.asarray(arguments.frames(self.state, folios))
        node = arguments.whole("node", node, -arguments.MOST)
        if len(folios) == 0:
            return 0
        try:
            check_poison(self.kernel, self.state, self.engine)
        except ValueError as error:
            raise NotModelled(str(error)) from None
        arguments.in_use(folios, self.view().flags(folios))
        first = np.unique(folios, return_index=True)[1]
        if first.size < folios.size:
            folios = folios[np.sort(first)]
        whole = self._large(folios)
        state, home = self.state, node
        if fallback is None and not 0 <= node < self.nodes:
            # Allocating there always fails, as on a node whose memory is used up.
            home = self._other_node(folios)
            state = replace(state, nfree=state.nfree.at[home].set(0))
        r = self._rules(self.kernel, mode, reason, memalloc)
        limit = limit_of(
            self.batch if batch is None else arguments.whole("batch", batch, 0)
        )
        state, result = self._run(r, state, folios, home, limit, fallback)
        if home != node:
            nfree = state.nfree.at[home].add(self.state.nfree[home])
            state = replace(state, nfree=nfree)
        if result.sleeps:
            raise SleepsForever
        if result.crowded:
            problem = "the machine was made without frames for pages that go nowhere"
            raise NotModelled(f"{problem}; leave more memory free")
        self.state, self._view = state, None
        if self.logs is not None and result.events.log is not None:
            self.logs.append(log.Written(result.events.log.rows(), mode, reason))
        ret = -errno.ENOMEM if result.errno else int(result.failed)
        if self._book(result.events)["nr_split"] and ret == 0 and not puts_back:
            self._forget_pieces(whole)
        return ret

    def rewind(self, state: Machine) -> None:
        """Continue from another state."""
        self.state, self._view = state, None

    def work(self, program: Callable[[Any], xla.Program], *args: Any) -> Any:
        """Run another compiled program than migrate_pages() on the state.

        Its events are added to the call's counts; the log does not show them.

        Args:
          program: makes the program for a release's own `defers`.  It takes the state,
            `args`, the CPU and the rules as bits, and returns a state, events and a
            result.
        Returns:
          The program's result.
        """
        r = rules(self.kernel, arch=self.arch)
        numbers = (jnp.int32(self.cpu), jnp.asarray(word(r)))
        call = (self.state, *args, *numbers)
        start = time.perf_counter()
        compiled = program(r.defers).executable(*call)
        self.compile_s += time.perf_counter() - start
        jax.block_until_ready(call)
        start = time.perf_counter()
        state, ev, more = jax.block_until_ready(compiled(*call))
        self.wall_s += time.perf_counter() - start
        self.rewind(state)
        self._book(ev)
        return more

    def wait(self, heads: Heads, state: int) -> None:
        """Sleep until a state of conditions.py is over for some folios.

        Raises:
          SleepsForever: the state never ends.
        """
        c = self.view().conditions
        if c is None or len(heads) == 0:
            return
        fields, marks = cond.unpack(c[heads])
        there = fields[state] > 0
        if (there & ((marks & cond.forever(state)) != 0)).any():
            raise SleepsForever
        if there.any():
            rows = np.array(c)
            ended = np.where(there, 0, fields[state])
            fields = (*fields[:state], ended, *fields[state + 1 :])
            rows[heads] = np.stack(cond.pack(fields, marks), axis=-1)
            self.rewind(replace(self.state, conditions=jnp.asarray(rows)))

    def _rules(self, kernel: str, mode: str, reason: str, memalloc: bool) -> Rules:
        """The rules, normalised where a rule has no effect, so that fewer compile."""
        large = self.state.geometry.orders != (0,)
        if not (large and reason in ("numa_misplaced", "longterm_pin")):
            reason = "syscall_or_cpuset"
        waits = mode != "async"
        memalloc = memalloc and waits
        return rules(kernel, mode, reason, self.arch, memalloc, self.engine)

    def _run(
        self,
        rules: Rules,
        state: Machine,
        folios: Heads,
        node: int,
        limit: Any,
        fallback: Fallback | None = None,
    ) -> tuple[Machine, Result]:
        args = self._arguments(state, folios, node, limit)
        if self.logs is not None:
            return self._run_logged(rules, args, len(folios), fallback)
        start = time.perf_counter()
        call = executable(rules, False, *args, fallback=fallback)
        self.compile_s += time.perf_counter() - start
        return self._timed(call, args)

    def _arguments(
        self, state: Machine, folios: Heads, node: int, limit: Any
    ) -> tuple[Any, ...]:
        heads, size = listed(folios)
        numbers = (xla.upload(np.int32(n)) for n in (size, node, self.cpu))
        return state, heads, *numbers, limit

    def _timed(
        self, call: Callable[..., Any], args: tuple[Any, ...]
    ) -> tuple[Machine, Result]:
        """Run the call until its results are ready, and add to `wall_s`."""
        jax.block_until_ready(args)
        start = time.perf_counter()
        done: tuple[Machine, Result] = jax.block_until_ready(call(*args))
        self.wall_s += time.perf_counter() - start
        return done

    def _run_logged(
        self,
        rules: Rules,
        args: tuple[Any, ...],
        folios: int,
        fallback: Fallback | None,
    ) -> tuple[Machine, Result]:
        """Run the call with a log, and again with a longer one if it was too short."""
        rows = max(SMALLEST_LOG, ROWS_A_FOLIO * folios)
        while True:
            room = 1 << (rows - 1).bit_length()
            if room > MOST_ROWS:
                raise LogTooLong(f"too much to trace: more than {MOST_ROWS:,} events")
            start = time.perf_counter()
            call = executable(rules, False, *args, log=room, fallback=fallback)
            self.compile_s += time.perf_counter() - start
            state, result = self._timed(call, args)
            written = result.events.log
            if written is None or not int(written.lost):
                return state, result
            rows = int(written.length) + int(written.lost)

    def _book(self, ev: Events) -> dict[str, int]:
        counts = ev.counts()
        for name, count in counts.items():
            self.counts[name] += count
        # CPUs beyond the call's last one only pad the machine, and are never interrupted.
        ipis = ev.ipis_per_cpu()[: len(self.ipis)]
        self.ipis = [a + b for a, b in zip(self.ipis, ipis, strict=True)]
        return counts

    def _other_node(self, folios: Heads) -> int:
        taken = set(np.unique(self.view().node(folios)).tolist())
        return min(set(range(self.nodes)) - taken, default=0)

    def _large(self, folios: Heads) -> Int32[np.ndarray, "large 2"]:
        """Heads and orders of the large folios of a list."""
        if self.state.geometry.orders == (0,):
            return np.zeros((0, 2), np.int32)
        order = frame.order(self.view().flags(folios))
        return np.stack([folios, order], axis=1)[order > 0]

    def _forget_pieces(self, whole: Int32[np.ndarray, "large 2"]) -> None:
        """Leave pieces that were not moved isolated: after a result of 0 no caller puts
        them back."""
        view = self.view()
        pieces = [np.arange(h, h + (1 << o)) for h, o in whole.tolist()]
        at = np.concatenate(pieces)
        flags = view.frame[at, frame.FLAGS]
        # A whole folio here is a later one of the list, moved to the frames of another.
        pieces_left = (flags & frame.KIND != frame.FREE) & (frame.order(flags) == 0)
        at = at[pieces_left & (flags & frame.LRU != 0)]
        rows = self.state.frame.at[at, frame.FLAGS]
        left = jnp.asarray(view.frame[at, frame.FLAGS] & ~frame.LRU)
        self.state, self._view = replace(self.state, frame=rows.set(left)), None
