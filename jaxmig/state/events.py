"""What happened during a call, counted.

A call only counts; the cost model (`time/cost.py`) prices the counters afterwards with a
machine profile.  A counter is two uint32 limbs, because the IPIs of 64 M pages and 128
CPUs pass 2^32 and JAX has no 64-bit integers unless jax_enable_x64 is set.

Source of the vmstat names: struct migrate_pages_stats and migrate_pages() in
mm/migrate.c; include/linux/vm_event_item.h.
"""

import dataclasses
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

from jaxmig.state import log as logs
from jaxmig.state.log import Log
from jaxmig.state.pytree import pytree

# /proc/vmstat.
VMSTAT: Final = (
    "pgmigrate_success",  # base pages, also those that were freed meanwhile
    "pgmigrate_fail",  # base pages tried and failed
    "thp_migration_success",  # PMD-mappable folios (6.1: every large folio)
    "thp_migration_fail",
    "thp_migration_split",
    "nr_tlb_remote_flush",  # flush_tlb_multi() calls, even if all are lazy
    "nr_tlb_local_flush_all",  # full flushes on the migrating CPU
    "nr_tlb_local_flush_one",  # pages flushed one by one on the migrating CPU
)
CALL: Final = (
    "nr_split",  # large folios split, of any size (counted as failed from 6.7)
    "batches",  # lists given to the asynchronous stage
    "allocs",  # destination folios obtained
    "copies_lost",  # folios whose engine's copy was not used (batch-copy)
)
# Only the cost model reads these.
WORK: Final = (
    "alloc_pages",  # base pages of `allocs`
    "tries",  # unmap attempts of a folio that got past the allocation
    "ptes_cleared",  # try_to_migrate_one() runs on a PTE
    "pmds_cleared",  # the same on a PMD (also hugetlb)
    "ptes_deferred",  # of ptes_cleared, left to the batch's flush
    "flushes_immediate",  # requests to other CPUs, one PTE or PMD each (x86)
    "flushes_immediate_lazy",  # of those, requests without an IPI: all CPUs lazy
    "flushes_batch",  # try_to_unmap_flush() with something pending
    "flushes_batch_lazy",  # of those, requests without an IPI
    "ipis_immediate",
    "ipis_batch",
    "moves",  # move attempts: the reference check
    "folios_moved",  # successful folio_migrate_mapping() calls
    "folios_cached",  # of folios_moved, of the page cache: shmem and files
    "pages_copied",  # base pages copied as folios below PMD size
    "pages_copied_huge",  # base pages copied as PMD-sized folios
    "copies_wasted",  # base pages copied for a folio that then failed (copy engines)
    "pages_by_cpu",  # of the pages copied, those that the engine did not (batch-copy)
    "ptes_set",  # remove_migration_pte() runs on a PTE, moved or put back
    "pmds_set",
    "lru_drains",  # lru_add_drain() calls
    "calls",  # migrate_pages() of one list
)
COUNTERS: Final = VMSTAT + CALL + WORK
# Counters that a log has rows of; the others are known only when a call ends.
_AT_END: Final = "pgmigrate_fail thp_migration_fail thp_migration_split nr_split calls"
LOGGED: Final = tuple(n for n in COUNTERS if n not in _AT_END.split())
_INDEX: Final = {name: i for i, name in enumerate(COUNTERS)}

Count = int | Int[Array, ""] | Bool[Array, ""]


