#!/usr/bin/env python3
"""How do hundreds of machines run in one compiled call?

docs/examples/many_machines.py [MACHINES [PAGES]]

Machines that differ in data only (which CPUs run the process, the batch limit) are
stacked, and `jax.vmap` runs all of them at once, on a GPU if there is one.
"""

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import jaxmig
from jaxmig import report
from jaxmig.report.units import count

CPUS = 32


def main(machines: str = "256", pages: str = "256") -> None:
    """Random masks and limits; a row for each limit."""
    n = int(machines)
    b = jaxmig.Builder(nodes=2, cpus=CPUS)
    b.mmap(b.process("app", running=[1]), pages=int(pages))
    state = b.build(content=False)
    folios = jnp.asarray(jaxmig.folios_on(state, 0))
    first, second = jax.random.split(jax.random.key(0))
    masks = jax.random.bernoulli(first, 0.5, (n, 1, CPUS)).at[:, :, 0].set(False)
    limits = 2 ** jax.random.randint(second, (n,), 0, 10)

    @jax.jit
    @jax.vmap
    def migrated(mask: jax.Array, limit: jax.Array) -> tuple[jax.Array, jax.Array]:
        mm = jnp.where(mask[0], 0, state.cpus.mm.max())
        cpus = dataclasses.replace(state.cpus, mask=mask, mm=mm)
        machine = dataclasses.replace(state, cpus=cpus)
        _, result = jaxmig.migrate_pages(machine, folios, 1, batch=limit)
        return result.events.ipis.sum(), mask.sum()

    ipis, running = jax.block_until_ready(migrated(masks, limits))
    start = time.perf_counter()
    jax.block_until_ready(migrated(masks, limits))
    took = time.perf_counter() - start
    rows = []
    for limit in sorted(set(limits.tolist())):
        some = limits == limit
        each = ipis[some].sum() / running[some].sum()
        rows.append([str(limit), str(int(some.sum())), f"{float(each):.2f}"])
    print(f"{n} machines of {pages} pages in one call:\n")
    heads = ("batch limit", "machines", "IPIs a running CPU")
    print(report.table(heads, rows, "simple"))
    where = jax.devices()[0].platform
    print(f"\n{count(n)} calls in {took * 1000:.0f} ms, compiled before ({where})")


if __name__ == "__main__":
    main(*sys.argv[1:])
