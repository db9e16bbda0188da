"""migrate_pages(): the call itself, for any release, mode and machine."""

import dataclasses
import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from jaxmig import events, wall
from jaxmig.events import Events
from jaxmig.machine import Machine
from jaxmig.policy import serial_pages
from jaxmig.policy.batched import migrate_batched
from jaxmig.policy.call import Call, List, no_retry, no_stats, nothing
from jaxmig.policy.folio import ENOMEM, SLEEPS, Where
from jaxmig.policy.serial import migrate_serial
from jaxmig.policy.stepwise import NO_LIMIT, migrate_stepwise
from jaxmig.pytree import pytree
from jaxmig.rules import Rules, rules

NR_MAX_BATCHED_MIGRATION: Final = 512
CHUNK: Final = 1 << 14  # pages a trip: their rows stay in the cache of a CPU core
Index = Int32[Array, ""]


@pytree
class Result:
    """What a call returned and counted."""

    failed: Int32[Array, ""]  # folios not migrated: the return value unless negative
    error: Int32[Array, ""]
    events: Events

    @property
    def errno(self) -> str | None:
        """Name of the error, or None.  Host only."""
        return "ENOMEM" if int(self.error) == ENOMEM else None

    @property
    def ret(self) -> int:
        """What migrate_pages() returns, -1 with an errno.  Host only."""
        return -1 if self.errno else int(self.failed)

    @property
    def sleeps(self) -> bool:
        """Whether the caller would never have come back.  Host only."""
        return int(self.error) == SLEEPS

    @property
    def vmstat(self) -> dict[str, int]:
        """Change of /proc/vmstat.  Host only."""
        counts = self.events.counts()
        stat = {name: counts[name] for name in events.VMSTAT[:6]}
        stat["nr_tlb_remote_flush_received"] = sum(self.events.ipis_per_cpu())
        return stat | {name: counts[name] for name in events.VMSTAT[6:]}


def run(
    m: Machine,
    folios: Int32[Array, " folios"],
    size: Int32[Array, ""],
    node: Int32[Array, ""],
    cpu: Int32[Array, ""],
    limit: Int32[Array, ""],
    r: Rules,
    chunk: int,
) -> tuple[Machine, Result]:
    """The call on the first `size` of `folios`; traceable."""
    k = Call(
        m=m,
        ev=events.none(m.cpus.lazy.shape[0]),
        todo=List(folios, size),
        held=nothing(folios),
        ret=nothing(folios),
        split=nothing(folios),
        stats=no_stats(),
        retry=no_retry(),
        error=jnp.int32(0),
        remaining=jnp.int32(0),
    )
    at = Where(cpu=cpu, node=node)
    if r.release.batched:
        k = migrate_any(r, k, at, limit, chunk)
    elif serial_pages.fits(m):
        k = serial_pages.migrate_serial_pages(r, k, at)
    else:
        k = migrate_serial(r, k, at)
    s = k.stats
    ev = k.ev.add(
        pgmigrate_fail=s.failed_pages,
        thp_migration_fail=s.thp_failed,
        thp_migration_split=s.thp_split,
        nr_split=s.split,
    )
    # An empty list on return means success, whatever was counted as failed on the way.
    failed = jnp.where(k.remaining == 0, 0, s.failed)
    return k.m, Result(failed, k.error, ev)


def migrate_any(r: Rules, k: Call, at: Where, limit: Index, chunk: int) -> Call:
    """All batches at once as far as that is safe, one attempt at a time from there.

    Base pages couple only through free memory: as long as every page of a batch and of
    all before it could get a frame, none of them sees it end.
    """
    if k.m.geometry.orders != (0,):
        return migrate_stepwise(r, k, at, limit)
    size, room = k.todo.size, k.m.nfree[at.node]
    safe = jnp.where(size <= room, size, room // limit * limit)
    if r.release.crossing_opens_next and k.m.conditions is not None:
        # The posted series stops in the middle of a batch before it sleeps.
        safe = safe * 0
    k = migrate_batched(r, k, at, limit, safe, chunk)
    go = (safe < size) & (k.error == 0)
    return wall.when(go, lambda k: migrate_stepwise(r, k, at, limit, safe), k)


@functools.cache
def compiled(r: Rules, donate: bool, chunk: int = CHUNK) -> Any:
    """The jitted call for these rules."""
    return jax.jit(
        functools.partial(run, r=r, chunk=chunk), donate_argnums=(0,) if donate else ()
    )


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
    donate: bool = False,
    size: Any = None,
) -> tuple[Machine, Result]:
    """Migrate folios, given by their head frames, to `node`.

    Args:
      state: the machine; unchanged, unless `donate` gives its arrays away.
      folios: int32[folios], head frames in list order.
      batch: base pages at which a batch is closed; 0: no limit.  Serial releases have none.
      size: how many of `folios` are on the list, so that lists padded to one length share
        a compilation; all if None.
    Returns:
      The machine after the call and what the call returned and counted.
    Raises:
      ValueError: for a release, mode, reason or architecture that is not modelled.
    Source: migrate_pages() in mm/migrate.c.
    """
    r = rules(kernel, mode, reason, arch, memalloc)
    heads = jnp.asarray(folios, jnp.int32)
    size = jnp.asarray(heads.shape[0] if size is None else size, jnp.int32)
    if heads.shape[0] == 0:
        heads = jnp.zeros(1, jnp.int32)
    numbers = (jnp.asarray(x, jnp.int32) for x in (node, cpu))
    return compiled(r, donate)(state, heads, size, *numbers, limit_of(batch))


def limit_of(batch: Any) -> Int32[Array, ""]:
    """Base pages that close a batch, from an option where 0 means that none do."""
    limit = jnp.asarray(batch, jnp.int32)
    return jnp.where(limit == 0, np.int32(NO_LIMIT), limit)


def replace(state: Machine, **changes: Any) -> Machine:
    """`state` with some arrays replaced."""
    return dataclasses.replace(state, **changes)
