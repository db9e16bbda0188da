"""pmbench's affinity sets: CPUs, the threads on them, and a map for each set.

The model has no scheduler, so each thread has its own CPU: a set has at most as many
threads as CPUs, and no CPU is in two sets.

Source: populate_new_affinity_set(), alloc_affy_buffers() in system.c of pmbench 0.9;
numa_parse_cpustring_all() in libnuma.c of numactl.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from jaxmig.host import nodes

LONG = 8  # bytes in which libnuma's masks grow


class AffinityError(ValueError):
    """Sets that cannot be read or run; one line that says why."""


@dataclasses.dataclass(frozen=True)
class AffinitySet:
    """CPUs, ascending, and how many threads run there."""

    cpus: tuple[int, ...]
    threads: int

    @property
    def placed(self) -> tuple[int, ...]:
        """The CPU of each thread."""
        return self.cpus[: self.threads]


def parse(text: str, cpus: int) -> AffinitySet:
    """`CPUSTR[:THREADS]` on a machine of `cpus` CPUs; by default a thread on each CPU.

    Raises:
      AffinityError: not of this form, or CPUs that the machine lacks.
    """
    names, colon, count = text.partition(":")
    try:
        found = nodes.parse(names, cpus)
    except nodes.NodeError:
        line = f"{text!r} names no CPUs of 0-{cpus - 1}; write one like 0-3,8:2"
        raise AffinityError(f"affinityset argument syntax error. {line}") from None
    if colon and not (count.isascii() and count.isdigit() and int(count)):
        raise AffinityError(f"affinityset argument syntax error. {count!r} threads")
    threads = int(count) if colon else len(found)
    if not 0 < threads <= len(found):
        line = f"{threads} threads on {len(found)} CPUs: CPUs are not shared here"
        raise AffinityError(f"affinityset {text!r}: {line}")
    return AffinitySet(found, threads)


def parse_all(texts: Sequence[str], cpus: int) -> tuple[AffinitySet, ...]:
    """All sets, the last one named first: the original numbers threads in that order.

    Raises:
      AffinityError: as `parse`, or a CPU in two sets.
    """
    sets = tuple(parse(text, cpus) for text in reversed(texts))
    every = [cpu for one in sets for cpu in one.cpus]
    if len(set(every)) < len(every):
        raise AffinityError("affinityset: a CPU in two sets; CPUs are not shared here")
    return sets


def lines(sets: Sequence[AffinitySet], cpus: int, home: Sequence[int]) -> Iterator[str]:
    """The report's lines about the sets; `home` is the node of each set's map."""
    first = 1
    for i, one in enumerate(sets):
        yield f"    set {i}: nthreads = {one.threads}"
        yield f"       cpumask = {_mask(one.cpus, cpus)}"
        yield f"       nodemask = {_mask((home[i],), 2)}"
        ids = range(first, first + one.threads)
        yield f"       thread ids = {''.join(f'{t} ' for t in ids)}"
        first += one.threads


def _mask(bits: Sequence[int], size: int) -> str:
    """A bitmask's bytes, the highest first, in whole longs."""
    count = -(-size // (8 * LONG)) * LONG
    number = sum(1 << bit for bit in bits)
    return "".join(f"{byte:02x} " for byte in number.to_bytes(count, "big"))
