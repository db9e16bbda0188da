"""One call in many configurations, from Python: the counts of each.

masks = [dataclasses.replace(state, cpus=c) for c in ...]
result = sweep.count_many(masks, folios, 1, batch=[1, 64, 512])

Arrays that are the same object in all machines exist once on the device; only others are
stacked.  Configurations run in chunks that fit into memory, all with one program.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxmig.engine.migrate import Result, limit_of
from jaxmig.linux.releases import NR_MAX_BATCHED_MIGRATION, Defers
from jaxmig.linux.rules import from_word, rules, word
from jaxmig.state import arguments
from jaxmig.state.machine import Machine
from jaxmig.tools.sweep.counts import What, count, countable
from jaxmig.tools.sweep.program import jitted, played

AT_ONCE: Final = 64  # configurations, on each device


def count_many(
    states: Machine | Sequence[Machine],
    folios: Any,
    node: int,
    *,
    batch: int | Sequence[int] = NR_MAX_BATCHED_MIGRATION,
    kernel: str = "6.3",
    mode: str = "sync",
    reason: str = "syscall_or_cpuset",
    cpu: int = 0,
    arch: str = "x86",
    at_once: int = AT_ONCE,
    mesh: Mesh | None = None,
) -> Result:
    """The result of `migrate_pages` in each configuration.

    Args:
      states: the machine, or one for each configuration, which may differ in conditions,
        CPU masks and anything else that changes no shapes or sizes of page tables.
      folios: int32[folios], head frames, each once; the same list for all.
      node: the destination.
      batch: base pages at which a batch is closed, or one number for each configuration.
      kernel, mode, reason, cpu, arch: as for `migrate_pages`.
      at_once: configurations that a device runs together.
      mesh: devices with one axis, among which configurations are divided.
    Returns:
      A result whose arrays have the configurations as an additional first axis.
    Raises:
      ValueError: for as many machines as batch limits only where one of them is one;
        for machines of different shapes, or a mesh of several axes; and for what
        `migrate_pages` refuses.
    """
    r = rules(kernel, mode, reason, arch)
    machines = _machines(states)
    limits = _limits(batch)
    n = _length(machines, limits)
    first = machines[0]
    node, cpu = arguments.node(first, node), arguments.cpu(first, cpu)
    at_once = arguments.whole("at_once", at_once, 1)
    # Whether folios are in use each table of frames says for itself.
    tables = {id(m.frame): m for m in machines}.values()
    for m in tables:
        folios, _ = arguments.folios(m, folios)
    heads = np.asarray(folios)
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(f"a mesh with axes {mesh.axis_names}: sweeps need one axis")
    differ = differing(machines)
    several = _distinct(machines) if "nfree" in differ else machines[:1]
    counts = all(countable(r, m, heads.size, node) for m in several)
    width = min(at_once, n) * (mesh.size if mesh else 1)
    program = compiled(r.defers, counts, differ, mesh)
    numbers = (jnp.int32(x) for x in (heads.size, node, cpu))
    rest = (jnp.asarray(heads if heads.size else np.zeros(1, np.int32)), *numbers)
    bits, found = jnp.asarray(word(r)), []
    for some, lim in _chunks(machines, limits, differ, n, width):
        found.append(program(machines[0], some, limit_of(lim), rest, bits))
    return jax.tree.map(lambda *x: jnp.concatenate(x)[:n], *found)


def _machines(states: Any) -> list[Machine]:
    """One machine or several. Raises ValueError for what is none."""
    if isinstance(states, Machine):
        return [states]
    machines = list(states) if isinstance(states, Sequence) else [states]
    for m in machines:
        arguments.machine(m)
    return machines


def _limits(batch: Any) -> np.ndarray:
    """Batch limits, int32[limits]. Raises ValueError for what is none."""
    several = isinstance(batch, Sequence) and not isinstance(batch, str)
    if several or np.ndim(batch):
        return np.asarray(
            arguments.numbers("batch", batch, 0, arguments.MOST), np.int32
        )
    return np.asarray([arguments.whole("batch", batch, 0)], np.int32)


def _length(machines: Sequence[Machine], limits: np.ndarray) -> int:
    a, b = len(machines), limits.size
    if not a or not b or (a != b and 1 not in (a, b)):
        raise ValueError(f"{a} machines and {b} batch limits: as many, or one for all")
    first = machines[0]
    for m in _distinct(machines):
        if jax.tree.structure(m) != jax.tree.structure(first) or any(
            x.shape != y.shape
            for x, y in zip(jax.tree.leaves(m), jax.tree.leaves(first), strict=True)
        ):
            raise ValueError("machines of different shapes cannot be swept together")
    return max(a, b)


def _distinct(machines: Sequence[Machine]) -> list[Machine]:
    return list({id(m): m for m in machines}.values())


def differing(machines: Sequence[Machine]) -> tuple[str, ...]:
    """The fields that are not the same object in all machines."""
    first, others = machines[0], _distinct(machines)[1:]
    names = [f.name for f in dataclasses.fields(Machine) if f.name != "geometry"]
    return tuple(
        n for n in names if any(getattr(m, n) is not getattr(first, n) for m in others)
    )


def _chunks(
    machines: Sequence[Machine],
    limits: np.ndarray,
    differ: tuple[str, ...],
    n: int,
    width: int,
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Stacked fields and limits, `width` configurations at a time; the last is padded."""
    for start in range(0, n, width):
        at = np.minimum(np.arange(start, start + width), n - 1)
        some = [machines[i if len(machines) > 1 else 0] for i in at]
        stacked = {
            name: jax.tree.map(
                lambda *x: jnp.asarray(np.stack([np.asarray(a) for a in x])),
                *(getattr(m, name) for m in some),
            )
            for name in differ
        }
        yield stacked, limits[at if limits.size > 1 else at * 0]


@functools.cache
def compiled(
    defers: Defers | None, counts: bool, differ: tuple[str, ...], mesh: Mesh | None
) -> Any:
    """The jitted sweep of one chunk of configurations.

    Args:
      defers: the user's own rule of a release, or None.
      counts: whether the calls are `countable()`.
      differ: fields of the machine that are stacked.
      mesh: devices that share the configurations.
    Returns:
      A function of the machine, the stacked fields, the limits, the call and the rules as
      bits (`rules.word`), with a result for each configuration.
    """

    def many(
        m: Machine, some: dict[str, Any], limits: Any, call: What, bits: Any
    ) -> Result:
        r = from_word(bits, defers)

        def one(given: tuple[dict[str, Any], Any]) -> Result:
            some, limit = given
            here = dataclasses.replace(m, **some)
            if counts:
                return count(r, here, call, limit)[0]
            return played(r, here, call, limit)[1]

        # One after the other, as their branches and loops have different lengths.
        each = jax.vmap(one) if counts else functools.partial(jax.lax.map, one)
        return each((some, limits))

    return jitted(many, mesh, dealt=(1, 2), arguments=5)
