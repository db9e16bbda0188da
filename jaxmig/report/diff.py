"""The differences between two runs: their settings, then counts, then times.

Both are documents of `--json`.  Records are paired by kernel and by their position among
those of that kernel.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jaxmig.report.records import flatten
from jaxmig.report.units import count, cpu_list, duration, span

Document = Mapping[str, Any]
Row = tuple[str, str, str, str, str]
HEADERS: Final = ("kernel", "what", "before", "after", "change")
_TABLES: Final = ("vmstat", "time_ns", "nodes_after", "stall_ns")
_COUNTED: Final = (".vmstat", ".time_ns", ".nodes_after")
_CPUS: Final = ("running", "lazy", "left")
_SETTINGS: Final = {"batch": "batch limit", "cpu": "migrating CPU"}
_MOST: Final = 2**63  # of a count, and of ns
# Of this computer, or said by others.
_LEFT_OUT: Final = ("wall_s", "compile_s", "time_ns_causes", "time_ns_median", "status")
MOST_SAID: Final = 4  # sentences
_LONGEST: Final = 60  # of a setting, in characters
NAMES: Final = {
    "ret": "result",
    "errno": "error",
    "vmstat.pgmigrate_success": "pages moved",
    "vmstat.pgmigrate_fail": "pages failed",
    "vmstat.thp_migration_success": "THPs moved",
    "vmstat.thp_migration_fail": "THPs failed",
    "vmstat.thp_migration_split": "THPs split",
    "vmstat.nr_tlb_remote_flush": "flush requests",
    "vmstat.nr_tlb_remote_flush_received": "IPIs",
    "vmstat.nr_tlb_local_flush_all": "flushes of its own TLB",
    "vmstat.nr_tlb_local_flush_one": "flushes of one page of its own TLB",
    "allocs": "folios allocated",
    "requested": "folios on the lists",
    "shared_stay": "pages that stay, mapped more than once",
    "copies_wasted": "folios copied for nothing",
    "time_ns.total": "modelled time",
    "time_ns_range": "modelled time, 80 % range",
    "stall_ns.max": "longest stall of a page",
    "stall_ns.p99": "stall of 99 of 100 pages",
    "stall_ns.p50": "stall of half of the pages",
    "stolen_ns": "taken from other CPUs",
}


def check(document: Document) -> None:
    """Whether every cell is one that `--json` may have written.

    Raises:
      ValueError: for the first that is not, with its name.
    """
    for number, r in enumerate(_calls(document)):
        _check_cells(f"calls[{number}]", r)
        if not isinstance(r.get("kernel"), str):
            raise ValueError(f"calls[{number}].kernel is no name of a release")
    for part in ("target", "machine", "asked"):
        if not isinstance(document.get(part) or {}, dict):
            raise ValueError(f"{part} is no table")
        _check_cells(part, document.get(part) or {})


def _check_cells(where: str, table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        at = f"{where}.{name[:40]}"
        whole = isinstance(value, int) and not isinstance(value, bool)
        counts = isinstance(value, list) and all(type(x) is int for x in value)
        if name in _TABLES and not isinstance(value, dict):
            raise ValueError(f"{at} is {_kind(value)}, not a table")
        if name == "ipis_per_cpu" and not (counts and min(value, default=0) >= 0):
            raise ValueError(f"{at} is {_kind(value)}, not a list of counts")
        counted = where.startswith("calls[") and where.endswith(_COUNTED)
        if counted and not (whole and value >= 0):
            raise ValueError(f"{at} is {_kind(value)}, not a count")
        for cell in value if isinstance(value, list) else [value]:
            _check_cell(at, cell)


def _check_cell(at: str, cell: Any) -> None:
    if isinstance(cell, dict):
        _check_cells(at, cell)
    elif isinstance(cell, int | float):
        if not abs(cell) < _MOST:  # nor is NaN
            raise ValueError(f"{at} is {cell!s:.20}, beyond what is counted")
    elif not isinstance(cell, str | None):
        raise ValueError(f"{at} holds {_kind(cell)}")


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"


def differences(before: Document, after: Document) -> tuple[list[str], list[Row]]:
    """The settings that differ, a line each, and the fields that do, counts first.

    Raises:
      ValueError: no document of `--json`, or no kernel that both have.
    """
    old, new = (_records(d) for d in (before, after))
    shared = [key for key in old if key in new]
    if not shared:
        raise ValueError("no kernel is in both; run both with the same --kernel")
    lines = list(_reasons(before, after))
    for name, some, other in (("first", old, new), ("second", new, old)):
        only = dict.fromkeys(kernel for kernel, i in some if (kernel, i) not in other)
        if only:
            lines.append(f"Only in the {name}: {', '.join(only)}.")
    rows = [row for key in shared for row in _rows(key[0], old[key], new[key])]
    return lines, rows


def _calls(document: Document) -> list[Mapping[str, Any]]:
    calls = document.get("calls")
    if not isinstance(calls, list) or not all(isinstance(c, dict) for c in calls):
        raise ValueError("no result of --json: it has no list of calls")
    return calls


def _records(document: Document) -> dict[tuple[str, int], Mapping[str, Any]]:
    calls = _calls(document)
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    times: dict[str, int] = {}
    for r in calls:
        kernel = str(r.get("kernel"))
        found[kernel, times.get(kernel, 0)] = r
        times[kernel] = times.get(kernel, 0) + 1
    return found


def _reasons(before: Document, after: Document) -> Iterator[str]:
    """The settings of the two runs that differ, a line each."""
    parts = ["jaxmig", "scenario", "target", "machine"]
    silent = [n for n, d in (("first", before), ("second", after)) if "asked" not in d]
    for name in silent:
        yield f"The {name} does not say all that was asked for; write it again."
    for part in parts if silent else (*parts, "asked"):
        old, new = ({part: d.get(part)} for d in (before, after))
        a, b = flatten(old), flatten(new)
        for key in dict.fromkeys((*a, *b)):
            if a.get(key) != b.get(key) and {} not in (a.get(key), b.get(key)):
                name = key.removeprefix(f"{part}.")
                name = _SETTINGS.get(name, name)
                yield from _reason(name, a.get(key), b.get(key))


def _reason(name: str, old: Any, new: Any) -> Iterator[str]:
    """How a setting differs; of lists of words what only one of them has."""
    cpus = name.rpartition(".")[2] in _CPUS
    if not cpus and any(isinstance(x, list) for x in (old, new)):
        was, now = ([_item(x) for x in some or ()] for some in (old, new))
        for word, some, other in (("no longer", was, now), ("now", now, was)):
            if only := [x for x in some if x not in other]:
                yield f"{word} {name}: {'; '.join(only)}"
    else:
        was, now = ("not given" if x is None else _short(x) for x in (old, new))
        yield f"{name}: {was} -> {now}"


def _short(value: Any) -> str:
    said = _said(value)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."


def _item(value: Any) -> str:
    if isinstance(value, dict):
        return ": ".join(map(str, value.values()))
    return str(value)


def _said(value: Any) -> str:
    if isinstance(value, list):
        return f"CPUs {cpu_list(value)}" if value else "none"
    return "nothing" if value is None else str(value)


def _rows(kernel: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Row]:
    a, b = (_counted(r) for r in (old, new))
    names = [n for n in dict.fromkeys((*a, *b)) if a.get(n) != b.get(n)]
    timed = [n for n in names if n.startswith(("time_ns", "stall_ns", "stolen_ns"))]
    counts = [n for n in names if n not in timed]
    return [
        (kernel, _named(n), *_change(n, a.get(n), b.get(n))) for n in (*counts, *timed)
    ]


def _named(field: str) -> str:
    """A field as the table of `migratepages` names it."""
    head, _, last = field.partition(".")
    if head == "nodes_after":
        return f"pages on node {last} afterwards"
    if head == "time_ns" and field not in NAMES:
        return f"modelled time, {last}"
    return NAMES.get(field, field)


def _counted(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record; interrupts by CPU as their sum and their maximum."""
    flat = flatten({k: v for k, v in record.items() if k not in _LEFT_OUT})
    by = flat.pop("ipis_per_cpu", None)
    if isinstance(by, list) and by:
        flat["IPIs of the CPU with most"] = max(by)
    ends = flat.get("time_ns_range")
    if isinstance(ends, list) and len(ends) == 2:
        flat["time_ns_range"] = span(ends[0], ends[1], duration)
    return flat