@pytree
class Events:
    """Counters of one call, and the shootdown interrupts each CPU took."""

    low: UInt32[Array, " counters"]
    high: UInt32[Array, " counters"]
    ipis: UInt32[Array, " cpus"]
    ipis_high: UInt32[Array, " cpus"]
    log: Log | None = None

    def add(self, **counts: Count) -> "Events":
        """These events and `counts` more, each below 2^32.

        Raises:
          TypeError: for a counter that is none of COUNTERS.
        """
        noted = self if self.log is None else self._log_counts(counts)
        unknown = counts.keys() - _INDEX.keys()
        if unknown:
            raise TypeError(f"no such counter: {', '.join(sorted(unknown))}")
        index = jnp.arange(len(COUNTERS))
        more = jnp.zeros(len(COUNTERS), jnp.uint32)
        # Selects by index fuse with the sum; a stack would be one more pass.
        for name, count in counts.items():
            n = jnp.asarray(count).astype(jnp.uint32)
            more = jnp.where(index == _INDEX[name], n, more)
        low = self.low + more
        carry = (low < self.low).astype(jnp.uint32)
        return dataclasses.replace(noted, low=low, high=self.high + carry)

    def add_sum(self, name: str, parts: Int[Array, " parts"]) -> "Events":
        """These events and as many more as `parts` come to, which may be 2^32 and above.

        At most 2^16 parts, of a call without a log.
        """
        n = parts.astype(jnp.uint32)
        half, upper = (x.sum(dtype=jnp.uint32) for x in (n & 0xFFFF, n >> 16))
        ev = self.add(**{name: half}).add(**{name: upper << 16})
        here = jnp.arange(len(COUNTERS)) == _INDEX[name]
        high = ev.high + jnp.where(here, upper >> 16, np.uint32(0))
        return dataclasses.replace(ev, high=high)

    def interrupt(self, cpus: Any) -> "Events":
        """These events and IPIs more: a count, or a mask, a CPU."""
        low = self.ipis + cpus.astype(jnp.uint32)
        carry = (low < self.ipis).astype(jnp.uint32)
        more = self.ipis_high + carry
        return dataclasses.replace(self, ipis=low, ipis_high=more)

    def note(self, kind: int, *words: Any, when: Any = True) -> "Events":
        """These events, with a row more in the log if there is one."""
        if self.log is None:
            return self
        log = self.log.append(kind, *words, when=when)
        return dataclasses.replace(self, log=log)

    def note_cpus(self, ipis: Any, full: Any, one: Any, when: Any) -> "Events":
        """These events, with the CPUs that a flush reached in the log if there is one.

        Args:
          ipis: bool[cpus], those interrupted.
          full, one: bool[cpus], those that flush everything, or one page.
          when: whether there was a flush.
        Returns:
          The events.
        """
        if self.log is None:
            return self
        log = self.log.append_cpus(ipis, full, one, when)
        return dataclasses.replace(self, log=log)

    def _log_counts(self, counts: dict[str, Count]) -> "Events":
        ones = many = amount = jnp.int32(0)
        for name, count in counts.items():
            if name in LOGGED:
                bit, n = 1 << LOGGED.index(name), jnp.asarray(count, jnp.int32)
                ones |= jnp.where(n == 1, bit, 0)
                many |= jnp.where(n > 1, bit, 0)
                # Counts above one of one row are equal: they are pages of one folio.
                amount = jnp.maximum(amount, jnp.where(n > 1, n, 0))
        return self.note(logs.COUNT, ones, many, amount, when=(ones | many) != 0)

    def counts(self) -> dict[str, int]:
        """Counter -> Python int.  Host only."""
        wide = _wide(self.low, self.high)
        return {name: int(wide[i]) for name, i in _INDEX.items()}

    def ipis_per_cpu(self) -> list[int]:
        """Interrupts each CPU took.  Host only."""
        return [int(n) for n in _wide(self.ipis, self.ipis_high)]


def none(cpus: int, log: int = 0) -> Events:
    """No events yet, on a machine of `cpus` CPUs; `log` rows of room for a log."""
    counters = np.zeros(len(COUNTERS), np.uint32)
    per_cpu = np.zeros(cpus, np.uint32)
    arrays = (jnp.asarray(a) for a in (counters, counters, per_cpu, per_cpu))
    return Events(*arrays, log=logs.empty(log) if log else None)


def plus(first: Events, second: Events) -> Events:
    """Both together; neither has a log."""
    low, ipis = first.low + second.low, first.ipis + second.ipis
    carry = (low < first.low).astype(jnp.uint32)
    more = (ipis < first.ipis).astype(jnp.uint32)
    high = first.high + second.high + carry
    ipis_high = first.ipis_high + second.ipis_high + more
    return Events(low, high, ipis, ipis_high)


def _wide(low: Any, high: Any) -> np.ndarray:
    low, high = (np.asarray(x).astype(np.uint64) for x in (low, high))
    return low + (high << 32)
