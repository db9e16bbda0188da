"""A call in time as bars: what each batch took, sent, and kept waiting."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jaxmig.report import units
from jaxmig.report.stretches import MOST, TimeStretch
from jaxmig.report.window import FLUSH, MOVE, UNMAP
from jaxmig.show.html.model import Bar, Bars, Part
from jaxmig.show.html.parts import alike, rounded, row
from jaxmig.time.cost import Cost
from jaxmig.time.machines.terms import PHASES

Record = Mapping[str, Any]
BY_LOG: Final = (
    "From the log of each call. A page is away from its unmapping on; with pages of "
    "several sizes that is longer for some than by the means of the table."
)
BY_MEANS: Final = (
    "By the means of the call: it is too large for a log, and real batches differ."
)


def timeline(
    records: Sequence[Record],
    costs: Sequence[Cost],
    logged: Sequence[Sequence[TimeStretch]],
) -> Bars:
    """Kernel after kernel, on one scale.

    Args:
      logged: the stretches of each call; all empty where no log was kept.
    """
    longest = max((r["time_ns"]["total"] for r in records), default=0)
    kernels = [r["kernel"] for r in records]
    if not all(logged):
        both = zip(records, costs, strict=True)
        some = alike(kernels, both, _what_means_say)
        means = tuple(_means(name, r, cost, longest) for name, (r, cost) in some)
        return Bars("The call in time", means, ("unmap", "flush", "move"), BY_MEANS)
    most = {
        "ipis": max((s.ipis for some in logged for s in some), default=0),
        "stall": max((s.stall for some in logged for s in some), default=0),
    }
    calls = zip(records, logged, strict=True)
    bars = [
        bar
        for name, (r, some) in alike(kernels, calls, lambda call: tuple(call[1]))
        for bar in _of_call(name, r, some, longest, most)
    ]
    return Bars("The call in time", tuple(bars), tuple(PHASES), BY_LOG)


def _of_call(
    kernel: str,
    record: Record,
    some: Sequence[TimeStretch],
    longest: float,
    most: Mapping[str, int],
) -> Iterator[Bar]:
    """Three bars one above the other: phases, IPIs and stalls of each stretch."""
    lists = some[-1].last
    what = "batch" if record["batches"] else "folio"
    names = [_which(s, what, lists) for s in some]
    said = [
        f"{kernel}, {name}, at {units.duration(s.begin)}: {phase} {units.duration(ns)}"
        for s, name in zip(some, names, strict=True)
        for phase, ns in zip(PHASES, s.ns, strict=True)
    ]
    spent = [ns for s in some for ns in s.ns]
    parts = row(spent, longest, said, len(PHASES))
    yield Bar(
        f"{kernel}, {_many(lists, what)}",
        parts,
        units.duration(record["time_ns"]["total"]),
    )
    sent = sum(s.ipis for s in some)
    one = [f"{kernel}, {n}: {_ipis(s.ipis)}" for s, n in zip(some, names, strict=True)]
    yield Bar(
        f"{kernel}, IPIs", _high(some, longest, one, 6, most["ipis"], lambda s: s.ipis),
        units.count(sent),
    )  # fmt: skip
    one = [
        f"{kernel}, {n}: a page is away for up to {units.duration(s.stall)}"
        for s, n in zip(some, names, strict=True)
    ]
    stall = max(s.stall for s in some)
    yield Bar(
        f"{kernel}, longest time that a page is away",
        _high(some, longest, one, 7, most["stall"], lambda s: s.stall),
        units.duration(stall),
    )


def _high(
    some: Sequence[TimeStretch],
    longest: float,
    said: Sequence[str],
    color: int,
    most: int,
    value: Callable[[TimeStretch], int],
) -> tuple[Part, ...]:
    """A part a stretch, as wide as its time and as high as its value."""
    parts = []
    for s, text in zip(some, said, strict=True):
        x, width = (100 * ns / (longest or 1) for ns in (s.begin, sum(s.ns)))
        high = 100 * value(s) / (most or 1)
        shape = (rounded(x), rounded(width), text, value(s), color, rounded(high))
        parts.append(Part(*shape))
    return tuple(parts)


def _what_means_say(call: tuple[Record, Cost]) -> tuple[Any, ...]:
    r, cost = call
    ipis, stall = sum(r["ipis_per_cpu"]), r["stall_ns"]["max"]
    return r["batches"], ipis, stall, tuple(cost.places.items())


def _means(kernel: str, record: Record, cost: Cost, longest: float) -> Bar:
    """A call without a log: batches that are all alike."""
    lists = record["batches"] or record["vmstat"]["pgmigrate_success"] or 1
    n = min(lists, MOST)
    ipis = sum(record["ipis_per_cpu"]) / lists
    spent = [sum(cost.places.get(p, 0) for p in ps) for ps in (UNMAP, FLUSH, MOVE)]
    what = "batch" if record["batches"] else "page"
    each = (
        f"{units.duration(spent[0] / lists)} to unmap, "
        f"{units.duration(spent[1] / lists)} to flush with {ipis:,.3g} IPIs, "
        f"{units.duration(spent[2] / lists)} to move; a page is away for up to "
        f"{units.duration(record['stall_ns']['max'])}"
    )
    said = []
    for i in range(n):
        first, last = round(i * lists / n) + 1, round((i + 1) * lists / n)
        which = f"{what} {first:,}" if first == last else f"{what} {first:,}-{last:,}"
        said += [f"{kernel}, {which} of {lists:,}: {each}"] * 3
    parts = row([ns / n for _ in range(n) for ns in spent], longest, said, 3)
    total = units.duration(sum(spent))
    return Bar(f"{kernel}, {_many(lists, what)}", parts, total)


def _which(time_stretch: TimeStretch, what: str, lists: int) -> str:
    numbers = (
        f"{time_stretch.first:,}"
        if time_stretch.first == time_stretch.last
        else f"{time_stretch.first:,}-{time_stretch.last:,}"
    )
    return f"{what} {numbers} of {lists:,}"


def _many(lists: int, what: str) -> str:
    ending = "" if lists == 1 else "es" if what == "batch" else "s"
    return f"{units.count(lists)} {what}{ending}"


def _ipis(n: int) -> str:
    return f"{units.count(n)} IPI{'' if n == 1 else 's'}"
