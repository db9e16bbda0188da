"""Releases side by side: the counts of a call on each, and its modelled time.

Modelled time and the time that this computer took never share a row.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxmig.report.answer import answer
from jaxmig.report.tables import bold, table
from jaxmig.report.units import (
    CALLERS,
    count,
    cpu_list,
    duration,
    rate,
    reduction,
    seconds,
    span,
)
from jaxmig.time.machines import Profile

Record = Mapping[str, Any]
# Rows that explain others, shown only in detail.
_DETAIL = (
    "modelled pages/s, ",
    *(f"modelled time, {phase}" for phase in ("alloc", "unmap", "flush", "copy")),
    *(f"modelled time, {phase}" for phase in ("remap", "other")),
)
_PHASES = ("alloc", "unmap", "flush", "copy", "remap", "other")


def assumed_line(
    profile: Profile,
    *,
    running: Iterable[int],
    lazy: Iterable[int] = (),
    cpu: int | Sequence[int] = 0,
    ran: str = "",
    privileged: bool | None = True,
    cpus: int | None = None,
    nodes: int | None = None,
    batch: int | None = 512,
    copy: str | None = "cpu",
    content: bool = True,
    varied: Sequence[str] = (),
) -> str:
    """One line with the machine and the state that the numbers hold for.

    Args:
      running, lazy: CPU numbers of the target.
      cpu: the CPU that migrates; several where calls differ.
      ran: why these CPUs are taken for the target's, if nobody chose them.
      privileged: whether the caller is root; None: the kernel, or callers of both kinds.
      cpus, nodes: how many; None for the profile's.
      batch: base pages at which a batch is closed; 0 for no limit, None if varied.
      copy: the copy engine; None if varied.
      content: whether frames hold their 4 KiB.
      varied: names of settings with several values; for `cpus` the line has the most.
    Returns:
      The line, without its end.
    """
    n, absent = profile.origins("cost."), ", ".join(profile.absent)
    limit = f"{batch} pages" if batch else "none"
    who = "" if privileged is None else f", {CALLERS[privileged]}"
    migrating = [cpu] if isinstance(cpu, int) else cpu
    why = f" ({ran})" if ran else ""
    parts = [
        f"Assumed: {profile.name} ({profile.arch}, {nodes or profile.nodes} nodes, "
        f"{cpus or profile.cpus} CPUs)",
        f"target on CPUs {cpu_list(running)}{why}, lazy on {cpu_list(lazy)}",
        f"{_cpus(migrating)}{who}",
        f"batch limit {limit}" if batch is not None else "",
        f"copy {copy}" if copy is not None else "",
        f"contents {'carried' if content else 'not carried'}",
        f"costs: {n['measured']} measured, {n['published']} published, "
        f"{n['assumed']} assumed (jaxmig machines)",
        f"not in the profile, so nothing: {absent}" if absent else "",
        f"varied: {', '.join(varied)}" if varied else "",
    ]
    return "; ".join(part for part in parts if part)


def _cpus(migrating: Sequence[int]) -> str:
    several = len(migrating) > 1
    return f"CPU{'s' * several} {cpu_list(migrating)} migrate{'s' * (not several)}"


def compare(
    records: Sequence[Record],
    *,
    assumed: str,
    fmt: str = "simple",
    width: int | None = None,
    color: bool = False,
    detail: bool = False,
    why: Mapping[str, str] | None = None,
) -> str:
    """The assumptions in the first line, the answer, then a column for each record.

    Reductions and speed-ups are against the first record.  `compile_s` and `stolen_ns`
    are shown where records have them.

    Args:
      detail: also the parts of the time, the range of its inverse, and compiling.
      why: why pages may have failed, by kernel; see `answer`.

    Raises:
      ValueError: an unknown table format, or no records.
    """
    if not records:
        raise ValueError("nothing to compare: no records")
    headers = ["", *(f"{r['kernel']} {r['policy']}" for r in records)]
    rows = [
        [name, *map(show, records)]
        for name, show in _rows(records)
        if detail or not name.startswith(_DETAIL)
    ]
    for row in rows:
        if row[0] in ("IPI reduction", "speed-up"):
            row[:] = [bold(cell, color) for cell in row]
    said = "\n".join(answer(records, why))
    return f"{assumed}\n\n{said}\n\n{table(headers, rows, fmt, width)}"


def speedup(after: Record, before: Record) -> float | None:
    """The ratio of the rates in pages/s; None if one of the calls moved no page."""
    fast, slow = _pages_per_s(after), _pages_per_s(before)
    return fast / slow if fast and slow else None


def _rows(records: Sequence[Record]) -> list[tuple[str, Callable[[Record], str]]]:
    """The name of each row, and a function from a record to its cell."""
    first = records[0]

    def vm(key: str) -> Callable[[Record], str]:
        return lambda r: count(r["vmstat"][key])

    def phase(key: str) -> Callable[[Record], str]:
        return lambda r: duration(r["time_ns"][key])

    rows = [
        ("result", lambda r: r["errno"] or str(r["ret"])),
        ("pages moved", vm("pgmigrate_success")),
        ("pages failed", vm("pgmigrate_fail")),
        *_caller_rows(records),
        ("flush requests", vm("nr_tlb_remote_flush")),
        ("IPIs", lambda r: count(_ipis(r))),
        *_uneven(records),
        ("IPI reduction", lambda r: _against(r, first)),
        ("modelled time", phase("total")),
        ("modelled time, 80 % range", _time_range),
        *((f"modelled time, {key}", phase(key)) for key in _PHASES),
        ("longest stall of a page", _longest),
        ("modelled pages/s", lambda r: rate(_pages_per_s(r))),
        ("modelled pages/s, 80 % range", _rate_range),
        ("speed-up", lambda r: _speedup_cell(r, first)),
    ]
    if any("stolen_ns" in r for r in records):
        rows.append(
            ("taken from other CPUs", lambda r: duration(r.get("stolen_ns", 0)))
        )
    rows.append(("this computer: run", lambda r: seconds(r.get("wall_s"))))
    if any("compile_s" in r for r in records):
        rows.append(("this computer: compile", lambda r: seconds(r.get("compile_s"))))
    return rows


def _caller_rows(
    records: Sequence[Record],
) -> list[tuple[str, Callable[[Record], str]]]:
    """Rows that only kernel callers have: lists, pages dropped, errors."""
    rows = (("lists", "lists"), ("pages dropped", "reclaimed"))
    found: list[tuple[str, Callable[[Record], str]]] = [
        (name, lambda r, key=key: count(r.get(key, 0)))
        for name, key in rows
        if any(r.get(key) or (key == "lists" and key in r) for r in records)
    ]
    if any(r.get("caller_errno") for r in records):
        found.append(("caller reports", lambda r: r.get("caller_errno") or "-"))
    return found


def _uneven(records: Sequence[Record]) -> list[tuple[str, Callable[[Record], str]]]:
    """A row with the fewest and the most IPIs of a CPU, where they differ."""
    if all(len({n for n in r["ipis_per_cpu"] if n}) < 2 for r in records):
        return []
    return [("IPIs of one CPU", lambda r: _ends([n for n in r["ipis_per_cpu"] if n]))]


def _ends(counts: Sequence[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return count(high) if low == high else f"{count(low)} to {count(high)}"


def _ipis(record: Record) -> int:
    return int(sum(record["ipis_per_cpu"]))


def _against(record: Record, first: Record) -> str:
    return "-" if record is first else reduction(_ipis(record), _ipis(first))


def _speedup_cell(record: Record, first: Record) -> str:
    factor = None if record is first else speedup(record, first)
    return "-" if factor is None else f"{factor:.2f}x"


def _pages_per_s(record: Record, ns: float | None = None) -> float:
    time = record["time_ns"]["total"] if ns is None else ns
    return record["vmstat"]["pgmigrate_success"] / time * 1e9 if time else 0.0


def _longest(record: Record) -> str:
    return duration(record["stall_ns"]["max"]) if "stall_ns" in record else "-"


def _time_range(record: Record) -> str:
    ends = record.get("time_ns_range")
    return span(ends[0], ends[1], duration) if ends else "-"


def _rate_range(record: Record) -> str:
    ends = record.get("time_ns_range")
    if not ends:
        return "-"
    # The longest time gives the lowest rate.
    return span(_pages_per_s(record, ends[1]), _pages_per_s(record, ends[0]), rate)
