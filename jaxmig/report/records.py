"""Result records: plain dicts made from counts and costs, to JSON and CSV and back.

A record has the results of one call on one kernel release.  In CSV nested names are
joined by dots, a list is one cell of JSON, a null value is `null`, and an empty cell
means that the record has no such field.
"""

import csv
import errno as errnos
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from jaxmig.report.window import away, folios_a_batch
from jaxmig.time.cost import Cost

Record = dict[str, Any]
VMSTAT: Final = (
    *("pgmigrate_success", "pgmigrate_fail"),
    *("thp_migration_success", "thp_migration_fail", "thp_migration_split"),
    *("nr_tlb_remote_flush", "nr_tlb_remote_flush_received"),
    *("nr_tlb_local_flush_all", "nr_tlb_local_flush_one"),
)
# Always text, also if a cell looks like a number: release "6.10" is not 6.1.
_TEXT: Final = ("kernel", "policy", "syscall", "errno", "error", "scenario")


def record(
    *,
    kernel: str,
    policy: str,
    syscall: str,
    ret: int,
    counts: Mapping[str, int],
    ipis_per_cpu: Sequence[int],
    nodes_after: Mapping[str, int],
    cost: Cost,
    wall_s: float,
    batch: int = 512,
    status: Sequence[int | None] | None = None,
    **extra: Any,
) -> Record:
    """The record of one call.

    Args:
      kernel: the release.
      policy: "serial" or "batched".
      syscall: its name, or "kernel".
      ret: what the kernel function returns; a negative errno becomes -1 and its name.
      counts: the counters of the call, by name; received flushes are taken from
        `ipis_per_cpu`.
      ipis_per_cpu: shootdown interrupts that each CPU took.
      nodes_after: base pages of the process by node.
      cost: of the counts.
      wall_s: s that this computer took after compilation.
      batch: base pages at which a batch was closed; 0 for no limit.
      status: of move_pages only; left out if None.
      extra: further fields, such as compile_s.
    Returns:
      The fields, times in ns.
    """
    made: Record = {
        "kernel": kernel,
        "policy": policy,
        "syscall": syscall,
        "ret": -1 if ret < 0 else int(ret),
        "errno": errnos.errorcode.get(-ret, str(-ret)) if ret < 0 else None,
        "vmstat": _vmstat(counts, ipis_per_cpu),
        "ipis_per_cpu": [int(n) for n in ipis_per_cpu],
        "batches": int(counts["batches"]),
        "allocs": int(counts["allocs"]),
        "copies_wasted": int(counts.get("copies_lost", 0)),
    }
    if status is not None:
        made["status"] = list(status)
    made["nodes_after"] = {str(n): int(pages) for n, pages in nodes_after.items()}
    made["time_ns"] = cost.time_ns
    if cost.time_ns_range is not None:
        made["time_ns_range"] = cost.time_ns_range
        made["time_ns_median"] = cost.median
        made["time_ns_causes"] = [
            {"cost": key, "percent": round(100 * share, 1)}
            for key, share in cost.causes
        ]
    made["stall_ns"] = _stalls(made["vmstat"], counts, cost, batch)
    made["stolen_ns"] = cost.stolen
    made["wall_s"] = float(wall_s)
    return made | extra


def _stalls(
    vmstat: Mapping[str, int], counts: Mapping[str, int], cost: Cost, batch: int
) -> Record:
    """How long pages are away from their process; see `away`."""
    folios, pages = counts.get("folios_moved", 0), vmstat["pgmigrate_success"]
    full = folios_a_batch(batch, folios, pages)
    w = away(cost.places, folios, counts["batches"], full)
    return {"p50": w.p50, "p99": w.p99, "max": w.most}


def _vmstat(counts: Mapping[str, int], ipis_per_cpu: Sequence[int]) -> dict[str, int]:
    vmstat = {key: int(counts.get(key, 0)) for key in VMSTAT}
    vmstat["nr_tlb_remote_flush_received"] = sum(int(n) for n in ipis_per_cpu)
    return vmstat


def document(
    version: str,
    scenario: str | None,
    machine: Mapping[str, Any],
    calls: Iterable[Mapping[str, Any]],
) -> Record:
    """The document of `--json` for one scenario.

    Args:
      version: of jaxmig.
      scenario: path of its file; None without one.
      machine: from `machine_dict`.
      calls: records.
    Returns:
      Plain data.
    """
    calls = [dict(call) for call in calls]
    return {
        "jaxmig": version,
        "scenario": scenario,
        "machine": dict(machine),
        "calls": calls,
    }


def error_document(scenario: str, line: str) -> Record:
    """The document of a scenario that failed with the error `line`."""
    return {"scenario": scenario, "error": line}


def to_json(doc: Mapping[str, Any], indent: int | None = None) -> str:
    """One line of JSON (or indented), without a final newline; arrays become lists.

    Raises:
      ValueError: a NaN or an infinity, which JSON does not have.
    """
    return json.dumps(doc, indent=indent, allow_nan=False, default=_plain)


def to_csv(records: Iterable[Mapping[str, Any]]) -> str:
    """Records as CSV with a header; columns in the order in which fields first come."""
    rows = [flatten(made) for made in records]
    if not rows:
        return ""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(c, row[c]) if c in row else "" for c in columns])
    return out.getvalue()


def from_csv(text: str) -> list[Record]:
    """The records that `to_csv` wrote."""
    records = []
    for row in csv.DictReader(io.StringIO(text)):
        flat = {key: _value(key, cell) for key, cell in row.items() if cell}
        records.append(unflatten(flat))
    return records


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Record:
    """Nested names joined by dots; an empty mapping stays one empty value."""
    flat: Record = {}
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Record:
    """The inverse of `flatten`."""
    made: Record = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        inner = made
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return made


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        # Quoted only if it would be read back as another value.
        return value if column in _TEXT or _value("", value) == value else _json(value)
    return _json(value)


def _value(column: str, cell: str) -> Any:
    if column in _TEXT:
        return None if cell == "null" else cell
    try:
        return json.loads(cell)
    except json.JSONDecodeError:
        return cell


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """Arrays and their scalars, of any library, as lists and numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