def _change(name: str, old: Any, new: Any) -> tuple[str, str, str]:
    numbers = [
        isinstance(x, int | float) and not isinstance(x, bool) for x in (old, new)
    ]
    show = duration if "_ns" in name else count
    said = [
        show(x) if number else _said(x)
        for x, number in zip((old, new), numbers, strict=True)
    ]
    if not all(numbers):
        return said[0], said[1], ""
    if name.startswith("nodes_after"):
        return said[0], said[1], f"{new - old:+,}"
    if abs(new) >= 10 * abs(old) > 0:
        return said[0], said[1], f"{new / old:.3g} times"
    return said[0], said[1], f"{100 * (new - old) / old:+.1f} %" if old else "new"


def answer(before: Document, after: Document) -> list[str]:
    """What changed in time, stalls and pages, a sentence a call.

    Raises:
      ValueError: as `differences`.
    """
    lines, rows = differences(before, after)
    if not rows:
        return ["No count and no modelled time differs."]
    old, new = (_records(d) for d in (before, after))
    shared = [key for key in old if key in new]
    several = any(i for _, i in shared)
    said = []
    for kernel, i in shared:
        parts = _sentence(old[kernel, i], new[kernel, i])
        name = f"{kernel}, call {i + 1}" if several else kernel
        said.append(f"{name}: {', '.join(parts)}.")
    if len(said) > MOST_SAID:
        said[MOST_SAID:] = [f"{len(said) - MOST_SAID} more are in the table."]
    return said if lines else [*said, "The same was asked for."]


def _sentence(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    a, b = flatten(dict(old)), flatten(dict(new))
    for field, what in (
        ("time_ns.total", ""),
        ("stall_ns.max", "a page waits up to "),
        ("vmstat.pgmigrate_success", "pages moved: "),
        ("vmstat.pgmigrate_fail", "pages failed: "),
        ("errno", "error: "),
    ):
        if a.get(field) == b.get(field):
            known = a.get(field) and not field.startswith(("stall", "errno"))
            if known:
                yield f"{what}{_change(field, a[field], b[field])[1]} as before"
            continue
        was, now, change = _change(field, a.get(field), b.get(field))
        percent = f" ({change})" if change.endswith("%") and not what else ""
        yield f"{what}{now} instead of {was}{percent}"
